"""Starting, opening and stopping the server."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from srmri_data.review.server import _listen

PROJECT = Path(__file__).resolve().parents[2]


def test_it_prints_one_line_listens_on_loopback_and_stops_cleanly(copy_run, serving):
    with serving(copy_run()) as server:
        url = urlsplit(server.login_url)
        assert (url.hostname, url.path) == ("127.0.0.1", "/auth")
        cookie = server.log_in()
        assert server.request("GET", "/", {"Cookie": cookie})[0] == 200
        # Other addresses of this machine do not answer.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", server.port), 2)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=10) == 0
        assert time.monotonic() - started < 5
        assert server.process.stdout.read() == ""
        assert "Traceback" not in server.errors.read_text(encoding="utf-8")


def test_small_answers_are_sent_at_once():
    with _listen("127.0.0.1", 0) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_sigterm_stops_it_while_a_browser_is_connected(copy_run, serving):
    with (
        serving(copy_run()) as server,
        socket.create_connection(("127.0.0.1", server.port)) as idle,
    ):
        idle.sendall(b"GET / HTTP/1.1\r\n")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=15) == 0


def test_the_token_works_once_and_is_written_nowhere(copy_run, serving):
    with serving(copy_run()) as server:
        url = urlsplit(server.login_url)
        token = url.query.removeprefix("token=")
        assert len(token) >= 32
        target = f"{url.path}?{url.query}"
        status, headers, _ = server.request("GET", target)
        assert (status, headers["location"]) == (303, "/")
        attributes = {part.strip().lower() for part in headers["set-cookie"].split(";")[1:]}
        assert {"httponly", "samesite=strict", "path=/"} <= attributes
        assert token not in headers["set-cookie"]
        secret = headers["set-cookie"].split(";")[0].split("=", 1)[1]
        status, headers, body = server.request("GET", target)
        assert (status, "set-cookie" in headers) == (403, False)
        assert token.encode() not in body
        command = Path(f"/proc/{server.process.pid}/cmdline")
        if command.exists():
            assert token.encode() not in command.read_bytes()
            assert token.encode() not in command.with_name("environ").read_bytes()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(timeout=10)
        log = server.errors.read_text(encoding="utf-8")
        for canary in (token, secret):
            assert canary not in log
            for file in server.run.rglob("*"):
                assert not file.is_file() or canary.encode() not in file.read_bytes(), file


def test_head_does_not_use_up_the_token(copy_run, serving):
    # Mail scanners and chat previews ask first.
    with serving(copy_run()) as server:
        url = urlsplit(server.login_url)
        server.request("HEAD", f"{url.path}?{url.query}")
        server.log_in()


def test_cookies_of_neighbours_do_not_lock_the_reviewer_out(copy_run, serving):
    # Every program on 127.0.0.1 shares one cookie jar, whatever its port.
    with serving(copy_run()) as server:
        cookie = server.log_in()
        for neighbour in ('state={"a": [1, 2]}', "x=a b c", "=", "token=%", "a[1]=2", 'q="un'):
            for header in (f"{neighbour}; {cookie}", f"{cookie}; {neighbour}"):
                assert server.request("GET", "/", {"Cookie": header})[0] == 200, header


def test_two_reviews_side_by_side_do_not_log_each_other_out(copy_run, serving):
    with serving(copy_run()) as one, serving(copy_run()) as two:
        one.log_in(), two.log_in()
        both = "; ".join(
            {c["name"]: f"{c['name']}={c['value']}" for c in one.cookies + two.cookies}.values()
        )
        assert one.request("GET", "/", {"Cookie": both})[0] == 200
        assert two.request("GET", "/", {"Cookie": both})[0] == 200


def test_a_browser_logs_in_with_the_printed_address(browser, copy_run, serving):
    with serving(copy_run()) as server:
        window = browser.new_context()
        page = window.new_page()
        page.goto(server.login_url)
        page.wait_for_selector("#reviewer-name")
        # The token is not left in the address bar, nor in what scripts can read.
        assert page.url == server.origin + "/"
        assert page.evaluate("document.cookie") == ""
        assert "token" not in page.content()
        stranger = browser.new_context()
        other = stranger.new_page()
        assert other.goto(server.login_url).status == 403
        assert other.goto(server.origin + "/").status == 401
        window.close()
        stranger.close()


def test_it_works_through_a_tunnel_with_the_same_port(copy_run, serving):
    # `ssh -L 8765:127.0.0.1:8765` arrives as localhost or 127.0.0.1 with the same port.
    with serving(copy_run()) as server:
        cookie = server.log_in()
        for host in (f"localhost:{server.port}", f"127.0.0.1:{server.port}"):
            assert server.request("GET", "/", {"Cookie": cookie, "Host": host})[0] == 200
        other = f"localhost:{server.port + 1}"
        assert server.request("GET", "/", {"Cookie": cookie, "Host": other})[0] in (400, 421)


def test_another_address_needs_allow_remote(copy_run):
    done = subprocess.run(
        [
            sys.executable, "-m", "cli", "review", str(copy_run()), "--host", "0.0.0.0",
            "--port", "0", "--no-browser", "--json",
        ],
        cwd=PROJECT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--allow-remote" in done.stderr
    assert done.stdout == ""


def test_allow_remote_warns_and_still_wants_the_token(copy_run, serving):
    with serving(copy_run(), "--allow-remote", "--host", "0.0.0.0") as server:
        assert server.request("GET", "/")[0] == 401
        assert server.request("GET", "/", {"Host": f"evil.test:{server.port}"})[0] in (400, 421)
        assert re.search(r"warning", server.errors.read_text(encoding="utf-8"), re.IGNORECASE)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"POST /api/decision HTTP/1.1\r\nHost: HOST\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST /api/decision HTTP/1.1\r\nHost: HOST\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/decision HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Length: 3\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ],
)
def test_broken_requests_are_refused_and_the_server_lives_on(server, raw):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(raw.replace(b"HOST", f"127.0.0.1:{server.port}".encode()))
        answer = connection.recv(4096)
    assert answer == b"" or re.match(rb"HTTP/1\.1 4\d\d ", answer), answer[:80]
    assert json.dumps(server.get_json("/api/run"))
