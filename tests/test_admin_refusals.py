"""relay.admin.refusals and mends: why somebody did not get through, what helps, and a question that leads to it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import ADDITION, CHANGE
from django.test import Client
from django.utils import timezone

from relay.access import UPGRADE_LOST, origin_refused
from relay.admin.mends import LISTED, allowable
from relay.fleet.records import refusal
from relay.live.events import WsRefused
from relay.mends import MENDS
from relay.models import Backend, Origin, RefusalRecord, Revision, Route
from relay.routing import snapshot
from tests.admin_helpers import log, messages, staff, text

pytestmark = pytest.mark.django_db

LIST = "/admin/relay/refusalrecord/"
ALLOW = f"{LIST}allow/"
STRANGE = "https://app.example.com:8443"


@pytest.fixture
def admin(client: Client) -> Client:
    return staff(client)


def refused(code: str = "no_token", **changes: Any) -> RefusalRecord:
    facts = {
        "at": timezone.now() - timedelta(seconds=3),
        "process": "gw1:1",
        "kind": "http",
        "status": 401,
        "request_id": "r1",
        "method": "GET",
        "path": "/api/x",
        "client": "192.0.2.1",
        "detail": "no token in any place",
    }
    return RefusalRecord.objects.create(code=code, **{**facts, **changes})


def origin_refusal(origin: str = STRANGE, **changes: Any) -> RefusalRecord:
    facts = {"kind": "websocket", "status": 403, "method": "", "path": "/ws", "origin": origin}
    return refused("origin_not_allowed", **{**facts, "detail": f"origin {origin} is not on the list", **changes})


def listed(response: Any) -> list[str]:
    return [row.request_id for row in response.context["cl"].result_list]


# The list


def test_the_newest_comes_first_with_everything_that_explains_it(admin: Client) -> None:
    """Code, request, what was compared with what, the mend, who, and the id that the client was told."""
    refused(request_id="older", at=timezone.now() - timedelta(hours=1))
    refused(user_id="7")
    response = admin.get(LIST)
    assert listed(response) == ["r1", "older"]
    said = text(response)
    for fact in ("no_token 401", "GET /api/x", "no token in any place", MENDS["no_token"], "user 7", "192.0.2.1"):
        assert fact in said


@pytest.mark.parametrize(
    ("query", "found"),
    [
        pytest.param("q=r2", ["r2"], id="by request id"),
        pytest.param("q=/secret/path", ["r2"], id="by path"),
        pytest.param("q=203.0.113.9", ["r2"], id="by address"),
        pytest.param("code=no_route", ["r2"], id="of a code"),
        pytest.param("kind=websocket", ["r3"], id="of handshakes"),
        pytest.param("backend=main", ["r2"], id="of a backend"),
    ],
)
def test_it_can_be_searched_and_filtered(admin: Client, query: str, found: list[str]) -> None:
    """The request id is what a client can tell."""
    refused()
    refused("no_route", request_id="r2", path="/secret/path", client="203.0.113.9", backend="main")
    origin_refusal(request_id="r3")
    assert listed(admin.get(f"{LIST}?{query}")) == found


def test_an_empty_list_says_where_older_ones_are(admin: Client) -> None:
    """The dashboard counts the refusals of an hour; fewer than that are kept."""
    said = text(admin.get(f"{LIST}?code=no_route"))
    assert "The newest 100 of each code are kept; older ones are in the gateway's log." in said


def test_the_filter_offers_what_is_there(admin: Client) -> None:
    """By backend those with a name; one refused before there was a backend is no choice of its own."""
    refused(backend="main")
    refused()
    page = admin.get(LIST).content.decode()
    assert 'href="?backend=main"' in page
    assert 'href="?backend="' not in page


@pytest.mark.parametrize("code", sorted(MENDS))
def test_every_code_has_a_mend(admin: Client, code: str) -> None:
    """In the admin as in the documentation."""
    refused(code)
    assert MENDS[code] in text(admin.get(LIST))


def test_a_mend_links_to_where_it_is_done(admin: Client) -> None:
    """The route that wants another role, the backend that is down, the route that is not there yet."""
    main = Backend.objects.create(name="main", urls="http://127.0.0.1:9000")
    roles = Route.objects.create(path="/api/", kind="http", backend=main, access="roles", roles="admin")
    refused("role_required", route="/api/", backend="main", request_id="r1")
    refused("backend_unreachable", route="/api/", backend="main", request_id="r2")
    refused("no_route", path="/ws?<b>", kind="websocket", request_id="r3")
    refused("backend_timeout", backend="deleted meanwhile", request_id="r4")
    links = {row.request_id: row.mend.links for row in admin.get(LIST).context["cl"].result_list}
    assert links == {
        "r1": (("Route /api/", f"/admin/relay/route/{roles.pk}/change/"),),
        "r2": (("Backend main", f"/admin/relay/backend/{main.pk}/change/"),),
        "r3": (("Add a route", "/admin/relay/route/add/?path=%2Fws%3F%3Cb%3E&kind=websocket"),),
        "r4": (),
    }
    assert admin.get(links["r3"][0][1]).context["adminform"].form.initial["kind"] == "websocket"


@pytest.mark.parametrize("code", ["no_token", "invalid_token", "role_required"])
def test_for_the_metrics_no_user_needs_anything(admin: Client, code: str) -> None:
    """The page has a token of its own, and no role opens it."""
    refused(code, path="/metrics")
    (row,) = admin.get(LIST).context["cl"].result_list
    assert "METRICS_TOKEN" in row.mend.sentence


def test_a_handshake_that_lost_its_upgrade_needs_no_route(admin: Client) -> None:
    """There is one; the proxy is where it is mended."""
    refused("no_route", path="/ws", detail=f"no http route matches GET '/ws'; {UPGRADE_LOST}")
    (row,) = admin.get(LIST).context["cl"].result_list
    assert "proxy in front" in row.mend.sentence
    assert row.mend.links == ()


def test_one_refusal_has_a_page(admin: Client) -> None:
    """With the same link."""
    said = text(admin.get(f"{LIST}{origin_refusal().pk}/change/"))
    assert f"Allow {STRANGE}" in said
    assert "gw1:1" in said


def test_what_a_stranger_wrote_stays_text(admin: Client) -> None:
    """Paths, origins and details come from anybody."""
    origin_refusal("https://<script>", path="/<script>", detail="<script>", request_id="<script>")
    page = admin.get(LIST).content
    assert b"/<script>" not in page
    assert page.count(b"<script>") == 0


# Allowing an origin


def test_the_link_asks_and_changes_nothing(admin: Client) -> None:
    """Who sent it, when, for what, and what it was compared with; for what it may do, one has to agree first."""
    Origin.objects.create(origin="https://app.example.com")
    origin_refusal(request_id="r7", user_id="7")
    assert f"Allow {STRANGE} …" in text(admin.get(LIST))
    page = admin.get(admin.get(f"{LIST}?q=r7").context["cl"].result_list[0].allow)
    said = text(page)
    for fact in (
        f"Allow {STRANGE}?",
        "act as its visitors",
        "nearest: https://app.example.com",
        "WebSocket /ws",
        "user 7, 192.0.2.1",
        "r7",
    ):
        assert fact in said
    assert f'name="next" value="{LIST}?q=r7"' in page.content.decode()
    assert Origin.objects.count() == 1
    assert log() == []


def test_whoever_agrees_puts_the_origin_on_the_list(admin: Client) -> None:
    """Added with where it came from, logged, in force with the next count; and the operator is back where they were."""
    before = Revision.current().config
    agreed = {"origin": STRANGE, "refusal": "r7", "next": f"{LIST}?code=origin_not_allowed"}
    response = admin.post(ALLOW, agreed, follow=True)
    assert response.redirect_chain == [(f"{LIST}?code=origin_not_allowed", 302)]
    assert messages(response) == [f"The origin {STRANGE} is on the list. Handshakes from it work within a second."]
    assert list(Origin.objects.values_list("origin", "note", "enabled")) == [(STRANGE, "allowed from refusal r7", True)]
    assert Revision.current().config == before + 1
    assert log() == [(ADDITION, STRANGE, "Allowed from refusal r7.")]


@pytest.mark.parametrize("listed", [STRANGE, "https://*.example.com:8443", "*"])
def test_one_that_is_listed_needs_no_link(admin: Client, listed: str) -> None:
    """By whichever rule; who still follows an old link is told so, and not asked."""
    row = origin_refusal()
    Origin.objects.create(origin=listed)
    said = text(admin.get(LIST))
    assert f"Allow {STRANGE}" not in said
    assert LISTED in said
    assert messages(admin.get(f"{ALLOW}?refusal={row.pk}", follow=True)) == [LISTED]


@pytest.mark.parametrize("which", ["", "x", "999999", "-1"])
def test_a_question_is_about_a_refusal_that_is_kept(admin: Client, which: str) -> None:
    """Never about an origin that a link brings along: it could come from anybody."""
    response = admin.get(f"{ALLOW}?refusal={which}&origin={STRANGE}", follow=True)
    assert messages(response) == ["This refusal is no longer kept; newer ones have replaced it."]


def test_one_that_is_off_is_switched_on(admin: Client) -> None:
    """Not added a second time; the question says that somebody had switched it off."""
    row = origin_refusal()
    Origin.objects.create(origin=STRANGE, enabled=False, note="ours")
    assert "it is on the list, but disabled (ours)" in text(admin.get(f"{ALLOW}?refusal={row.pk}"))
    response = admin.post(ALLOW, {"origin": STRANGE}, follow=True)
    assert "is enabled" in messages(response)[0]
    assert list(Origin.objects.values_list("origin", "enabled", "note")) == [(STRANGE, True, "ours")]
    assert log() == [(CHANGE, STRANGE, "Enabled after a refusal.")]


def test_one_that_is_there_already_is_no_error(admin: Client) -> None:
    """Two operators, one question."""
    Origin.objects.create(origin=STRANGE)
    response = admin.post(ALLOW, {"origin": STRANGE}, follow=True)
    assert messages(response) == [f"The origin {STRANGE} is already on the list."]
    assert log() == []


@pytest.mark.parametrize(
    "origin",
    ["null", "", "*.example.com", "https://a b", "javascript:alert(1)", "https://user:pw@a.example", "https://a/b"],
)
def test_what_is_no_origin_is_not_added(admin: Client, origin: str) -> None:
    """The rule of the form is the button's as well; the reason is told."""
    response = admin.post(ALLOW, {"origin": origin}, follow=True)
    assert response.status_code == 200
    assert len(messages(response)) == 1
    assert not Origin.objects.exists()


@pytest.mark.parametrize(
    ("sent", "button"),
    [
        pytest.param("HTTPS://App.Example.com:443", "https://app.example.com", id="in its normal form"),
        pytest.param("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443", id="an address"),
        pytest.param("null", "", id="null never"),
        pytest.param("https://*.example.com", "", id="a wildcard never came from a browser"),
        pytest.param("*", "", id="everybody"),
        pytest.param("https://a, https://b", "", id="two fields"),
        pytest.param("https://" + "a" * 600, "", id="too long"),
        pytest.param("", "", id="none"),
    ],
)
def test_only_an_origin_can_be_allowed(sent: str, button: str) -> None:
    """Whatever stands in the field, one origin is added or none."""
    assert allowable(sent) == button


def test_the_origin_is_read_from_the_very_words_of_the_refusal() -> None:
    """relay.access writes them; this keeps the two together."""
    known = snapshot.Snapshot.build((), (), [snapshot.Origin("https://app.example.com")])
    for origin in (STRANGE, "null", "https://x is not on the list; y"):
        event = WsRefused(
            request_id="r1",
            client="192.0.2.1",
            path="/ws",
            status=403,
            code="origin_not_allowed",
            detail=origin_refused(origin, known).detail,
            duration_ms=1,
        )
        row = refusal(0, event, "", lambda text, longest: str(text or ""))
        assert row.origin == origin


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", "javascript:alert(1)", ""])
def test_the_way_back_stays_here(admin: Client, elsewhere: str) -> None:
    """An open redirect would lend our name."""
    question = admin.get(ALLOW, {"refusal": origin_refusal().pk, "next": elsewhere})
    assert f'<a href="{LIST}" class="button">' in question.content.decode()
    response = admin.post(ALLOW, {"origin": STRANGE, "next": elsewhere})
    assert response["Location"] == LIST


# Who may


def test_to_look_is_not_to_allow(client: Client) -> None:
    """No link, and none that works."""
    viewer = staff(client, "view_refusalrecord")
    row = origin_refusal()
    assert "Allow https" not in text(viewer.get(LIST))
    assert viewer.get(f"{ALLOW}?refusal={row.pk}").status_code == 403
    assert viewer.post(ALLOW, {"origin": STRANGE}).status_code == 403
    assert not Origin.objects.exists()


def test_to_add_is_not_to_change(client: Client) -> None:
    """One that is off was switched off by somebody who may."""
    Origin.objects.create(origin=STRANGE, enabled=False)
    adder = staff(client, "view_refusalrecord", "add_origin")
    assert adder.get(f"{ALLOW}?refusal={origin_refusal().pk}").status_code == 403
    assert adder.post(ALLOW, {"origin": STRANGE}).status_code == 403
    assert not Origin.objects.get().enabled


def test_to_add_is_not_to_look(client: Client) -> None:
    """The question shows a refusal."""
    row = origin_refusal()
    assert staff(client, "add_origin").get(f"{ALLOW}?refusal={row.pk}").status_code == 403


def test_no_page_elsewhere_can_agree(admin: Client) -> None:
    """Only a form of ours does, with its token."""
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = admin.cookies
    assert strict.post(ALLOW, {"origin": STRANGE}).status_code == 403
    assert not Origin.objects.exists()
