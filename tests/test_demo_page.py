"""The demo page, in the real browser, on the real gateway: what it shows is what happened."""

import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import jwt
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import CHROMIUM
from tests.demo_helpers import ROOT, Demo

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]


@pytest.fixture
def page(browser: Browser, demo: Demo) -> Iterator[Page]:
    """The page, freshly loaded; afterwards, it has raised nothing and its policy has blocked nothing."""
    expect.set_options(timeout=15_000)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda told: faults.append(told.text) if "Content Security Policy" in told.text else None)
    page.goto(f"http://127.0.0.1:{demo.port}/")
    expect(page.locator(".story").first).to_be_visible()
    yield page
    context.close()
    assert faults == []


def choose(page: Page, who: str) -> None:
    page.check(f"input[name=who][value={who}]", force=True)


def told(page: Page, title: str) -> None:
    """Press a story's button."""
    page.get_by_role("button", name=re.compile(f"^{re.escape(title)}")).click()


def seen(page: Page, name: str) -> list[str]:
    """The values of a header at the backend, any spelling."""
    rows = page.locator("#backend-body tr").filter(
        has=page.get_by_role("rowheader", name=re.compile(f"^{name}$", re.I))
    )
    return rows.locator("td").all_text_contents()


def short_lived(page: Page, demo: Demo, who: str, seconds: float) -> None:
    """Give that person a token which ends sooner than the demo's."""

    def fulfil(route: Route) -> None:
        now = time.time()
        claims = {"user_id": 3, "email": "bo@example.com", "role": "user", "iat": int(now), "exp": now + seconds}
        token = jwt.encode(claims, (demo.data / "jwt-secret").read_text(), algorithm="HS256")
        route.fulfill(body=json.dumps({"token": token, "claims": claims}), content_type="application/json")

    page.route(f"**/demo/token/{who}", fulfil)


@pytest.mark.parametrize(
    ("who", "request_line", "stamp", "headline"),
    [
        pytest.param("ada", "GET /api/hello", "200", "reached the backend", id="a user"),
        pytest.param("grace", "GET /api/admin/report", "200", "reached the backend", id="an admin"),
        pytest.param("nobody", "GET /api/public/news", "200", "reached the backend", id="nobody, on a public route"),
        pytest.param("ada", "POST /api/notes", "200", "reached the backend", id="a body"),
        pytest.param("ada", "GET /api/admin/report", "403", "role", id="the wrong role"),
        pytest.param("yesterday", "GET /api/hello", "401", "expired", id="an expired token"),
        pytest.param("eve", "GET /api/hello", "401", "not valid", id="a forged token"),
        pytest.param("nobody", "GET /api/hello", "401", "none was sent", id="no token"),
        pytest.param("ada", "GET /api/down/hello", "502", "can't be reached", id="a backend that is down"),
        pytest.param("ada", "GET /elsewhere", "404", "nothing at this path", id="no route"),
    ],
)
def test_a_request_is_judged(page: Page, who: str, request_line: str, stamp: str, headline: str) -> None:
    """The stamp is the status, the headline the gateway's sentence, and the log's line stands beside it."""
    choose(page, who)
    page.select_option("select[name=request]", request_line)
    page.get_by_role("button", name="Send the request").click()
    expect(page.locator("#stamp")).to_have_text(stamp)
    expect(page.locator("#headline")).to_contain_text(headline)
    expect(page.locator("#gateway .event").last).to_have_text("http.request" if stamp == "200" else "http.refused")
    expect(page.locator("#backend")).to_have_attribute("data-state", {"200": "good", "502": "bad"}.get(stamp, "idle"))


@pytest.mark.parametrize("place", ["header", "cookie", "query"])
def test_the_backend_sees_the_identity_and_no_token(page: Page, place: str) -> None:
    """Wherever the token was: three headers instead of it."""
    page.select_option("select[name=http-place]", place)
    page.get_by_role("button", name="Send the request").click()
    expect(page.locator("#stamp")).to_have_text("200")
    assert (seen(page, "x-user-id"), seen(page, "x-user-email"), seen(page, "x-user-role")) == (
        ["1"],
        ["ada@example.com"],
        ["user"],
    )
    assert "eyJ" not in page.locator("#backend-body").inner_text()
    assert seen(page, "authorization") == []


def test_a_made_up_identity_is_replaced(page: Page) -> None:
    """Whatever the client sends under these names is gone."""
    told(page, "A made-up identity")
    expect(page.locator("#explanation")).to_contain_text("knows you as user 1, ada@example.com, role user")
    assert seen(page, "x-user-id") == ["1"]


@pytest.mark.parametrize("place", ["subprotocol", "ticket", "cookie", "query"])
def test_a_socket_opens_with_the_token_anywhere(page: Page, place: str) -> None:
    """A browser can't set headers; there are four other ways, and the backend sees none of them."""
    page.select_option("select[name=socket-place]", place)
    page.get_by_role("button", name="Open the WebSocket").click()
    expect(page.locator("#stamp")).to_have_text("101")
    expect(page.locator("#backend tr.identity")).to_have_count(3)
    assert "eyJ" not in page.locator("#backend-body").inner_text()
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#messages .in")).to_have_text(re.compile("Hello, backend"))
    page.get_by_role("button", name="Close", exact=True).click()
    expect(page.locator("#headline")).to_have_text("Closed with 1000, “the user left”")
    expect(page.locator("#gateway .event").last).to_have_text("ws.close")


def test_the_bare_403_is_explained_and_mended(page: Page) -> None:
    """The seed's story: the browser is told nothing, the log has the backend's own words, and there is a cure."""
    told(page, "The bare 403")
    expect(page.locator("#headline")).to_have_text("Refused: backend_refused")
    expect(page.locator("#explanation")).to_contain_text("Your page sees 1006 and no reason")
    expect(page.locator("#gateway-body")).to_contain_text("request origin not allowed by Upgrader.CheckOrigin")
    expect(page.locator("#mend")).to_contain_text("websocket_origin")
    told(page, "… and fixed")
    expect(page.locator("#stamp")).to_have_text("101")
    assert seen(page, "origin") == []


def test_a_refusal_can_be_told_by_a_close_code(page: Page) -> None:
    """`refuse_with = "close"`: the page reads what a status would hide from it."""
    told(page, "With a close code")
    expect(page.locator("#explanation")).to_have_text(re.compile("Your page got: 4502, “[^.”]+.”$"))


def test_a_socket_that_ends_at_once_keeps_the_lines_about_its_end(page: Page) -> None:
    """The answer to "what does the log say of the opening?" comes last, and must not be drawn over them."""
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/demo/log?*", hold_the_first)
    told(page, "With a close code")
    expect(page.locator("#gateway .event").last).to_have_text("ws.refused")
    answers = itertools.count(1)
    with page.expect_response(lambda answer: "/demo/log?" in answer.url and next(answers) == 5) as last:
        held[0].fulfill(json={"next": 0, "lines": []})  # it asks four times more
    last.value.finished()
    page.evaluate("fetch('/demo/log?after=0').then((answer) => answer.json())")
    assert page.locator("#gateway .event").all_text_contents()[-1] == "ws.refused"


def test_another_sites_page_is_refused(page: Page) -> None:
    """A good token does not help a page that is not on the list of origins."""
    told(page, "Another site’s page")
    expect(page.locator("#headline")).to_have_text("Refused: origin_not_allowed")
    expect(page.locator("#gateway-body")).to_contain_text("http://stranger.localhost:")


def run_shown(page: Page, demo: Demo, name: str) -> str:
    """Run a command that the page shows, as a shell does; return what it printed."""
    command = page.locator(f"#{name}").inner_text().replace(".venv/bin/python", sys.executable)
    environment = os.environ | {"TOKEN": demo.token, "DEMO_DATA": str(demo.data)}
    done = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout


@pytest.mark.parametrize(
    ("story", "explained", "repeated"),
    [
        ("Another site’s page", "refused: 403 origin_not_allowed", "403 Forbidden"),
        ("A made-up identity", "x-user-id: 1\n", '["x-user-id", "1"]'),
        ("A forged token", "refused: 403 role_required", "403 Forbidden"),
        ("A path with two readings", "refused: 400 bad_path", "400 Bad Request"),
    ],
)
def test_the_commands_ask_what_was_asked(page: Page, demo: Demo, story: str, explained: str, repeated: str) -> None:
    """Copied into a terminal, both give the answer on show (for a forged token: what Ada's own would get)."""
    told(page, story)
    expect(page.locator("#stamp")).not_to_have_text("…")
    assert explained in run_shown(page, demo, "explain")
    answer = run_shown(page, demo, "repeat")
    assert repeated in answer
    assert '"999"' not in answer


def test_a_path_with_two_readings_is_refused(page: Page) -> None:
    """An encoded slash, as the browser really sends it."""
    told(page, "A path with two readings")
    expect(page.locator("#stamp")).to_have_text("400")
    expect(page.locator("#gateway-body")).to_contain_text("bad_path")


def test_a_close_of_the_backend_arrives(page: Page) -> None:
    """Code and reason are the backend's own."""
    page.select_option("select[name=socket]", "/ws/close/4000?reason=bye")
    page.get_by_role("button", name="Open the WebSocket").click()
    expect(page.locator("#headline")).to_have_text("Closed with 4000, “bye”")
    expect(page.locator("#gateway-body dl").last).to_contain_text("reasonbye")


def test_too_many_messages_are_refused(page: Page) -> None:
    """The route's message_rate: 1008."""
    page.select_option("select[name=socket]", "/ws/limited")
    page.get_by_role("button", name="Open the WebSocket").click()
    expect(page.locator("#stamp")).to_have_text("101")
    page.get_by_role("button", name="Send 10 at once").click()
    expect(page.locator("#stamp")).to_have_text("1008")


def test_a_socket_ends_with_its_token(page: Page, demo: Demo) -> None:
    """4401 within a second of `exp`."""
    short_lived(page, demo, "bo", 2)
    told(page, "The token expires")
    expect(page.locator("#headline")).to_have_text("Closed with 4401, “token expired”")


def test_a_renewed_token_keeps_the_socket(page: Page, demo: Demo) -> None:
    """The same socket goes on ticking behind the old token's end."""
    short_lived(page, demo, "bo", 4)
    told(page, "The token expires")
    expect(page.locator("#messages .in").first).to_be_visible()
    short_lived(page, demo, "bo", 60)
    page.get_by_role("button", name="Renew the token").click()
    expect(page.locator("#messages .note")).to_contain_text("token renewed")
    expect(page.locator("#messages")).to_contain_text('{"tick": 6}')
    expect(page.locator("#stamp")).to_have_text("101")


# How it looks


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(page: Page, width: int) -> None:
    """A phone scrolls in one direction, also with a result on show."""
    page.set_viewport_size({"width": width, "height": 800})
    told(page, "The bare 403")
    expect(page.locator("#gateway-body")).to_contain_text("backend_refused")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_works_from_the_keyboard(page: Page) -> None:
    """Arrow keys choose a person, Tab goes on, Enter sends; the result is announced."""
    page.locator("input[name=who]").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.value") == "grace"
    for _ in range(4):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "call"
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("role admin")


def test_every_control_has_a_name(page: Page) -> None:
    """WCAG 4.1.2: a screen reader can tell what each is for."""
    nameless = page.evaluate(
        """[...document.querySelectorAll("input, select, button, a, img")].filter((element) =>
            !(element.labels?.length || element.textContent.trim() || element.getAttribute("alt") !== null))
            .map((element) => element.outerHTML)"""
    )
    assert nameless == []


CONTRASTS = """() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith("color(srgb") ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const ground = (element) => {
    const own = parse(getComputedStyle(element).backgroundColor);
    return own[3] === 1 || !element.parentElement ? own : over(own, ground(element.parentElement));
  };
  const light = (color) => {
    const [r, g, b] = color.map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const poor = [];
  for (const element of document.body.querySelectorAll("*")) {
    const text = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!text || !element.checkVisibility()) continue;
    const back = ground(element);
    const [one, two] = [light(over(parse(getComputedStyle(element).color), back)), light(back)].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (two + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${element.outerHTML.slice(0, 80)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("story", ["The bare 403", "A made-up identity"])
def test_every_text_can_be_read(page: Page, scheme: str, story: str) -> None:
    """WCAG 1.4.3: contrast of at least 4.5, in both colour schemes, with a good and a bad result on show."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    told(page, story)
    expect(page.locator("#gateway .event").first).to_be_visible()
    assert page.evaluate(CONTRASTS) == []
