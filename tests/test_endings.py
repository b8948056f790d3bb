"""relay.routing.endings: which live sockets a configuration change ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.routing.endings import ended_by
from relay.routing.snapshot import Backend, Origin, Rate, Route, Snapshot, Url
from tests.live_helpers import CHAT, MAIN, URL, Socket, identity

APP = Origin("https://app.example.com")
WILD = Origin("https://*.example.com")
SECOND = Url.parse("http://127.0.0.1:9001")
OTHER = Backend("other", (SECOND,))
ADMINS = replace(CHAT, access="roles", roles=("admin", "staff"))


def snapshot(
    backends: tuple[Backend, ...] = (MAIN, OTHER),
    routes: tuple[Route, ...] = (CHAT, Route("/api/", "http", "main")),
    origins: tuple[Origin, ...] = (APP,),
    revision: int = 2,
) -> Snapshot:
    return Snapshot.build(backends, routes, origins, revision)


def socket(**changes: object) -> Socket:
    return Socket(**{"identity": identity(), "origin": "https://app.example.com", **changes})


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(snapshot(), id="the same rows under a new revision"),
        pytest.param(snapshot(backends=(OTHER, MAIN), origins=(WILD, APP)), id="another order, an origin more"),
        pytest.param(snapshot(origins=(replace(APP, note="frontend"),)), id="a note"),
        pytest.param(snapshot(origins=(WILD,)), id="a wildcard in place of the origin"),
        pytest.param(snapshot(backends=(replace(MAIN, max_message_size=1), OTHER)), id="the backend's limits"),
        pytest.param(snapshot(backends=(replace(MAIN, connect_timeout=1, read_timeout=1), OTHER)), id="its times"),
        pytest.param(snapshot(backends=(replace(MAIN, health_path="/up"), OTHER)), id="its health path"),
        pytest.param(snapshot(backends=(replace(MAIN, tls_verify=False), OTHER)), id="its tls_verify"),
        pytest.param(snapshot(backends=(replace(MAIN, websocket_origin="forward"), OTHER)), id="what it is sent"),
        pytest.param(snapshot(backends=(replace(MAIN, urls=(SECOND, URL)), OTHER)), id="a url more"),
        pytest.param(
            snapshot(backends=(replace(MAIN, urls=(Url.parse("http://127.0.0.1:9000/"),)), OTHER)),
            id="its url in another spelling",
        ),
        pytest.param(snapshot(routes=(replace(CHAT, idle_timeout=5, max_connections_per_user=1),)), id="route limits"),
        pytest.param(snapshot(routes=(replace(CHAT, message_rate=Rate(1, 1, 1)),)), id="the route's message rate"),
        pytest.param(snapshot(routes=(replace(CHAT, refuse_with="close"),)), id="the route's way to refuse"),
        pytest.param(snapshot(routes=(replace(CHAT, access="public"),)), id="a route that opens to all"),
        pytest.param(snapshot(routes=(replace(ADMINS, roles=("user",)),)), id="a role that the user has"),
        pytest.param(snapshot(routes=(replace(CHAT, methods=("GET",)),)), id="the method that a handshake has"),
        pytest.param(
            snapshot(routes=(replace(CHAT, methods=("GET",)), replace(CHAT, backend="other"))),
            id="a route without methods beside one with",
        ),
        pytest.param(snapshot(routes=(CHAT, Route("/ws", "http", "other"))), id="an HTTP route at its path"),
        pytest.param(snapshot(routes=(CHAT, Route("/ws/", "websocket", "other"))), id="another route"),
        pytest.param(snapshot(backends=(MAIN,)), id="another backend deleted"),
    ],
)
def test_a_change_that_does_not_concern_a_socket_leaves_it(new):
    """Contract, section 3: without touching any socket that it does not concern."""
    assert not ended_by(new)(socket())


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(snapshot(routes=()), id="route deleted"),
        pytest.param(snapshot(routes=(replace(CHAT, enabled=False),)), id="route disabled"),
        pytest.param(snapshot(routes=(replace(CHAT, path="/chat"),)), id="route under another path"),
        pytest.param(snapshot(routes=(Route("/ws", "http", "main"),)), id="route made an HTTP one"),
        pytest.param(snapshot(routes=(replace(CHAT, methods=("POST",)),)), id="route without the handshake's method"),
        pytest.param(snapshot(routes=(replace(CHAT, backend="other"),)), id="route to another backend"),
        pytest.param(snapshot(routes=(replace(CHAT, upstream_path="/v2"),)), id="route to another path there"),
        pytest.param(snapshot(routes=(ADMINS,)), id="route wants a role"),
        pytest.param(snapshot(backends=(OTHER,)), id="backend deleted"),
        pytest.param(snapshot(backends=(replace(MAIN, enabled=False), OTHER)), id="backend disabled"),
        pytest.param(snapshot(backends=(replace(MAIN, urls=(SECOND,)), OTHER)), id="its url replaced"),
        pytest.param(
            snapshot(backends=(replace(MAIN, urls=(Url.parse("http://127.0.0.1:9000/v2"),)), OTHER)),
            id="its url with another prefix",
        ),
        pytest.param(snapshot(origins=()), id="origin deleted"),
        pytest.param(snapshot(origins=(replace(APP, enabled=False),)), id="origin disabled"),
        pytest.param(snapshot(origins=(Origin("https://*.app.example.com"),)), id="a wildcard that is not it"),
        pytest.param(snapshot((), (), ()), id="everything deleted"),
    ],
)
def test_a_change_that_takes_a_sockets_place_ends_it(new):
    """Contract, section 6: its route, backend or origin is disabled or deleted; or leads or belongs elsewhere now."""
    assert ended_by(new)(socket())


@pytest.mark.parametrize(
    ("new", "ends"),
    [
        pytest.param(snapshot(), True, id="now only with a token"),
        pytest.param(snapshot(routes=(ADMINS,)), True, id="now only with a role"),
        pytest.param(snapshot(routes=(replace(CHAT, access="public"),)), False, id="still public"),
        pytest.param(snapshot(routes=(replace(CHAT, access="public"),), origins=()), False, id="no origin at all"),
    ],
)
def test_a_socket_of_nobody_needs_a_public_route(new, ends):
    """It was opened on a public route without a token, and without an Origin."""
    assert ended_by(new)(socket(identity=None, origin="")) is ends


def test_only_the_users_who_lack_the_new_role_go():
    """One route, two users, one tightened access."""
    ends = ended_by(snapshot(routes=(ADMINS,)))
    assert not ends(socket(identity=identity(roles=("staff", "user"))))
    assert ends(socket(identity=identity(roles=())))


def test_of_several_urls_only_the_sockets_of_the_removed_one_go():
    """A backend loses one of two urls."""
    both = replace(MAIN, urls=(URL, SECOND))
    ends = ended_by(snapshot(backends=(replace(MAIN, urls=(SECOND,)),)))
    assert ends(socket(backend=both, url=URL))
    assert not ends(socket(backend=both, url=SECOND))
