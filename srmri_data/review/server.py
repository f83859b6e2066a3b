"""Serve the review page until it is stopped."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

import uvicorn

from srmri_data.errors import UsageError
from srmri_data.review.app import create_app
from srmri_data.review.images import ReviewImages
from srmri_data.review.sitting import SittingConfig
from srmri_data.run_folder import open_run
from srmri_data.store import ReviewStore, reviewer_name

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    run: Path,
    *,
    port: int = 0,
    sources: Path | None = None,
    open_browser: bool = True,
    json_output: bool = False,
    allow_remote: bool = False,
    host: str = "127.0.0.1",
    reviewer: str | None = None,
    config: SittingConfig | None = None,
    seed: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> None:
    """Serve the review page of a run until SIGTERM or SIGINT.

    The address to open is written to `stdout` once the server listens; it works once.

    Parameters
    ----------
    run : Path
        Run folder.
    port : int
        Port to listen on; 0 takes any free one.
    sources : Path, optional
        Folder that holds the scans now, when they have moved.
    open_browser : bool
        Open the page in the default browser.
    json_output : bool
        Write the address as one line of JSON, ``{"url": …}``.
    allow_remote : bool
        Listen on `host` even if other computers can reach it.
    host : str
        Address to listen on.
    reviewer : str, optional
        Reviewer to begin with; otherwise the page asks.
    config : SittingConfig, optional
        Blind without trials by default.
    seed : int, optional
        Seed of orders and trials, when the review begins.
    progress : callable, optional
        Called as ``progress(stage, done, total)`` while the scans are read.
    stdout, stderr : text file, optional
        Where the address and hints go; the process's own by default.

    Raises
    ------
    UsageError
        If `host` is not this computer alone and `allow_remote` is not given, or the port
        is taken.
    InputError
        If the run, its scans or its decisions can not be read.
    """
    stdout, stderr = stdout or sys.stdout, stderr or sys.stderr
    if host not in _LOOPBACK and not allow_remote:
        raise UsageError(
            f"--host {host} would let other computers reach the page",
            hint="use an SSH tunnel to 127.0.0.1 instead, or add --allow-remote",
        )
    reviewer = None if reviewer is None else reviewer_name(reviewer)
    opened = open_run(run)
    with contextlib.closing(_listen(host, port)) as listener:
        port = listener.getsockname()[1]
        store = ReviewStore.open(run, seed=seed)
        images = ReviewImages.open(opened, sources=sources, progress=progress)
        token = secrets.token_urlsafe(32)
        remote = host not in _LOOPBACK
        app = create_app(
            run,
            store=store,
            images=images,
            token=token,
            allowed_hosts=_host_headers(host, port, remote=remote),
            reviewer_default=reviewer,
            config=config,
            # Browsers share cookies between the ports of a host.
            cookie=f"srmri_session_{port}",
            any_address=remote,
        )
        url = f"http://{_shown_host(host)}:{port}/auth?token={token}"

        def announce() -> None:
            stderr.write(_advice(port, remote=remote, allow_remote=allow_remote))
            stderr.flush()
            stdout.write(json.dumps({"url": url}) + "\n" if json_output else f"{url}\n")
            stdout.flush()
            if open_browser:
                # Some browsers keep the caller until they close.
                threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

        _Server(_config(app), announce).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn that says when it listens, and to which a signal is a normal end."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            # A second one does not wait for requests to finish.
            self.force_exit = self.should_exit
            self.should_exit = True

        former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def _config(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        # No access log: addresses hold the token.
        access_log=False,
        log_level="warning",
        lifespan="off",
        ws="none",
        http="h11",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=128)
        # asyncio leaves this out where a socket does not name its protocol, and then every small
        # answer waits 40 ms for the browser's acknowledgement. Connections inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"can not listen on {_shown_host(host)}:{port}: {error}",
            hint="choose another --port; 0 takes any free one",
        ) from error


def _shown_host(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 -- compared, not bound
        host = socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _host_headers(host: str, port: int, *, remote: bool) -> list[str]:
    names = {"127.0.0.1", "localhost", "[::1]"}
    if remote:
        names |= {_shown_host(host), socket.gethostname(), socket.getfqdn()}
    return [f"{name}:{port}" for name in sorted(names)]


def _advice(port: int, *, remote: bool, allow_remote: bool) -> str:
    text = "The address works once. Stop with Ctrl+C; every decision is already saved.\n"
    if remote:
        return text + (
            "warning: other computers can reach this page, and what it sends is not encrypted. "
            "Whoever has the address can decide. Prefer an SSH tunnel.\n"
        )
    if allow_remote:
        text += (
            "warning: --allow-remote does nothing without --host; only this computer is let in.\n"
        )
    return text + (
        f"From another computer: ssh -L {port}:127.0.0.1:{port} THIS-COMPUTER, "
        "then open the address there.\n"
    )
