"""Who asks, as the scope says it: `relay.identity.middleware`."""

from __future__ import annotations

import time

import pytest

from relay.identity.middleware import MOST_TOKENS, Examiner, IdentityMiddleware
from relay.identity.places import Places
from relay.identity.revocation import Revocations, of_token
from relay.identity.tickets import Tickets
from relay.identity.tokens import Verifier
from tests.identity_helpers import OTHER_SECRET, identity, relay_settings, token

A, B = token(user_id=1), token(user_id=2)
EXPIRED, FOREIGN = token(exp=1), token(OTHER_SECRET)
ORIGIN = "https://app.example.com"


class Front:
    """The middleware around an application that keeps the scope it is given."""

    def __init__(self, **settings):
        self.verifier, self.revocations, self.tickets = Verifier(relay_settings(**settings)), Revocations(), Tickets()
        examiner = Examiner(self.verifier, self.revocations)
        self.middleware = IdentityMiddleware(self._keep, Places(), examiner, self.tickets)
        self.scope = None

    async def _keep(self, scope, receive, send):
        self.scope = scope

    async def __call__(self, kind="websocket", query="", path="/ws", **fields):
        headers = [
            (name.encode(), value.encode())
            for name, values in fields.items()
            for value in (values if isinstance(values, list) else [values])
        ]
        scope = {"type": kind, "path": path, "query_string": query.encode(), "headers": headers}
        await self.middleware(scope, None, None)
        assert self.scope is scope
        return scope["identity"]

    def revoke(self, text):
        self.revocations.add([of_token(self.verifier.verify(text), time.time())])


@pytest.fixture
def front():
    return Front()


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_nothing_presented_is_nobody(front, kind):
    """And no refusal: on a public route that is fine."""
    who = await front(kind)
    assert (who.identity, who.place, who.code, who.presented) == (None, "", "no_token", ())


async def test_other_scopes_pass_untouched(front):
    """Lifespan has no headers, and nobody asks."""
    await front.middleware({"type": "lifespan"}, None, None)
    assert front.scope == {"type": "lifespan"}


@pytest.mark.parametrize(
    ("sent", "outcome"),
    [
        pytest.param({"authorization": f"Bearer {A}"}, ("1", "header", ""), id="header"),
        pytest.param({"cookie": f"auth_token={A}"}, ("1", "cookie", ""), id="cookie"),
        pytest.param({"query": f"token={A}"}, ("1", "query", ""), id="query"),
        pytest.param({"sec-websocket-protocol": f"chat, bearer.{A}"}, ("1", "subprotocol", ""), id="subprotocol"),
        pytest.param(
            {"authorization": f"Bearer {A}", "cookie": f"auth_token={EXPIRED}"},
            ("1", "header", ""),
            id="a stale cookie",
        ),
        pytest.param(
            {"authorization": f"Bearer {FOREIGN}", "cookie": f"auth_token={A}"},
            ("1", "cookie", ""),
            id="someone else's Authorization",
        ),
        pytest.param({"authorization": "Basic dTpw", "query": f"token={A}"}, ("1", "query", ""), id="another scheme"),
        pytest.param({"authorization": f"Bearer {A}", "query": f"token={A}"}, ("1", "header", ""), id="twice the same"),
        pytest.param(
            {"authorization": f"Bearer {A}", "query": f"token={B}"},
            (None, "", "ambiguous_token"),
            id="two in two places",
        ),
        pytest.param(
            {"cookie": [f"auth_token={A}", f"auth_token={B}"]}, (None, "", "ambiguous_token"), id="two cookies"
        ),
        pytest.param(
            {"authorization": f"Bearer {A}", "sec-websocket-protocol": f"bearer.{B}"},
            (None, "", "ambiguous_token"),
            id="header and subprotocol",
        ),
        pytest.param(
            {"authorization": f"Bearer {EXPIRED}", "cookie": f"auth_token={FOREIGN}"},
            (None, "", "expired_token"),
            id="the first says why",
        ),
        pytest.param({"cookie": f"auth_token={FOREIGN}"}, (None, "", "invalid_token"), id="not ours"),
    ],
)
async def test_which_token_counts(front, sent, outcome):
    """Contract §4."""
    who = await front(**sent)
    assert (who.identity and who.identity.user_id, who.place, who.code) == outcome
    assert not any(text in who.detail for text in (A, B, EXPIRED, FOREIGN))


async def test_a_revoked_token_counts_no_more_though_it_was_verified(front):
    """Contract §6; another valid one beside it counts still."""
    assert (await front(authorization=f"Bearer {A}")).identity
    front.revoke(A)
    who = await front(authorization=f"Bearer {A}")
    assert (who.identity, who.code, who.presented[0].identity) == (None, "revoked_token", None)
    assert (await front(authorization=f"Bearer {A}", cookie=f"auth_token={B}")).identity.user_id == "2"


async def test_only_so_many_tokens_are_verified(front):
    """Signatures cost; a request with a thousand different tokens is no user's, and copies cost nothing."""
    copies = [f"auth_token={A}"] * (MOST_TOKENS + 1)
    assert (await front(cookie=copies)).identity
    many = [f"auth_token={token(jti=str(n))}" for n in range(MOST_TOKENS + 1)]
    who = await front(cookie=many)
    assert (who.identity, who.code) == (None, "invalid_token")
    assert [presented.judged for presented in who.presented] == [False] * (MOST_TOKENS + 1)


@pytest.mark.django_db(transaction=True)
class TestTickets:
    """Contract §6: a ticket instead of a token in the URL."""

    async def test_a_ticket_names_its_user(self, front):
        """And keeps the token's expiry and revocation."""
        who = identity(user_id="7")
        ticket = await front.tickets.issue(who, "/ws", ORIGIN)
        found = await front(query=f"a=1&ticket={ticket}", origin=ORIGIN)
        assert (found.identity, found.place, found.code) == (who, "ticket", "")

    async def test_beside_a_token_the_ticket_decides(self, front):
        """The token is known still, so that it can be taken out of the request."""
        ticket = await front.tickets.issue(identity(user_id="7"), "/ws", "")
        found = await front(query=f"ticket={ticket}", authorization=f"Bearer {A}")
        assert (found.identity.user_id, found.place) == ("7", "ticket")
        assert [presented.value for presented in found.presented] == [A]

    async def test_a_bad_ticket_beside_a_good_token_is_refused(self, front):
        """It decides, whatever it says."""
        found = await front(query="ticket=nonsense", authorization=f"Bearer {A}")
        assert (found.identity, found.place, found.code) == (None, "", "invalid_ticket")
        assert len(found.presented) == 1

    async def test_a_ticket_works_once(self, front):
        """The second handshake is refused."""
        ticket = await front.tickets.issue(identity(), "/ws", "")
        assert (await front(query=f"ticket={ticket}")).identity
        again = await front(query=f"ticket={ticket}")
        assert (again.code, again.detail) == ("invalid_ticket", "unknown, or already used")

    async def test_two_tickets_are_none(self, front):
        """The same one twice is one."""
        one, two = [await front.tickets.issue(identity(), "/ws", "") for _ in range(2)]
        assert (await front(query=f"ticket={one}&ticket={two}")).code == "invalid_ticket"
        assert (await front(query=f"ticket={one}&%74icket={one}")).identity

    @pytest.mark.parametrize(
        ("origins", "code"),
        [
            pytest.param([ORIGIN], "", id="its origin"),
            pytest.param([], "invalid_ticket", id="none"),
            pytest.param(["https://evil.example"], "invalid_ticket", id="another"),
            pytest.param([ORIGIN, "https://evil.example"], "invalid_ticket", id="two, one of them its own"),
        ],
    )
    async def test_a_ticket_is_for_one_origin(self, front, origins, code):
        """Contract §6: the POST's ``Origin``."""
        ticket = await front.tickets.issue(identity(), "/ws", ORIGIN)
        assert (await front(query=f"ticket={ticket}", origin=origins)).code == code

    async def test_a_ticket_of_a_revoked_token_is_revoked(self, front):
        """Within its half minute, too."""
        front.revoke(A)
        ticket = await front.tickets.issue(front.verifier.verify(A), "/ws", "")
        assert (await front(query=f"ticket={ticket}")).code == "revoked_token"

    async def test_http_knows_no_tickets(self, front):
        """There the parameter is the backend's own."""
        ticket = await front.tickets.issue(identity(), "/ws", "")
        assert (await front("http", query=f"ticket={ticket}")).code == "no_token"
        assert (await front(query=f"ticket={ticket}")).identity

    async def test_an_empty_ticket_is_none(self, front):
        """A page that has not got one yet may send its token."""
        assert (await front(query=f"ticket=&token={A}")).place == "query"
