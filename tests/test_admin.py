"""relay.admin: what an operator sees, is told and leaves behind in the log."""

from __future__ import annotations

import re
from dataclasses import asdict
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from relay.backends.connector import UrlHealth
from relay.models import Backend, Origin, RefusalRecord, Revision, Revocation, Route
from tests.admin_helpers import BACKEND, ROUTE, text
from tests.fleet_helpers import IDLE, process

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin(client: Client) -> Client:
    """Logged in as an administrator."""
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def main() -> Backend:
    """A backend to hang routes on."""
    return Backend.objects.create(name="main", urls="http://127.0.0.1:9000")


def field_errors(response: Any) -> dict[str, list[str]]:
    """The errors of the page's form, as they stand beside their fields."""
    assert response.status_code == 200
    form = response.context["adminform"].form
    page = unescape(response.content.decode())
    for sentences in form.errors.values():
        assert all(sentence in page for sentence in sentences)
    return dict(form.errors)


def log() -> list[tuple[int, str, str]]:
    """What the admin's log says, oldest first."""
    return [(e.action_flag, e.object_repr, e.get_change_message()) for e in LogEntry.objects.order_by("pk")]


# Saving


def test_a_backend_is_added_with_its_routes(admin: Client) -> None:
    """One page for a backend and what leads to it; normal form is what is kept."""
    inline = {f"routes-0-{name}": value for name, value in ROUTE.items()}
    data = {**BACKEND, **inline, "urls": " http://a\r\n\r\nhttp://b", "routes-TOTAL_FORMS": "1"}
    data["routes-0-methods"] = "post, get"
    before = Revision.current().config
    assert admin.post("/admin/relay/backend/add/", data).status_code == 302
    backend, route = Backend.objects.get(), Route.objects.get()
    assert (backend.urls, route.backend, route.methods) == ("http://a\nhttp://b", backend, "GET,POST")
    assert Revision.current().config > before
    assert [entry[:2] for entry in log()] == [(ADDITION, "main")]


@pytest.mark.parametrize(
    ("changed", "field", "said"),
    [
        pytest.param({"name": "a b"}, "name", "use only letters, digits", id="a name"),
        pytest.param({"name": ""}, "name", "required", id="no name"),
        pytest.param({"name": "taken"}, "name", "A backend with this name already exists", id="a name that is taken"),
        pytest.param({"urls": "http://a\r\nftp://b"}, "urls", "'ftp://b' must begin with http://", id="the second url"),
        pytest.param({"urls": " "}, "urls", "required", id="no url"),
        pytest.param({"health_path": "up"}, "health_path", "begin with a slash", id="a health path"),
        pytest.param({"connect_timeout": "0"}, "connect_timeout", "would fail every connection", id="no time"),
        pytest.param({"read_timeout": "-1"}, "read_timeout", "-1 is not a time", id="a negative time"),
        pytest.param({"read_timeout": "soon"}, "read_timeout", "Enter a number", id="a word for a number"),
        pytest.param({"max_body_size": "-1"}, "max_body_size", "greater than or equal to 0", id="a negative size"),
        pytest.param({"websocket_origin": "no"}, "websocket_origin", "omit, forward", id="an origin"),
    ],
)
def test_a_backend_that_can_not_be_used_is_refused_at_the_field(
    admin: Client, changed: dict[str, str], field: str, said: str
) -> None:
    """The sentence stands beside what has to be mended, and nothing is saved."""
    Backend.objects.create(name="taken", urls="http://h")
    errors = field_errors(admin.post("/admin/relay/backend/add/", {**BACKEND, **changed}))
    assert list(errors) == [field]
    assert said in errors[field][0]
    assert Backend.objects.count() == 1


@pytest.mark.parametrize(
    ("changed", "field", "said"),
    [
        pytest.param({"path": "api"}, "path", "must begin with a slash", id="a path"),
        pytest.param({"path": "/taken"}, "path", "the route http /taken already exists", id="a route that is there"),
        pytest.param(
            {"path": "/r/<x>"},
            "path",
            "/r/<id> already exists and matches the same paths",
            id="another placeholder's name",
        ),
        pytest.param({"methods": "TRACE"}, "methods", "never relayed", id="a method"),
        pytest.param({"access": "roles"}, "roles", "at least one role", id="no roles"),
        pytest.param({"roles": "a"}, "roles", "no effect with access authenticated", id="roles for nothing"),
        pytest.param({"refuse_with": "close"}, "refuse_with", "only affects websocket routes", id="a close on HTTP"),
        pytest.param({"message_rate": "5/s"}, "message_rate", "only affects websocket routes", id="a rate on HTTP"),
        pytest.param({"kind": "websocket", "message_rate": "x"}, "message_rate", "is not a valid rate", id="no rate"),
        pytest.param({"kind": "websocket", "methods": "GET"}, "methods", "always a GET", id="a handshake's method"),
        pytest.param({"upstream_path": "/a?b"}, "upstream_path", "only a literal path", id="an upstream path"),
        pytest.param({"max_connections_per_user": "3000000000"}, "max_connections_per_user", "more than", id="a count"),
    ],
)
@pytest.mark.parametrize("inline", [pytest.param(False, id="on its own page"), pytest.param(True, id="inline")])
def test_a_route_that_can_not_be_used_is_refused_at_the_field(
    admin: Client, main: Backend, changed: dict[str, str], field: str, said: str, inline: bool
) -> None:
    """The same on the route's page and on its backend's."""
    Route.objects.create(path="/r/<id>", backend=main)
    Route.objects.create(path="/taken", backend=main)
    if inline:
        other = Backend.objects.create(name="other", urls="http://h")
        data = {f"routes-0-{name}": value for name, value in {**ROUTE, **changed}.items()}
        url = f"/admin/relay/backend/{other.pk}/change/"
        response = admin.post(url, {**BACKEND, "name": "other", **data, "routes-TOTAL_FORMS": "1"})
        (formset,) = response.context["inline_admin_formsets"]
        (errors,) = formset.formset.errors
        assert unescape(errors[field][0]) in unescape(response.content.decode())
    else:
        errors = field_errors(admin.post("/admin/relay/route/add/", {**ROUTE, "backend": main.pk, **changed}))
    assert list(errors) == [field]
    assert said in errors[field][0]
    assert Route.objects.count() == 2


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        pytest.param("null", "can't be allowed", id="null"),
        pytest.param("https://a.b/", "write 'https://a.b'", id="a path"),
        pytest.param("HTTPS://Taken.example:443", "already on the list", id="one that is there, in other words"),
    ],
)
def test_an_origin_that_can_not_be_used_is_refused_at_the_field(admin: Client, origin: str, said: str) -> None:
    """The same rules as in a file."""
    Origin.objects.create(origin="https://taken.example")
    errors = field_errors(admin.post("/admin/relay/origin/add/", {"origin": origin, "enabled": "on"}))
    assert list(errors) == ["origin"]
    assert said in errors["origin"][0]


def test_html_in_a_value_is_shown_as_text(admin: Client) -> None:
    """Paths hold angle brackets, and so may what somebody pastes."""
    response = admin.post("/admin/relay/origin/add/", {"origin": "<script>alert(1)</script>"})
    assert b"<script>alert" not in response.content


def test_a_change_is_logged_with_its_fields(admin: Client, main: Backend) -> None:
    """Who changed what, and when."""
    data = {**BACKEND, "read_timeout": "5", "health_path": "/up"}
    assert admin.post(f"/admin/relay/backend/{main.pk}/change/", data).status_code == 302
    assert log() == [(CHANGE, "main", "Changed Health path and Read timeout.")]


def test_a_backend_takes_its_routes_along_and_says_so_before(admin: Client, main: Backend) -> None:
    """The page that asks lists what goes."""
    Route.objects.create(path="/api/", backend=main)
    url = f"/admin/relay/backend/{main.pk}/delete/"
    assert "http /api/" in admin.get(url).content.decode()
    before = Revision.current().config
    admin.post(url, {"post": "yes"})
    assert not Route.objects.exists()
    assert Revision.current().config > before
    assert (DELETION, "main", "") in log()


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        pytest.param("origin", {"origin": "*"}, "any site may open sockets", id="every origin"),
        pytest.param("origin", {"origin": "https://*.co.uk"}, "anybody can have a site under co.uk", id="a wildcard"),
        pytest.param("route", {**ROUTE, "path": "/health"}, "may never be reached", id="a path of ours"),
    ],
)
def test_what_may_not_be_meant_is_told_when_it_is_saved(
    admin: Client, main: Backend, model: str, data: dict[str, str], said: str
) -> None:
    """Beside the success, as import_config and the start do; a row that is off opens nothing, until it is enabled."""
    data = {**data, "backend": str(main.pk)}
    data.pop("enabled", None)
    off = admin.post(f"/admin/relay/{model}/add/", data, follow=True)
    assert [message.level_tag for message in off.context["messages"]] == ["success"]
    (pk,) = {"origin": Origin, "route": Route}[model]._default_manager.values_list("pk", flat=True)
    for told in (
        admin.post(f"/admin/relay/{model}/", {"action": "enable", "_selected_action": pk}, follow=True),
        admin.post(f"/admin/relay/{model}/{pk}/change/", {**data, "enabled": "on"}, follow=True),
    ):
        assert {message.level_tag for message in told.context["messages"]} == {"success", "warning"}
        assert said in text(told)


def test_a_backends_routes_are_looked_at_as_well(admin: Client) -> None:
    """Saved on its page, together with a certificate that nobody looks at."""
    inline = {f"routes-0-{name}": value for name, value in {**ROUTE, "path": "/metrics"}.items()}
    data = {**BACKEND, **inline, "urls": "https://a", "routes-TOTAL_FORMS": "1"}
    del data["tls_verify"]
    said = text(admin.post("/admin/relay/backend/add/", data, follow=True))
    assert "its certificate is not verified" in said
    assert "may never be reached" in said


# Actions


@pytest.mark.parametrize("model", [Backend, Route, Origin])
@pytest.mark.parametrize(("action", "enabled"), [("enable", True), ("disable", False)])
def test_many_are_switched_at_once(admin: Client, model: Any, action: str, enabled: bool) -> None:
    """Those that change are counted and logged one by one; those that are so already are left alone."""
    backends = [Backend.objects.create(name=f"b{n}", urls="http://h", enabled=n == 0) for n in range(3)]
    for n, backend in enumerate(backends):
        Route.objects.create(path=f"/{n}", backend=backend, enabled=n == 0)
        Origin.objects.create(origin=f"https://{n}.example", enabled=n == 0)
    changed = [str(row) for row in model.objects.filter(enabled=not enabled)]
    before = Revision.current().config
    url = f"/admin/relay/{model._meta.model_name}/"
    data = {"action": action, "_selected_action": [row.pk for row in model.objects.all()]}
    response = admin.post(url, data, follow=True)
    assert f"{len(changed)} {action}d." in response.content.decode()
    assert set(model.objects.values_list("enabled", flat=True)) == {enabled}
    assert Revision.current().config > before
    assert sorted(log()) == sorted((CHANGE, name, f"{action.capitalize()}d.") for name in changed)
    before = Revision.current().config
    response = admin.post(url, data, follow=True)
    assert f"All of them are already {action}d." in response.content.decode()
    assert Revision.current().config == before


def test_deleting_many_is_counted_and_logged(admin: Client, main: Backend) -> None:
    """Django's own action goes past `Model.delete`."""
    routes = [Route.objects.create(path=f"/{n}", backend=main) for n in range(3)]
    before = Revision.current().config
    data = {"action": "delete_selected", "_selected_action": [route.pk for route in routes[:2]], "post": "yes"}
    admin.post("/admin/relay/route/", data)
    assert Route.objects.count() == 1
    assert Revision.current().config > before
    assert sorted(log()) == [(DELETION, "http /0", ""), (DELETION, "http /1", "")]


def test_who_may_only_look_can_not_switch(client: Client, main: Backend) -> None:
    """The actions need the permission to change."""
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.add(*Permission.objects.filter(codename__in=["view_backend", "view_route"]))
    client.force_login(viewer)
    client.post("/admin/relay/backend/", {"action": "disable", "_selected_action": [main.pk]})
    main.refresh_from_db()
    assert main.enabled
    assert b'value="disable"' not in client.get("/admin/relay/backend/").content


# Lists


def test_a_list_costs_the_same_with_many_rows(admin: Client, django_assert_max_num_queries: Any) -> None:
    """No query for each row, in any list, nor for each route of a backend."""

    def queries(url: str) -> int:
        with django_assert_max_num_queries(30) as captured:
            assert admin.get(url).status_code == 200
        return len(captured)

    def fill(first: int, last: int) -> None:
        for n in range(first, last):
            backend = Backend.objects.create(name=f"b{n}", urls="http://h")
            Route.objects.create(path=f"/{n}", backend=backend)
            Route.objects.create(path=f"/common/{n}", backend=Backend.objects.get(name="b0"))
            Origin.objects.create(origin=f"https://{n}.example")
            Revocation.objects.create(kind="user", value=str(n))

    fill(0, 2)
    b0 = Backend.objects.get(name="b0").pk
    urls = [f"/admin/relay/{name}/" for name in ("backend", "route", "origin", "revocation")]
    urls.append(f"/admin/relay/backend/{b0}/change/")
    for url in urls:
        queries(url)  # what is looked up once and remembered must not count
    few = [queries(url) for url in urls]
    fill(2, 12)
    assert all(many <= before for many, before in zip(map(queries, urls), few, strict=True))


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        pytest.param([], "not known yet", id="nobody has told"),
        pytest.param([UrlHealth("http://127.0.0.1:9000", True, 0, "")], "up", id="up"),
        pytest.param(
            [UrlHealth("http://127.0.0.1:9000", False, 0, "/up answered 500")],
            "down http://127.0.0.1:9000: /up answered 500",
            id="down",
        ),
    ],
)
def test_the_list_of_backends_shows_their_health(
    admin: Client, main: Backend, urls: list[UrlHealth], said: str
) -> None:
    """As the processes see it now; one that is to be switched off or mended is found without a second page."""
    Backend.objects.update(health_path="/up")
    told = {"main": {"answers": [], "urls": [asdict(url) for url in urls]}} if urls else {}
    process(figures={**IDLE, "backends": told})
    assert f"main {said} http://127.0.0.1:9000" in text(admin.get("/admin/relay/backend/"))


def test_failures_show_whatever_the_health_path_answers(admin: Client, main: Backend) -> None:
    """Those of the last minute."""
    RefusalRecord.objects.create(
        at=timezone.now(), process="p", kind="http", code="backend_timeout", backend="main", detail="took 5 s"
    )
    assert "failing 1 failed in the last minute: took 5 s" in text(admin.get("/admin/relay/backend/"))


def test_times_are_told_with_their_zone(admin: Client, main: Backend) -> None:
    """In Django's own pages too, in the order of the log's."""
    admin.post(f"/admin/relay/backend/{main.pk}/change/", {**BACKEND, "connect_timeout": "6"})
    history = text(admin.get(f"/admin/relay/backend/{main.pk}/history/"))
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", history)


def test_lists_show_what_matters(admin: Client, main: Backend) -> None:
    """Where a backend listens and how many routes lead to it; who gets in at a route."""
    Route.objects.create(path="/a", backend=main, access="roles", roles="admin,ops")
    Route.objects.create(path="/b", backend=main)
    backends, routes = (admin.get(f"/admin/relay/{name}/").content.decode() for name in ("backend", "route"))
    assert "http://127.0.0.1:9000" in backends
    assert f'<a href="/admin/relay/route/?backend__id__exact={main.pk}">2</a>' in backends
    assert "admin, ops" in routes


@pytest.mark.parametrize("name", ["backend", "route", "origin", "revocation"])
def test_lists_can_be_searched(admin: Client, name: str) -> None:
    """Every list answers a search."""
    assert admin.get(f"/admin/relay/{name}/?q=x").status_code == 200


def test_the_admin_is_named_for_what_it_is(admin: Client) -> None:
    """Not "Django administration"."""
    page = admin.get("/admin/").content.decode()
    assert "Django administration" not in page
    assert re.search(r"<title>[^<]*Gateway", page)
