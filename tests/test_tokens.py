"""Which tokens are good, and which of several counts: `relay.identity.tokens`."""

from __future__ import annotations

import time

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.identity import tokens
from relay.identity.errors import ExpiredToken, InvalidToken, TokenError
from relay.identity.model import Presented, fingerprint
from relay.identity.tokens import Verifier, choose
from tests.identity_helpers import (
    OTHER_SECRET,
    SECRET,
    FromNow,
    claims,
    handmade,
    identity,
    part,
    relay_settings,
    token,
)

HS256 = {"alg": "HS256", "typ": "JWT"}


class Clock:
    """A time that a test turns on."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def verify(text, **changes):
    return Verifier(relay_settings(**changes)).verify(text)


def test_a_token_of_the_seed_is_valid_as_it_is():
    """Contract §2: HS256, with neither jti nor token_type."""
    facts = claims()
    text = jwt.encode(facts, SECRET, algorithm="HS256")
    found = verify(text)
    assert (found.user_id, found.email, found.role, found.roles) == ("1", "a@example.com", "user", ("user",))
    assert (found.expires_at, found.issued_at, found.jti) == (facts["exp"], facts["iat"], "")
    assert found.fingerprint == fingerprint(text)


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        pytest.param({}, {"iat": ...}, id="no iat"),
        pytest.param({}, {"jti": "x"}, id="a jti"),
        pytest.param({}, {"sub": 5}, id="an integer sub"),
        pytest.param({"jwt_user_id_claim": "sub"}, {"sub": 5}, id="an integer sub as the user id"),
        pytest.param({}, {"aud": "someone", "iss": "someone"}, id="issuer and audience that nobody asks for"),
        pytest.param({"jwt_issuer": "us"}, {"iss": "us"}, id="our issuer"),
        pytest.param({"jwt_audience": "us"}, {"aud": ["them", "us"]}, id="our audience among others"),
        pytest.param({"jwt_leeway": 60}, {"exp": FromNow(-30)}, id="expired within the leeway"),
        pytest.param({"jwt_leeway": 60}, {"iat": FromNow(30)}, id="issued in the future within the leeway"),
        pytest.param({}, {"nbf": FromNow(-5)}, id="nbf that has passed"),
        pytest.param({}, {"exp": FromNow(60.5)}, id="an exp with a fraction"),
    ],
)
def test_good_tokens(changes, given):
    """Contract §2, §4."""
    assert verify(token(**given), **changes).email == "a@example.com"


@pytest.mark.parametrize(
    ("changes", "given", "says"),
    [
        pytest.param({}, {"exp": ...}, "exp is missing", id="no exp"),
        pytest.param({}, {"exp": None}, "exp is missing", id="null exp"),
        pytest.param({}, {"exp": "4000000000"}, "exp is not a number", id="exp as a string"),
        pytest.param({}, {"exp": []}, "well-formed", id="exp as a list"),
        pytest.param({}, {"exp": 1e300}, "exp is not a valid time", id="exp beyond all time"),
        pytest.param({}, {"iat": "100"}, "iat is not a number", id="iat as a string"),
        pytest.param({}, {"iat": FromNow(60)}, r"iat lies \d+ s in the future", id="issued in the future"),
        pytest.param({}, {"iat": 10**400}, r"iat lies 9{20} s", id="issued in a future beyond all time"),
        pytest.param({}, {"nbf": FromNow(60)}, r"nbf lies \d+ s in the future", id="not valid yet"),
        pytest.param({}, {"jti": 5}, "jti", id="a jti that is no string"),
        pytest.param({}, {"user_id": ...}, "user_id", id="no user id"),
        pytest.param({"jwt_issuer": "us"}, {"iss": "them"}, "iss is 'them', JWT_ISSUER is 'us'", id="another issuer"),
        pytest.param({"jwt_issuer": "us"}, {"iss": ...}, "iss is missing", id="no issuer"),
        pytest.param(
            {"jwt_audience": "us"}, {"aud": ["x"]}, r"aud is \['x'\], JWT_AUDIENCE is 'us'", id="another audience"
        ),
        pytest.param({"jwt_audience": "us"}, {"aud": 5}, "aud is 5", id="an audience that is a number"),
        pytest.param({"jwt_audience": "us"}, {}, "aud is missing", id="no audience"),
    ],
)
def test_well_signed_tokens_that_are_invalid(changes, given, says):
    """Contract §4; the log says what was compared with what."""
    with pytest.raises(InvalidToken, match=says):
        verify(token(**given), **changes)


@pytest.mark.parametrize("ago", [0, 1, 3600, 10**400], ids=["now", "a second ago", "an hour ago", "before all time"])
def test_an_expired_token_is_expired(ago):
    """Good until ``exp``, not at it (RFC 7519 §4.1.4); the log says since when."""
    with pytest.raises(ExpiredToken, match=r"exp passed \d+ s ago") as caught:
        verify(token(exp=int(time.time()) - ago))
    assert caught.value.code == "expired_token"


def test_an_expired_token_with_a_bad_signature_is_invalid():
    """Its claims mean nothing then."""
    with pytest.raises(InvalidToken):
        verify(token(OTHER_SECRET, exp=1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "compact", id="empty"),
        pytest.param("abc", "compact", id="one part"),
        pytest.param("a.b", "compact", id="two parts"),
        pytest.param("a.b.c.d", "compact", id="four parts"),
        pytest.param("a.b.c.d.e", "compact", id="five parts, as if encrypted"),
        pytest.param("null", "compact", id="null"),
        pytest.param(token() + "=", "compact", id="padded, which would be a second spelling"),
        pytest.param(token() + "\n", "compact", id="a line end behind it"),
        pytest.param(" " + token(), "compact", id="a space before it"),
        pytest.param("\udcff.a.a", "compact", id="half a surrogate pair"),
        pytest.param("ä.ö.ü", "compact", id="not ASCII"),
        pytest.param("a" * 8193, "8193 characters", id="too long to be looked at"),
        pytest.param(token(OTHER_SECRET), "signature", id="another's signature"),
        pytest.param(token().rpartition(".")[0] + "." + part(b""), "compact", id="no signature"),
        pytest.param(token()[:-4] + "AAAA", "signature|well-formed", id="a changed signature"),
        pytest.param(
            token(algorithm="HS512"), "alg is 'HS512', JWT_ALGORITHMS is HS256", id="an algorithm that is not pinned"
        ),
        pytest.param(jwt.encode(claims(), "", algorithm="none") + "AA", "alg is 'none'", id="none"),
        pytest.param(handmade({"alg": "None"}, claims()), "alg is 'None'", id="None"),
        pytest.param(handmade({"alg": "hs256"}, claims()), "alg is 'hs256'", id="algorithms have a case"),
        pytest.param(handmade({}, claims()), "not a string", id="no alg"),
        pytest.param(handmade({"alg": ["HS256"]}, claims()), "not a string", id="alg as a list"),
        pytest.param(handmade({"alg": None}, claims()), "not a string", id="alg null"),
        pytest.param(handmade(HS256 | {"kid": 5}, claims()), "not a string", id="kid as a number"),
        pytest.param(handmade(HS256 | {"crit": ["exp"]}, claims()), "crit", id="crit with a claim"),
        pytest.param(handmade(HS256 | {"crit": []}, claims()), "crit", id="crit with nothing"),
        pytest.param(handmade(HS256 | {"crit": ["b64"], "b64": True}, claims()), "crit", id="crit that PyJWT knows"),
        pytest.param(handmade(HS256 | {"b64": False}, claims()), "crit", id="b64 without crit"),
        pytest.param(handmade(b"\xff", claims()), "not JSON", id="a header of bytes"),
        pytest.param(handmade(b"[" * 5000, claims()), "not JSON", id="a header that nests deeply"),
        pytest.param(handmade(["HS256"], claims()), "not a JSON object", id="a header that is a list"),
        pytest.param(handmade(HS256, b"\xff\xfe"), "well-formed", id="a payload of bytes"),
        pytest.param(handmade(HS256, [1]), "well-formed", id="a payload that is a list"),
        pytest.param(handmade(HS256, "text"), "well-formed", id="a payload that is a string"),
        pytest.param(handmade(HS256, None), "well-formed", id="a payload that is null"),
        pytest.param(handmade(HS256, b"[" * 5000), "well-formed", id="a payload that nests deeply"),
        pytest.param(handmade(HS256, b'{"exp":' + b"9" * 5000 + b"}"), "well-formed", id="a number of 5000 digits"),
    ],
)
def test_what_is_no_good_token_is_invalid(text, says):
    """RFC 7515 §5.2, RFC 8725 §3: no exception but ours comes out, and none of them holds the token."""
    with pytest.raises(InvalidToken, match=says) as caught:
        verify(text)
    assert caught.value.code == "invalid_token"
    assert not text or text not in str(caught.value)


@given(st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_=-]*\.[A-Za-z0-9_=-]*\.[A-Za-z0-9_=-]*", fullmatch=True)))
def test_no_garbage_gets_in_or_breaks_anything(text):
    """Whatever is sent as a token is refused as one."""
    with pytest.raises(TokenError):
        VERIFIER.verify(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**500), 10**500) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["user_id", "email", "role", "exp", "iat", "nbf", "jti", "sub", "aud", "iss"]), JSON
    )
)
def test_a_well_signed_token_with_any_claims_gives_an_identity_that_can_be_sent_or_is_refused(facts):
    """Contract §5: what becomes a field has no control characters and can be UTF-8."""
    try:
        found = VERIFIER.verify(handmade(HS256, claims() | facts))
    except TokenError:
        return
    assert found.user_id
    for value in (found.user_id, found.email, found.role, *found.roles):
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in value)
        assert value == value.strip()
        assert value.encode().decode() == value
    assert found.expires_at > time.time()


@given(st.dictionaries(st.text(max_size=5), JSON), st.integers(0, 2))
def test_a_header_with_anything_else_in_it_changes_nothing_about_the_signature(header, seed):
    """Only a token that our secret signed with HS256 gets in, whatever its header says besides."""
    forged = handmade(header | {"alg": ["HS256", "none", "RS256"][seed]}, claims(), OTHER_SECRET)
    with pytest.raises(TokenError):
        VERIFIER.verify(forged)


VERIFIER = Verifier(relay_settings())


def test_the_previous_secret_counts_until_its_time():
    """Contract §2: rotation without logging anyone out, even for tokens that were verified already."""
    clock = Clock()
    until = clock.now + 100
    verifier = Verifier(
        relay_settings(jwt_previous_secret=OTHER_SECRET, jwt_previous_until=until, jwt_secret=SECRET), clock
    )
    old, new = token(OTHER_SECRET), token()
    assert verifier.verify(old) == verifier.verify(old)
    verifier.verify(new)
    clock.now = until
    with pytest.raises(InvalidToken, match="matches no key"):
        verifier.verify(old)
    verifier.verify(new)


def test_a_previous_secret_without_a_time_counts_until_it_is_removed():
    """Contract §2."""
    verify(token(OTHER_SECRET), jwt_secret=SECRET, jwt_previous_secret=OTHER_SECRET)


def test_a_token_of_the_previous_secret_expires_as_expired():
    """The code tells a client to log in again, whichever secret it was."""
    with pytest.raises(ExpiredToken):
        verify(token(OTHER_SECRET, exp=1), jwt_secret=SECRET, jwt_previous_secret=OTHER_SECRET)


def test_several_algorithms_may_be_pinned():
    """Contract §2: JWT_ALGORITHMS."""
    for algorithm in ("HS256", "HS512"):
        verify(token(algorithm=algorithm), jwt_algorithms=("HS256", "HS512"))
    with pytest.raises(InvalidToken, match="alg is 'HS384'"):
        verify(token(algorithm="HS384"), jwt_algorithms=("HS256", "HS512"))


def test_a_verified_token_is_remembered_until_its_deadline():
    """The second look costs no signature, and the memory never outlives the token."""
    clock = Clock()
    verifier = Verifier(relay_settings(jwt_leeway=10), clock)
    text = token(exp=int(clock.now) + 100)
    first = verifier.verify(text)
    assert verifier.verify(text) is first
    clock.now = int(clock.now) + 109
    assert verifier.verify(text) is first
    clock.now += 1
    with pytest.raises(ExpiredToken):
        verifier.verify(text)


def test_the_memory_forgets_the_least_recently_used_token_first(monkeypatch):
    """Its size is bounded, however many users there are."""
    monkeypatch.setattr(tokens, "REMEMBERED", 2)
    verifier = Verifier(relay_settings())
    one, two, three = (token(user_id=i) for i in range(3))
    first, second = verifier.verify(one), verifier.verify(two)
    assert verifier.verify(one) is first
    verifier.verify(three)
    assert verifier.verify(one) is first
    assert verifier.verify(two) is not second


def test_a_token_that_is_refused_is_not_remembered():
    """Strangers can't push good tokens out of the memory."""
    verifier = Verifier(relay_settings())
    for _ in range(3):
        with pytest.raises(InvalidToken):
            verifier.verify(token(OTHER_SECRET))
    assert not verifier._verified


def test_an_expired_token_can_still_say_whose_it_was():
    """For /gateway/session: the previous token may just have expired, but must be ours."""
    verifier = Verifier(relay_settings(jwt_issuer="us"))
    assert verifier.verify_expired(token(exp=1, iss="us")).user_id == "1"
    assert verifier.verify_expired(token(iss="us")).user_id == "1"
    for bad in (token(OTHER_SECRET, exp=1, iss="us"), token(exp=1, iss="them"), token(exp=..., iss="us"), "x"):
        with pytest.raises(InvalidToken):
            verifier.verify_expired(bad)


def test_the_fingerprint_names_what_was_signed_and_not_the_signature():
    """An ECDSA signature can be replaced by another good one: a revoked token must not come back so."""
    text = token()
    assert fingerprint(text) == fingerprint(text.rpartition(".")[0] + ".another")
    assert fingerprint(text) != fingerprint(token(user_id=2))


A, B = identity(fingerprint="a"), identity(fingerprint="b", user_id="2")


def good(place, who):
    return Presented(place, "t", who)


def bad(place, code):
    return Presented(place, "t", None, code, "why")


@pytest.mark.parametrize(
    ("presented", "outcome"),
    [
        pytest.param([], (None, "", "no_token"), id="nothing"),
        pytest.param([good("header", A)], (A, "header", ""), id="one valid"),
        pytest.param([good("header", A), good("cookie", A)], (A, "header", ""), id="the same one twice"),
        pytest.param(
            [bad("header", "expired_token"), good("cookie", A)], (A, "cookie", ""), id="a valid one behind a bad one"
        ),
        pytest.param(
            [good("header", A), bad("cookie", "revoked_token")], (A, "header", ""), id="a stale cookie does no harm"
        ),
        pytest.param(
            [good("header", A), good("cookie", B)], (None, "", "ambiguous_token"), id="two valid in two places"
        ),
        pytest.param(
            [good("cookie", A), good("cookie", B)], (None, "", "ambiguous_token"), id="two valid in one place"
        ),
        pytest.param(
            [good("cookie", A), bad("query", "invalid_token"), good("subprotocol", B)],
            (None, "", "ambiguous_token"),
            id="two valid around a bad one",
        ),
        pytest.param(
            [bad("header", "expired_token"), bad("cookie", "invalid_token")],
            (None, "", "expired_token"),
            id="the code of the first",
        ),
        pytest.param([bad("cookie", "revoked_token")], (None, "", "revoked_token"), id="a revoked one"),
    ],
)
def test_which_token_counts(presented, outcome):
    """Contract §4: the first valid one; two different valid ones never; of none valid the code of the first."""
    who = choose(presented)
    assert (who.identity, who.place, who.code) == outcome
    assert who.presented == tuple(presented)


def test_no_repr_shows_a_token():
    """Tracebacks and debug logs print them."""
    text = token()
    assert text not in repr(choose([Presented("header", text, A)]))
