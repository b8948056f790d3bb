"""The admin in the real browser, on a real gateway of two processes: what it shows is so, and what it does happens."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests import served
from tests.admin_helpers import answering
from tests.browser import CHROMIUM
from tests.identity_helpers import token
from tests.test_demo_page import CONTRASTS

pytestmark = [pytest.mark.timeout(180), pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

APP = "https://app.example.com"
CONFIGURATION = """
[[backend]]
name = "main"
url = "{url}"
health_path = "/up"

[[backend]]
name = "down"
url = "http://127.0.0.1:9"

[[route]]
path = "/api/"
backend = "main"

[[route]]
path = "/down/"
backend = "down"

[[route]]
path = "/ws"
kind = "websocket"
backend = "main"

[[route]]
path = "/chat"
kind = "websocket"
backend = "main"

[[origin]]
origin = "https://app.example.com"
"""
LIST = "/admin/relay/liveconnection/"
REFUSALS = "/admin/relay/refusalrecord/"
PAGES = (
    "/admin/",
    LIST,
    REFUSALS,
    f"{REFUSALS}explain/",
    "/admin/relay/backend/",
    "/admin/relay/backend/1/change/",
    "/admin/relay/route/add/",
    "/admin/relay/origin/",
    "/admin/relay/revocation/add/",
    "/admin/relay/process/",
    "/admin/auth/user/1/change/",
    "/admin/password_change/",
)


class Gateway:
    """A running gateway."""

    def __init__(self, site: served.Site, server: served.Server) -> None:
        self.site, self.server, self.port = site, server, server.port

    @property
    def url(self) -> str:
        return self.server.url

    def socket(self, path: str = "/ws", origin: str = APP, **claims: Any) -> AbstractContextManager[ClientConnection]:
        headers = {"Authorization": f"Bearer {token(**{'user_id': '1', 'email': 'ada@example.com', **claims})}"}
        return connect(f"ws://127.0.0.1:{self.port}{path}", additional_headers=headers, origin=origin, proxy=None)  # type: ignore[arg-type]

    def primary_key(self, table: str, where: str) -> int:
        with sqlite3.connect(self.site.directory / "gateway.sqlite3") as database:
            (key,) = database.execute(f"select id from {table} where {where}").fetchone()
        return int(key)


def past(directory: Any) -> None:
    """An hour of curves, as two processes left them that are gone."""
    now = int(time.time()) // 10 * 10
    rows = [
        (process, now - ago, 7, 120, 1, 900, json.dumps({"no_token": 2}))
        for ago in range(20, 3600, 10)
        for process in ("a" * 32, "b" * 32)
    ]
    with sqlite3.connect(directory / "gateway.sqlite3") as database:
        database.executemany(
            "insert into relay_sample(process, slot, sockets, requests, errors, messages, refusals)"
            " values (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )


@pytest.fixture(scope="module")
def gateway(migrated: served.Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    site = served.copy_of(migrated, tmp_path_factory.mktemp("dashboard"))
    with answering() as backend:
        site.configure(CONFIGURATION.replace("{url}", backend))
        past(site.directory)
        made = site.command("createsuperuser", "--noinput", "--username", "root", "--email", "", **PASSWORD)
        assert made.returncode == 0, made.stderr
        with served.serving(site, "--workers", "2") as server:
            yield Gateway(site, server)


PASSWORD = {"DJANGO_SUPERUSER_PASSWORD": "hunter2hunter2"}


@pytest.fixture(scope="module")
def session(browser: Browser, gateway: Gateway) -> Any:
    """The cookies of somebody who logged in by the form."""
    page = browser.new_context().new_page()
    page.goto(f"{gateway.url}/admin/")
    page.fill("#id_username", "root")
    page.fill("#id_password", PASSWORD["DJANGO_SUPERUSER_PASSWORD"])
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Dashboard")).to_be_visible()
    cookies = page.context.storage_state()
    page.context.close()
    return cookies


@pytest.fixture
def page(browser: Browser, gateway: Gateway, session: Any) -> Iterator[Page]:
    """A page of somebody logged in; afterwards, it has raised nothing and its policy has blocked nothing."""
    expect.set_options(timeout=20_000)
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, storage_state=session, base_url=gateway.url, reduced_motion="reduce"
    )
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda told: faults.append(told.text) if "Content Security Policy" in told.text else None)
    yield page
    context.close()
    assert faults == []


@contextmanager
def open_sockets(gateway: Gateway, *paths: str, **claims: Any) -> Iterator[list[ClientConnection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(gateway.socket(path, **claims)) for path in paths]


def refused(gateway: Gateway, origin: str) -> str:
    """The request id of a handshake that is refused for its origin."""
    with pytest.raises(InvalidStatus) as raised, gateway.socket(origin=origin):
        pass
    assert raised.value.response.status_code == 403
    return str(raised.value.response.headers["X-Request-ID"])


def end_of(socket: ClientConnection) -> tuple[int | None, str]:
    """Code and reason of the close frame that ends it."""
    with pytest.raises(ConnectionClosed) as ended:
        socket.recv(timeout=20)
    received = ended.value.rcvd
    return (received.code, received.reason) if received else (None, "")


def tile(page: Page, name: str) -> Any:
    return page.locator(f"[data-total={name}]")


# The dashboard


def test_what_happens_is_on_the_dashboard(page: Page, gateway: Gateway) -> None:
    """Sockets, messages, the backend's health and its answers; without loading the page again."""
    page.goto("/admin/")
    expect(page.locator("#verdict")).not_to_have_text("Looking …")
    with open_sockets(gateway, "/ws", "/chat", user_id="tile") as sockets:
        for each in sockets:
            each.send("hello")
            assert each.recv(timeout=10) == "hello"
        expect(tile(page, "sockets")).to_have_text("2")
        expect(page.locator("#routes tbody")).to_contain_text("/chat")
        expect(tile(page, "messages")).not_to_have_text("0")
        expect(page.locator("#backends tr", has_text="main")).to_contain_text("up")
    expect(page.locator("#processes tbody tr")).to_have_count(2)
    expect(page.locator("#facts")).to_contain_text("in force in 2 of 2 processes")
    expect(tile(page, "sockets")).to_have_text("0")


def test_a_backend_that_fails_is_what_one_sees_first(page: Page, gateway: Gateway) -> None:
    """The verdict names it, with the exact cause, and the refusal is counted."""
    page.goto("/admin/")
    bearer = {"Authorization": f"Bearer {token()}"}
    assert page.request.get("/down/x", headers=bearer).status == 502
    expect(page.locator("#problems")).to_contain_text("backend down failed")
    expect(page.locator("#problems")).to_contain_text("connection refused 127.0.0.1:9")
    expect(page.locator(".gw-verdict")).to_have_attribute("data-state", "bad")
    expect(page.locator("#refusals tbody")).to_contain_text("backend_unreachable")
    about = f"/admin/relay/backend/{gateway.primary_key('relay_backend', 'name = ' + repr('down'))}/change/"
    expect(page.locator("#problems").get_by_role("link", name="backend down failed")).to_have_attribute("href", about)
    page.locator("#refusals").get_by_role("link", name="backend_unreachable").click()
    expect(page.locator("#result_list")).to_contain_text("connection refused 127.0.0.1:9")


def test_the_curves_reach_back_an_hour_and_are_a_table_too(page: Page) -> None:
    """For whoever sees no curve: a label that says it in words, and every five minutes a row."""
    page.goto("/admin/")
    figure = page.locator("[data-curve=requests]")
    expect(figure.locator(".gw-plot")).to_have_attribute(
        "aria-label", re.compile(r"^Requests per second, the last hour: \d+, at most 24$")
    )
    expect(figure.locator("canvas")).to_be_visible()
    figure.get_by_text("As a table").focus()
    page.keyboard.press("Enter")
    expect(figure.locator("tbody tr").nth(5)).to_contain_text("24")
    assert figure.locator("tbody tr").count() >= 11


def test_a_gateway_that_does_not_answer_is_told(page: Page) -> None:
    """Old figures are marked as such; when it is back, so are they."""
    page.goto("/admin/")
    expect(page.locator("#gateway")).to_have_attribute("data-stale", "false")
    page.route("**/figures.json*", lambda route: route.abort())
    expect(page.locator("#verdict")).to_contain_text("No figures")
    expect(page.locator("#verdict")).to_contain_text("These figures are from")
    page.unroute("**/figures.json*")
    expect(page.locator("#gateway")).to_have_attribute("data-stale", "false")


def test_whoever_is_logged_out_meanwhile_is_told(page: Page) -> None:
    """Not that all is well."""
    page.goto("/admin/")
    expect(page.locator("#gateway")).to_have_attribute("data-stale", "false")
    page.context.clear_cookies()
    expect(page.locator("#verdict")).to_contain_text("you are logged out")


# Connections


def test_a_socket_appears_in_the_list_by_itself_and_leaves_it(page: Page, gateway: Gateway) -> None:
    page.goto(LIST)
    page.mouse.move(0, 0)
    with open_sockets(gateway, "/ws", user_id="appears"):
        expect(page.locator("#result_list")).to_contain_text("appears")
    expect(page.locator("body")).not_to_contain_text("appears")


def test_the_list_keeps_still_under_a_choice(page: Page, gateway: Gateway) -> None:
    """Rows must not move when somebody is about to do something with them."""
    with open_sockets(gateway, "/ws", user_id="first"):
        page.goto(LIST)
        row = page.locator("#result_list tr", has_text="first")
        row.locator("input").check()
        with open_sockets(gateway, "/ws", user_id="second"):
            page.wait_for_timeout(2500)  # longer than from one update to the next
            assert "second" not in page.locator("#result_list").inner_text()
            row.locator("input").uncheck()
            page.locator("h1").click()
            expect(page.locator("#result_list")).to_contain_text("second")


def test_disconnecting_closes_the_socket_and_no_other(page: Page, gateway: Gateway) -> None:
    """From the row over the question to the client, who is told why; in whichever process it is."""
    with open_sockets(gateway, "/ws", "/ws", user_id="stays") as staying:
        with open_sockets(gateway, "/ws", user_id="goes") as (going,):
            page.goto(f"{LIST}?q=goes")
            page.locator("#result_list tr", has_text="goes").locator("input").check()
            page.select_option("select[name=action]", label="Disconnect")
            page.get_by_role("button", name="Go").click()
            expect(page.get_by_role("heading", name="Disconnect 1 live connection?")).to_be_visible()
            page.get_by_role("button", name="Disconnect 1 connection").click()
            assert end_of(going) == (4403, "disconnected by an administrator")
            expect(page.locator(".messagelist")).to_contain_text("Disconnecting 1 live connection.")
        for each in staying:
            each.send("still here")
            assert each.recv(timeout=10) == "still here"


def test_a_user_is_disconnected_everywhere(page: Page, gateway: Gateway) -> None:
    """By the button on one connection's page: all of the user's, on every route."""
    with open_sockets(gateway, "/ws", "/chat", "/chat", user_id="everywhere") as sockets:
        page.goto(f"{LIST}?q=everywhere")
        page.locator("#result_list tbody th a").first.click()
        page.get_by_role("link", name="Disconnect user everywhere").click()
        page.get_by_role("button", name="Disconnect 3 connections").click()
        assert [end_of(each)[0] for each in sockets] == [4403] * 3


def test_what_can_be_done_names_it_as_it_is_written(page: Page, gateway: Gateway) -> None:
    """Below the title, within the window, and no id or path in capitals, which may be another's."""
    user = "8a6e0804-2bd0-4672-b79d-d97027f9071a-of-a-tenant-with-a-long-name@example.com"
    with open_sockets(gateway, "/ws", user_id=user):
        page.goto(f"{LIST}?q={user}")
        page.locator("#result_list tbody th a").click()
        button = page.get_by_role("link", name=f"Disconnect user {user}")
        assert button.inner_text() == f"Disconnect user {user} …"
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            title, tool = page.locator("#content h2").first.bounding_box(), button.bounding_box()
            assert title is not None
            assert tool is not None
            assert tool["y"] >= title["y"] + title["height"]
            assert tool["x"] + tool["width"] <= width


# Refusals


def test_a_refused_origin_is_allowed_after_a_question(page: Page, gateway: Gateway) -> None:
    """The refusal comes by itself; whoever agrees puts the origin on the list; the next handshake works."""
    origin = "https://preview.example.net:8443"
    page.goto(REFUSALS)
    page.mouse.move(0, 0)
    request_id = refused(gateway, origin)
    expect(page.locator("#result_list")).to_contain_text(request_id)
    page.goto(f"{REFUSALS}?q={request_id}")
    expect(page.locator("#result_list")).to_contain_text(f"origin {origin} is not on the list")
    page.get_by_role("link", name=f"Allow {origin} …").click()
    expect(page.get_by_role("heading", name=f"Allow {origin}?")).to_be_visible()
    page.get_by_role("button", name="Yes, allow this origin").click()
    expect(page.locator(".messagelist")).to_contain_text(f"{origin} is on the list")
    deadline = time.monotonic() + 20
    while True:
        try:
            with gateway.socket(origin=origin):
                break
        except InvalidStatus:
            assert time.monotonic() < deadline


def test_no_token_ticket_or_cookie_is_on_any_page(page: Page, gateway: Gateway) -> None:
    """Contract, section 9: wherever a client puts one, valid or not."""
    mark = "m4rk3d"
    valid = token(user_id="marked", email="m@example.com", jti=mark)
    for path in (
        "/api/x",
        "/nothing",
        f"/nothing/{valid}",
        f"/api/x?token={valid}",
        f"/x?auth_token={mark}&ticket={mark}",
    ):
        for headers in (
            {"Authorization": f"Bearer {mark}"},
            {"Authorization": f"Bearer {valid}"},
            {"Cookie": f"auth_token={mark}; sessionid={mark}"},
        ):
            page.request.get(path, headers=headers)
    for query, subprotocol in ((f"?ticket={mark}", "chat"), (f"?token={mark}", f"bearer.{mark}")):
        target = f"ws://127.0.0.1:{gateway.port}/ws{query}"
        with pytest.raises(InvalidStatus), connect(target, subprotocols=[subprotocol], origin=APP, proxy=None):  # type: ignore[list-item,arg-type]
            pass
    with gateway.socket(user_id="marked", jti=mark):
        page.goto(f"{REFUSALS}?q=/nothing/")
        expect(page.locator("#result_list")).to_contain_text("/nothing/***")
        shown = [page.request.get(path).text() for path in (*PAGES, "/admin/relay/process/figures.json")]
    assert any("marked" in text for text in shown)
    signature = valid.rpartition(".")[2]
    assert [path for path, text in zip(PAGES, shown, strict=False) if mark in text or signature in text] == []


# Changes


def test_a_change_says_first_what_it_would_close(page: Page, gateway: Gateway) -> None:
    """The number is right, going back changes nothing, and going on closes exactly those with 1012."""
    key = gateway.primary_key("relay_route", "path = '/chat'")
    with open_sockets(gateway, "/chat", "/chat", user_id="reconnects") as closing:
        with open_sockets(gateway, "/ws", user_id="remains") as (staying,):
            page.goto(f"/admin/relay/route/{key}/change/")
            page.locator("#id_enabled").uncheck()
            page.get_by_role("button", name="Save", exact=True).click()
            expect(page.get_by_role("heading", name="This closes 2 live sockets")).to_be_visible()
            expect(page.locator("#content table")).to_contain_text("/chat 2 1", use_inner_text=True)
            page.get_by_role("link", name="No, take me back").click()
            expect(page.locator("#id_enabled")).to_be_visible()
            closing[0].send("not yet")
            assert closing[0].recv(timeout=10) == "not yet"
            page.goto(f"/admin/relay/route/{key}/change/")
            page.locator("#id_enabled").uncheck()
            page.get_by_role("button", name="Save", exact=True).click()
            page.get_by_role("button", name="Continue, and close 2 sockets").click()
            expect(page.locator(".messagelist")).to_contain_text("was changed successfully")
            assert [end_of(each) for each in closing] == [(1012, "")] * 2
            staying.send("untouched")
            assert staying.recv(timeout=10) == "untouched"
    page.goto("/admin/relay/route/")
    page.locator("#result_list tr", has_text="/chat").locator("input").check()
    page.select_option("select[name=action]", label="Enable")
    page.get_by_role("button", name="Go").click()
    expect(page.locator(".messagelist")).to_contain_text("1 enabled")


def test_a_backend_is_checked_from_its_page(page: Page, gateway: Gateway) -> None:
    """One button; cause and advice."""
    page.goto(f"/admin/relay/backend/{gateway.primary_key('relay_backend', 'name = ' + repr('down'))}/change/")
    page.get_by_role("button", name="Check it now").click()
    expect(page.get_by_role("heading", name="1 of 2 checks failed")).to_be_visible()
    expect(page.locator("#content table")).to_contain_text("connection refused 127.0.0.1:9")


# How it looks


@pytest.mark.parametrize("path", PAGES)
def test_the_policy_blocks_nothing(page: Page, path: str) -> None:
    """Every page works under it, with what opens on it; the fixture looks at what the browser told."""
    response = page.goto(path)
    assert response is not None
    assert response.status == 200
    assert "script-src 'self'" in response.headers["content-security-policy"]
    for drop_down in page.locator(".select2-selection:visible").all():
        drop_down.click()
        expect(page.locator(".select2-results__option").first).to_be_visible()
        page.keyboard.press("Escape")
    page.locator(".theme-toggle").first.click()


@pytest.mark.parametrize("path", ["/admin/", LIST, REFUSALS, "/admin/relay/backend/", "/admin/relay/route/"])
def test_nothing_is_wider_than_the_window(page: Page, gateway: Gateway, path: str) -> None:
    """A phone scrolls in one direction, and no column is hidden at its edge or at a desk's."""
    refused(gateway, "https://a-rather-long-name-of-an-origin.which-nobody.knows.example:8443")
    with open_sockets(gateway, "/ws"):
        page.goto(path)
        expect(page.locator("#routes tbody th, #result_list tbody th").first).to_be_visible()
        for width in (320, 390, 768, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")  # redrawn
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            if width != 768:
                hidden = (
                    "[...document.querySelectorAll('.results')].filter((e) => e.scrollWidth > e.clientWidth).length"
                )
                assert page.evaluate(hidden) == 0


@pytest.mark.parametrize("path", ["/admin/", LIST, REFUSALS, "/admin/relay/backend/1/change/", "/admin/relay/process/"])
def test_every_text_can_be_read(page: Page, gateway: Gateway, path: str) -> None:
    """WCAG 1.4.3: contrast of at least 4.5, in both colour schemes."""
    refused(gateway, "https://unreadable.example")
    with open_sockets(gateway, "/ws"):
        page.goto(path)
        if path == "/admin/":
            expect(page.locator("#routes tbody th").first).to_be_visible()
        elif path == REFUSALS:
            expect(page.get_by_role("link", name="Allow").first).to_be_visible()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.evaluate("Promise.allSettled(document.getAnimations().map((change) => change.finished))")
            assert page.evaluate(CONTRASTS) == []


@pytest.mark.parametrize("path", ["/admin/", LIST, REFUSALS])
def test_every_control_has_a_name(page: Page, gateway: Gateway, path: str) -> None:
    """WCAG 4.1.2: a screen reader can tell what each is for."""
    with open_sockets(gateway, "/ws"):
        page.goto(path)
        nameless = page.evaluate(
            """[...document.querySelectorAll("input:not([type=hidden]), select, button, a[href], [role=img]")]
                .filter((element) => !(element.labels?.length || element.textContent.trim() || element.title
                    || element.value || element.ariaLabel || element.getAttribute("aria-labelledby")))
                .map((element) => element.outerHTML)"""
        )
    assert nameless == []


def test_what_the_scripts_of_others_make_has_a_name_too(page: Page) -> None:
    """WCAG 1.3.1, 4.1.2: the field that chooses a backend, its search, that of a list; and a heading at the login."""
    page.goto("/admin/relay/route/add/")
    chooser = page.get_by_role("combobox", name="Backend:")
    chooser.click()
    expect(page.get_by_role("searchbox", name="Search the choices")).to_be_visible()
    page.goto(REFUSALS)
    expect(page.get_by_role("textbox", name="Search the list")).to_be_visible()
    page.context.clear_cookies()
    page.goto("/admin/login/")
    expect(page.get_by_role("heading", level=1, name="Log in")).to_have_count(1)


def test_the_way_around_works_from_the_keyboard(page: Page) -> None:
    """Tab leads through the operations in order; Enter goes there."""
    page.goto("/admin/")
    page.get_by_role("navigation", name="Operations").get_by_role("link", name="Dashboard").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Connections"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Live connections")).to_be_visible()
