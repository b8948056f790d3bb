"""Tickets against the real database: `relay.identity.tickets`."""

from __future__ import annotations

import asyncio
import time

import pytest
from django.db import connection

from relay import database
from relay.database import DatabaseUnavailable
from relay.identity import tickets as module
from relay.identity.model import Identity
from relay.identity.tickets import LIFETIME, InvalidTicket, Tickets
from relay.models import Ticket
from tests.identity_helpers import identity

pytestmark = pytest.mark.django_db(transaction=True)

ORIGIN = "https://app.example.com"


class Clock:
    def __init__(self):
        self.now = float(int(time.time()))

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tickets(clock):
    return Tickets(clock)


async def test_a_ticket_gives_back_the_whole_identity(tickets):
    """Expiry and revocation of its token stay with the socket (contract §6)."""
    who = identity(user_id="Ω", roles=("a", "b"), role="a,b", jti="j", issued_at=None)
    ticket = await tickets.issue(who, "/ws", ORIGIN)
    assert await tickets.redeem(ticket, "/ws", ORIGIN) == who


async def test_a_ticket_is_good_once(tickets):
    """Contract §6."""
    ticket = await tickets.issue(identity(), "/ws", ORIGIN)
    await tickets.redeem(ticket, "/ws", ORIGIN)
    with pytest.raises(InvalidTicket, match="already used"):
        await tickets.redeem(ticket, "/ws", ORIGIN)


async def test_of_many_who_come_together_one_gets_in(tickets):
    """The row that one process deletes no other finds; a database too busy to answer loses no ticket."""
    ticket = await tickets.issue(identity(), "/ws", ORIGIN)
    outcomes = await asyncio.gather(
        *(Tickets().redeem(ticket, "/ws", ORIGIN) for _ in range(20)), return_exceptions=True
    )
    redeemed = [outcome for outcome in outcomes if isinstance(outcome, Identity)]
    assert all(isinstance(o, Identity | InvalidTicket | DatabaseUnavailable) for o in outcomes)
    assert len(redeemed) + await Ticket.objects.acount() == 1


@pytest.mark.parametrize(
    ("path", "origin", "says"),
    [
        pytest.param("/ws/", ORIGIN, "it is for /ws, and was used on /ws/", id="another path"),
        pytest.param("/WS", ORIGIN, "was used on /WS", id="paths have a case"),
        pytest.param("/ws", "https://evil.example", "came from https://evil.example", id="another origin"),
        pytest.param("/ws", "", r"came from \(none\)", id="no origin"),
        pytest.param("/ws", "null", "came from null", id="origin null"),
    ],
)
async def test_a_ticket_in_the_wrong_place_is_refused_and_dead(tickets, path, origin, says):
    """Who tries it elsewhere is not its owner: nobody gets another try."""
    ticket = await tickets.issue(identity(), "/ws", ORIGIN)
    with pytest.raises(InvalidTicket, match=says) as caught:
        await tickets.redeem(ticket, path, origin)
    assert ticket not in str(caught.value)
    with pytest.raises(InvalidTicket, match="already used"):
        await tickets.redeem(ticket, "/ws", ORIGIN)


async def test_a_ticket_without_an_origin_is_for_handshakes_without_one(tickets):
    """Contract §6: none matches none."""
    await tickets.redeem(await tickets.issue(identity(), "/ws", ""), "/ws", "")
    with pytest.raises(InvalidTicket, match=r"it is for origin \(none\)"):
        await tickets.redeem(await tickets.issue(identity(), "/ws", ""), "/ws", ORIGIN)


async def test_a_ticket_expires(tickets, clock):
    """Half a minute is enough for a page to open its socket."""
    early, late = [await tickets.issue(identity(), "/ws", "") for _ in range(2)]
    clock.now += LIFETIME - 1
    await tickets.redeem(early, "/ws", "")
    clock.now += 1
    with pytest.raises(InvalidTicket, match="expired at"):
        await tickets.redeem(late, "/ws", "")


async def test_a_ticket_does_not_outlive_its_token(tickets, clock):
    """The token may have had a few seconds left when the ticket was made."""
    ticket = await tickets.issue(identity(expires_at=clock.now + 5), "/ws", "")
    clock.now += 5
    with pytest.raises(InvalidTicket, match="its token has expired"):
        await tickets.redeem(ticket, "/ws", "")


@pytest.mark.parametrize("ticket", ["", "x", "a" * 42, "a" * 44, "a" * 42 + "!", "ä" * 43, "a" * 43 + "\n"], ids=ascii)
async def test_what_is_no_ticket_is_not_looked_up(tickets, monkeypatch, ticket):
    """Garbage costs no query."""
    monkeypatch.setattr(module, "_take", None)
    with pytest.raises(InvalidTicket, match="does not have the form of a ticket"):
        await tickets.redeem(ticket, "/ws", "")


async def test_an_unknown_ticket_is_refused(tickets):
    """It looks right, and there is no such row."""
    with pytest.raises(InvalidTicket, match="unknown"):
        await tickets.redeem("a" * 43, "/ws", "")


async def test_the_database_holds_no_ticket(tickets):
    """Who reads the table, or a backup of it, can't use what is there."""
    ticket = await tickets.issue(identity(), "/ws", ORIGIN)
    row = await Ticket.objects.aget()
    assert ticket not in str([vars(row), str(row)])
    assert len(row.digest) == 64


@pytest.fixture
def no_table(transactional_db):
    """A database that can't answer."""
    with connection.schema_editor() as editor:
        editor.delete_model(Ticket)
    yield
    with connection.schema_editor() as editor:
        editor.create_model(Ticket)


async def test_a_failing_database_is_told_from_a_bad_ticket(no_table, tickets):
    """Only one of them is the client's to mend."""
    with pytest.raises(DatabaseUnavailable, match="no such table"):
        await tickets.redeem("a" * 43, "/ws", ORIGIN)
    with pytest.raises(DatabaseUnavailable):
        await tickets.issue(identity(), "/ws", ORIGIN)


async def test_a_database_that_does_not_answer_is_not_waited_for(tickets, monkeypatch):
    """A handshake has a limit, too."""
    monkeypatch.setattr(database, "PATIENCE", 0.01)
    answer = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hangs(*args):
        asyncio.run_coroutine_threadsafe(answer.wait(), loop).result(10)

    monkeypatch.setattr(module, "_take", hangs)
    with pytest.raises(DatabaseUnavailable, match=r"did not answer within 0\.01 s"):
        await tickets.redeem("a" * 43, "/ws", ORIGIN)
    answer.set()
