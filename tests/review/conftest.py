"""A small run under review, its server, and a browser to look at it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import pytest
from asgi_client import call
from export_runs import pair

from srmri_data.review import ReviewImages, create_app
from srmri_data.run_folder import REVIEW_DATABASE, open_run, read_pairs, write_pairs
from srmri_data.store import ReviewStore

PROJECT = Path(__file__).resolve().parents[2]

# QUIC and the services Chromium talks to on its own are off; `*.test` is this machine, so that
# a test can have origins of its own. Newer Chromium keeps public pages from local servers by
# itself; that is off, because older browsers do not, and the server must hold alone.
CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets",
    "--host-resolver-rules=MAP *.test 127.0.0.1",
)


@pytest.fixture(scope="session")
def reviewable(tiny_pair, tmp_path_factory) -> Path:
    """A run with a queue; session-wide, so tests work on copies."""
    place = tmp_path_factory.mktemp("reviewable") / "run"
    run = pair(tiny_pair.low, tiny_pair.high, place, voters=("pca", "ssim"))
    # What the voters leave open here are mostly empty slices; a dozen with anatomy is to be
    # reviewed instead.
    queue_slices(run, range(24, 36))
    return run


def queue_slices(run: Path, low_slices: Iterable[int]) -> None:
    """Make the queue of a run what a test wants."""
    pairs = read_pairs(run)
    queued = pairs["lr_slice"].isin(list(low_slices))
    assert not pairs.loc[queued, "empty"].any()
    pairs["status"] = pairs["auto_status"] = queued.map({True: "review", False: "auto"})
    write_pairs(run, pairs)


@pytest.fixture(scope="session")
def set_queue() -> Callable[..., None]:
    """`queue_slices`, for tests with a run of their own."""
    return queue_slices


@pytest.fixture(scope="session")
def copy_run(reviewable, tmp_path_factory) -> Callable[[], Path]:
    """Make a fresh copy of the run; it lies as deep as the original, so its scans are found."""

    def copy() -> Path:
        assert not (reviewable / REVIEW_DATABASE).exists(), "a test worked on the original"
        return Path(shutil.copytree(reviewable, tmp_path_factory.mktemp("review") / "run"))

    return copy


@dataclass(frozen=True)
class Review:
    """An application in this process, with a session already open."""

    app: Any
    store: ReviewStore
    cookie: str


@pytest.fixture(scope="session")
def review_images(reviewable) -> ReviewImages:
    """The run's pictures, read once."""
    return ReviewImages.open(open_run(reviewable))


@pytest.fixture(scope="session")
def make_app(copy_run, review_images) -> Callable[..., Review]:
    """Build the application over a fresh copy of the run, for one Host header."""

    def make(
        *hosts: str, run: Path | None = None, reviewer: str | None = None, token: str = "t" * 43
    ) -> Review:
        run = run or copy_run()
        store = ReviewStore.open(run)
        app = create_app(
            run,
            store=store,
            images=review_images,
            token=token,
            allowed_hosts=hosts,
            reviewer_default=reviewer,
        )
        answer = call(app, "GET", f"/auth?token={token}", [("Host", hosts[0])])
        assert answer.status == 303
        return Review(app, store, answer.headers["set-cookie"].split(";")[0])

    return make


@dataclass(frozen=True)
class Server:
    """A review server in a process of its own.

    `login_url` is the address it printed, good for one use; `cookies` are of a session that
    used it.
    """

    run: Path
    process: subprocess.Popen[str]
    login_url: str
    errors: Path
    cookies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def port(self) -> int:
        """The port it chose."""
        return urlsplit(self.login_url).port or 0

    @property
    def origin(self) -> str:
        """Its own origin."""
        return f"http://127.0.0.1:{self.port}"

    def request(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request over a real socket; nothing is added to the headers but Host."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, target, body.encode() or None, headers or {})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def log_in(self) -> str:
        """Use the printed address and return the cookie header."""
        url = urlsplit(self.login_url)
        status, headers, _ = self.request("GET", f"{url.path}?{url.query}")
        assert status == 303, status
        name, value = headers["set-cookie"].split(";")[0].split("=", 1)
        self.cookies.append(
            {
                "name": name, "value": value, "domain": "127.0.0.1", "path": "/",
                "httpOnly": True, "sameSite": "Strict",
            }
        )  # fmt: skip
        return f"{name}={value}"

    def get_json(self, target: str) -> Any:
        """Read from its API with the session's cookie."""
        (cookie,) = self.cookies
        status, _, body = self.request(
            "GET", target, {"Cookie": f"{cookie['name']}={cookie['value']}"}
        )
        assert status == 200, body
        return json.loads(body)

    def events(self) -> list[Any]:
        """Every event that was saved, oldest first."""
        return list(ReviewStore.open(self.run).events())


@contextmanager
def running(run: Path, *options: str) -> Iterator[Server]:
    """Serve a run the way the command line does, on a port it chooses, until the block ends."""
    errors = run.parent / "stderr.txt"
    with errors.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "cli", "review", str(run),
                "--port", "0", "--no-browser", "--json", *options,
            ],
            cwd=PROJECT, stdout=subprocess.PIPE, stderr=stream, text=True,
        )  # fmt: skip
    try:
        yield Server(run, process, _announced(process.stdout, errors), errors)
    finally:
        process.terminate()
        process.wait(timeout=20)
        if process.stdout is not None:
            process.stdout.close()


def _announced(stdout: IO[str] | None, errors: Path) -> str:
    line = stdout.readline() if stdout is not None else ""
    if not line:
        pytest.fail(f"the server did not start: {errors.read_text(encoding='utf-8')}")
    return str(json.loads(line)["url"])


@pytest.fixture(scope="session")
def serving() -> Callable[..., Any]:
    """`running`: a server of the test's own."""
    return running


@pytest.fixture(scope="session")
def server(copy_run) -> Iterator[Server]:
    """One server for every test that brings its own reviewer: reviewers do not see each other."""
    with running(copy_run()) as server:
        server.log_in()
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright; the test is skipped where it is absent."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    # A proxy of the environment must not see what is said to this machine.
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=path, args=list(CHROMIUM), env=environment
        )
        yield chromium
        chromium.close()


@pytest.fixture
def new_window(browser, server) -> Iterator[Callable[..., Any]]:
    """Open browser windows that are logged in.

    Whatever a test does in them: no request leaves this machine, and no script fails.
    """
    windows, asked, failures = [], [], []

    def log(message: Any) -> None:
        if "Content Security Policy" in message.text:
            failures.append(message.text)

    def open_window(at: Server | None = None, **options: Any) -> Any:
        window = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        windows.append(window)
        window.add_cookies((at or server).cookies)
        window.on("request", lambda request: asked.append(urlsplit(request.url)))
        window.on("weberror", lambda error: failures.append(str(error.error)))
        window.on("console", log)
        return window

    yield open_window
    for window in windows:
        window.close()
    assert windows == [] or asked != []
    assert {(url.scheme, url.hostname) for url in asked} <= {
        ("http", "127.0.0.1"), ("blob", None), ("data", None),
    }  # fmt: skip
    assert failures == []


@pytest.fixture
def open_page(new_window, server) -> Callable[..., Any]:
    """Open the page as a reviewer and wait until the first item is drawn."""

    def open_as(
        reviewer: str, *, within: Any = None, at: Server | None = None, **options: Any
    ) -> Any:
        page = (within or new_window(at, **options)).new_page()
        page.set_default_timeout(10_000)
        page.goto((at or server).origin + "/")
        page.wait_for_function(
            "() => document.querySelector('#reviewer').open || document.body.dataset.ready"
        )
        # A browser remembers who reviewed last.
        if page.locator("#reviewer").is_visible():
            page.fill("#reviewer-name", reviewer)
            page.click("#reviewer-start")
        page.wait_for_selector("body[data-ready='1']")
        return page

    return open_as
