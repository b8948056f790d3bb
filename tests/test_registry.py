"""relay.live.registry: the live sockets of a process."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from relay.live import registry as live
from relay.live.registry import DRAIN, KICKED, Registry, end_each
from tests.live_helpers import CHAT, Socket, identity


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_sockets_are_found_by_id_user_and_token(registry):
    """A user's tokens are told apart, and a user from all others."""
    one = Socket(identity("1", "a"))
    other_token = Socket(identity("1", "b"))
    other_user = Socket(identity("2", "c"))
    for socket in (one, other_token, other_user):
        registry.add(socket)
    assert len(registry) == 3
    assert {s.id for s in registry} == {one.id, other_token.id, other_user.id}
    assert registry.get(one.id) is one
    assert registry.of_user("1") == (one, other_token)
    assert registry.by_fingerprint("a") == (one,)


def test_what_was_removed_leaves_nothing_behind(registry):
    """Neither an entry nor an empty shelf: a gateway lives for months."""
    sockets = [Socket(identity(str(n % 7), f"f{n % 11}")) for n in range(100)] + [Socket(None)]
    random.shuffle(sockets)
    for socket in sockets:
        registry.add(socket)
        assert registry.reserve(CHAT.key, "1", 0)
    random.shuffle(sockets)
    for socket in sockets:
        registry.remove(socket)
        registry.release(CHAT.key, "1")
    assert len(registry) == 0
    assert not any(vars(registry).values())


def test_unknown_sockets_and_users_are_nobody(registry):
    """Looking for what isn't there, or removing it, is no error."""
    registry.remove(Socket(identity()))
    assert registry.get("none") is None
    assert registry.of_user("1") == registry.by_fingerprint("f1") == ()


def test_a_socket_without_an_identity_belongs_to_no_user(registry):
    """Public routes carry sockets of nobody; an empty user id finds none of them."""
    registry.add(Socket(None))
    assert len(registry) == 1
    assert registry.of_user("") == ()


def test_sockets_may_leave_while_they_are_looked_at(registry):
    """Iteration is over a copy: ending a socket may remove it at once."""
    for _ in range(3):
        registry.add(Socket(identity()))
    for socket in registry:
        registry.remove(socket)
    assert len(registry) == 0


def test_reauthentication_moves_the_sockets_of_the_old_token(registry):
    """From then on they belong to the fresh token: found by it, and no longer by the old one."""
    moved, stays = Socket(identity("1", "old")), Socket(identity("1", "another"))
    registry.add(moved)
    registry.add(stays)
    fresh = identity("1", "fresh")
    registry.reauthenticate("old", fresh, lambda it: True)
    assert (moved.identity, stays.identity) == (fresh, identity("1", "another"))
    assert registry.by_fingerprint("old") == ()
    assert registry.by_fingerprint("fresh") == (moved,)
    registry.remove(moved)
    assert registry.by_fingerprint("fresh") == ()
    assert registry.of_user("1") == (stays,)


def test_reauthentication_never_moves_another_users_socket(registry):
    """A fresh token of user 2 has no say over a socket of user 1."""
    socket = Socket(identity("1", "old"))
    registry.add(socket)
    registry.reauthenticate("old", identity("2", "fresh"), lambda it: True)
    assert registry.by_fingerprint("old") == (socket,)


def test_places_are_taken_up_to_the_limit(registry):
    """A handshake that begins counts as well, so two at once can't both be the last one."""
    assert [registry.reserve(CHAT.key, "1", 2) for _ in range(3)] == [True, True, False]
    assert registry.count(CHAT.key, "1") == 2
    registry.release(CHAT.key, "1")
    assert registry.reserve(CHAT.key, "1", 2)


def test_places_are_counted_by_user_and_route(registry):
    """The limit is one user's on one route."""
    other = ("websocket", "/other", ())
    assert registry.reserve(CHAT.key, "1", 1)
    assert registry.reserve(CHAT.key, "2", 1)
    assert registry.reserve(other, "1", 1)
    assert not registry.reserve(CHAT.key, "1", 1)


def test_places_without_a_limit_count_for_a_later_one(registry):
    """A limit that a configuration change sets counts the sockets that were opened without one."""
    assert all(registry.reserve(CHAT.key, "1", 0) for _ in range(5))
    assert not registry.reserve(CHAT.key, "1", 5)
    assert registry.reserve(CHAT.key, "1", 6)


def test_nobody_has_no_limit(registry):
    """Without a user there is no limit per user."""
    assert all(registry.reserve(CHAT.key, "", 1) for _ in range(5))
    assert registry.count(CHAT.key, "") == 0


def test_giving_back_too_often_opens_no_places(registry):
    """A mistake in counting must not lift the limit."""
    registry.release(CHAT.key, "1")
    assert registry.count(CHAT.key, "1") == 0
    assert registry.reserve(CHAT.key, "1", 1)
    assert not registry.reserve(CHAT.key, "1", 1)


def test_ending_may_remove_sockets_at_once(registry):
    """A socket that leaves the registry inside ``end`` does not upset the walk."""

    class Quick(Socket):
        def end(self, ending):
            super().end(ending)
            registry.remove(self)

    sockets = [Quick(identity()) for _ in range(5)]
    for socket in sockets:
        registry.add(socket)
    assert end_each(registry, KICKED) == 5
    assert [s.ended for s in sockets] == [[KICKED]] * 5


async def test_a_drain_is_spread_evenly(registry):
    """So that the clients don't come back all in one moment: at no time is more than a fair share told."""
    told: list[float] = []
    loop = asyncio.get_running_loop()

    class Timed(Socket):
        def end(self, ending):
            super().end(ending)
            told.append(loop.time())

    sockets = [Timed() for _ in range(50)]
    for socket in sockets:
        registry.add(socket)
    started = loop.time()
    await registry.end_all(DRAIN, 0.3)
    assert [s.ended for s in sockets] == [[DRAIN]] * 50
    for place, moment in enumerate(told):
        assert moment - started >= place / 50 * 0.3 - 0.02
    assert told[-1] - started >= 0.2


async def test_a_drain_leaves_out_who_left_and_takes_who_came(registry):
    """Sockets come and go meanwhile."""
    sockets = [Socket() for _ in range(10)]
    for socket in sockets:
        registry.add(socket)
    draining = asyncio.create_task(registry.end_all(DRAIN, 0.1))
    await asyncio.sleep(0)
    left, late = next(s for s in sockets if not s.ended), Socket()
    registry.remove(left)
    registry.add(late)
    await draining
    assert sum(len(socket.ended) for socket in sockets) == 9
    assert (left.ended, late.ended) == ([], [DRAIN])


@pytest.mark.parametrize("seconds", [pytest.param(0, id="no time"), pytest.param(-1, id="less than none")])
async def test_a_drain_without_time_ends_all_at_once(registry, seconds):
    """``DRAIN_SECONDS=0``."""
    for _ in range(100):
        registry.add(Socket())
    await asyncio.wait_for(registry.end_all(DRAIN, seconds), 5)
    assert [socket.ended for socket in registry] == [[DRAIN]] * 100


async def test_a_drain_of_nobody_ends_at_once(registry):
    """An idle gateway stops without delay."""
    await asyncio.wait_for(registry.end_all(DRAIN, 3600), 5)


async def test_a_drain_that_is_cancelled_stops(registry):
    """A second signal ends the process at once; nothing may hold it."""
    for _ in range(100):
        registry.add(Socket())
    draining = asyncio.create_task(registry.end_all(DRAIN, 3600))
    await asyncio.sleep(0)
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining


@pytest.mark.parametrize(
    ("ending", "code", "reason"),
    [
        pytest.param(live.EXPIRED, 4401, "token expired", id="expired"),
        pytest.param(live.REVOKED, 4401, "token revoked", id="revoked"),
        pytest.param(live.KICKED, 4403, "disconnected by an administrator", id="kicked"),
        pytest.param(live.CONFIG_CHANGED, 1012, "", id="configuration"),
        pytest.param(live.IDLE, 4408, "idle", id="idle"),
        pytest.param(live.RATE, 1008, "", id="rate"),
        pytest.param(live.DRAIN, 1012, "service restart", id="drain"),
    ],
)
def test_endings_are_those_of_the_contract(ending, code, reason):
    """Section 6."""
    assert (ending.code, ending.reason) == (code, reason)


def test_adding_and_removing_cost_the_same_however_many_there_are(registry):
    """Ten thousand sockets more don't make the next one slow (a scan would take a thousand times longer)."""

    def cost() -> float:
        socket, best = Socket(identity("me", "mine")), 1.0
        for _ in range(200):
            started = time.perf_counter()
            registry.add(socket)
            registry.by_fingerprint("mine")
            registry.remove(socket)
            best = min(best, time.perf_counter() - started)
        return best

    alone = cost()
    for n in range(10_000):
        registry.add(Socket(identity("crowd", f"f{n}")))
    assert cost() < alone * 20
