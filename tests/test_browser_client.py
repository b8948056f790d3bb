"""docs/client.js, in the real browser, on the real gateway: it stays connected, and knows when to stop."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jwt
import pytest
from playwright.sync_api import Browser, Page

from tests.browser import CHROMIUM
from tests.demo_helpers import ROOT, Demo, environment

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

CLIENT = (ROOT / "docs" / "client.js").read_text()
CONNECT = """async ([path, options]) => {
  const { GatewaySocket } = await import("/docs/client.js");
  window.told = { open: 0, messages: [], retries: [], end: null };
  window.client = new GatewaySocket(path, {
    token: () => window.giveToken(),
    onopen: () => { told.open += 1; },
    onmessage: (data) => { told.messages.push(data); },
    onretry: (why) => { told.retries.push(why); },
    onend: (why) => { told.end = why; },
    ...options,
  });
}"""


class Frontend:
    """A page of the gateway's own origin that uses the client.

    Attributes:
        lifetimes: Seconds of the tokens to come; 300 behind the last.
        secret: That tokens are signed with.
        given: The tokens so far.
        urls: Of the WebSockets so far.
    """

    def __init__(self, page: Page, demo: Demo) -> None:
        self.page, self.demo = page, demo
        self.lifetimes: list[float] = []
        self.secret = (demo.data / "jwt-secret").read_text()
        self.given: list[str] = []
        self.urls: list[str] = []
        page.on("websocket", lambda socket: self.urls.append(socket.url))
        page.expose_function("giveToken", self._token)
        page.route("**/docs/client.js", lambda route: route.fulfill(body=CLIENT, content_type="text/javascript"))

    def _token(self) -> str:
        now = time.time()
        lifetime = self.lifetimes.pop(0) if self.lifetimes else 300
        claims = {"user_id": 7, "email": "", "role": "user", "iat": int(now), "exp": int(now + lifetime)}
        self.given.append(jwt.encode(claims | {"jti": str(len(self.given))}, self.secret, algorithm="HS256"))
        return self.given[-1]

    def connect(self, path: str, **options: Any) -> None:
        self.page.evaluate(CONNECT, [path, options])

    def until(self, condition: str) -> None:
        self.page.wait_for_function(condition, timeout=30_000)

    def told(self, what: str) -> Any:
        return self.page.evaluate(f"told.{what}")


@pytest.fixture
def frontend(browser: Browser, demo: Demo) -> Iterator[Frontend]:
    """With delays of a thousandth; afterwards, nothing was raised that nobody caught."""
    page = browser.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.add_init_script("Math.random = () => 0.001")
    frontend = Frontend(page, demo)
    page.goto(f"http://127.0.0.1:{demo.port}/health/live")  # any page that comes from there, without a policy
    yield frontend
    page.close()
    assert faults == []


def command(demo: Demo, *arguments: str) -> None:
    """A command of `manage.py` on the demo's database."""
    subprocess.run(
        [sys.executable, "-m", "demo", *arguments],
        cwd=ROOT, env=environment(demo.data, demo.port), check=True, capture_output=True, timeout=60,
    )  # fmt: skip


@contextmanager
def changed(demo: Demo, before: str, after: str) -> Iterator[None]:
    """The demo's configuration with another text in it, until the block ends."""
    file = demo.data / "gateway.toml"
    usual = file.read_text()
    assert before in usual
    try:
        file.write_text(usual.replace(before, after))
        command(demo, "import_config", str(file))
        yield
    finally:
        file.write_text(usual)
        command(demo, "import_config", str(file))


def test_it_connects_with_a_ticket(frontend: Frontend) -> None:
    """No token in the URL, and the path's own query stays; `close` is the end."""
    frontend.connect("/ws?room=1", protocols=["demo.v1"])
    frontend.until("told.messages.length === 1")
    (url,) = frontend.urls
    assert re.search(r"/ws\?room=1&ticket=[^&]+$", url)
    assert frontend.given[0] not in url
    assert frontend.page.evaluate("client.send('hello')")
    frontend.until("told.messages[1] === 'hello'")
    frontend.page.evaluate("client.close(1000, 'the user left')")
    frontend.until("told.end")
    assert frontend.told("end") == {"code": 1000, "reason": "the user left"}
    assert not frontend.page.evaluate("client.send('too late')")


def test_it_renews_its_token_in_time(frontend: Frontend) -> None:
    """One socket goes on ticking behind the ends of two tokens."""
    frontend.lifetimes = [5, 5, 300]
    frontend.connect("/ws/ticker")
    frontend.until("told.messages.length > 10")
    assert len(frontend.given) == 3
    assert (frontend.told("open"), frontend.told("retries")) == (1, [])


def test_a_token_that_was_revoked_is_replaced(frontend: Frontend) -> None:
    """4401: a fresh token, a new connection."""
    frontend.connect("/ws")
    frontend.until("told.open === 1")
    command(frontend.demo, "revoke", "--token", frontend.given[0])
    frontend.until("told.open === 2")
    (why,) = frontend.told("retries")
    assert (why["code"], why["reason"]) == (4401, "token revoked")
    assert len(frontend.given) == 2


def test_a_token_that_is_refused_is_asked_for_again(frontend: Frontend) -> None:
    """The ticket says so before there is a socket."""
    frontend.secret, good = "somebody else's secret of thirty-two bytes", frontend.secret
    frontend.connect("/ws")
    frontend.until("told.retries.length > 1")
    assert frontend.urls == []
    assert (frontend.told("retries[0].code"), frontend.told("retries[0].reason")) == (4401, "invalid_token")
    frontend.secret = good
    frontend.until("told.open === 1")


def test_who_may_not_come_in_stops(frontend: Frontend) -> None:
    """4403: no other try would help."""
    frontend.connect("/told/ws/admin", protocols=["demo.v1"])
    frontend.until("told.end")
    assert frontend.told("end.code") == 4403
    assert (frontend.told("retries"), len(frontend.urls)) == ([], 1)


def test_a_backend_that_says_goodbye_is_believed(frontend: Frontend) -> None:
    """Its own codes are the application's business."""
    frontend.connect("/ws/close/4000?reason=bye")
    frontend.until("told.end")
    assert frontend.told("end") == {"code": 4000, "reason": "bye"}


def test_it_waits_longer_each_time(frontend: Frontend) -> None:
    """A random part of a time that doubles, at most 30 s: here each draws a thousandth."""
    frontend.connect("/ws/down")
    frontend.until("told.retries.length > 6")
    assert [round(delay) for delay in frontend.told("retries.slice(0, 7).map((why) => why.delay)")] == [
        2, 4, 8, 16, 30, 30, 30,
    ]  # fmt: skip
    assert set(frontend.told("retries.map((why) => why.code)")) == {1006}


def test_it_comes_back_after_a_restart(frontend: Frontend, demo: Demo) -> None:
    """1012, then refused for a while, then there again."""
    frontend.connect("/ws/ticker")
    frontend.until("told.messages.length > 0")
    route = '[[route]]\npath = "/ws/ticker"\n'
    with changed(demo, route, f"{route}enabled = false\n"):
        frontend.until("told.retries.length > 1")
        assert frontend.told("retries[0].code") == 1012
    frontend.until("told.open === 2")
