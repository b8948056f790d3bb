"""Keys and algorithms: `relay.identity.keys`."""

from __future__ import annotations

import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from relay.identity.errors import InvalidToken, TokenError
from relay.identity.keys import configured, published
from relay.identity.tokens import Verifier
from tests.identity_helpers import (
    OTHER_SECRET,
    SECRET,
    claims,
    handmade,
    jwk,
    part,
    private_key,
    public_pem,
    relay_settings,
    token,
)

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

ASYMMETRIC = [
    *[("RSA", f"{family}{bits}") for family in ("RS", "PS") for bits in (256, 384, 512)],
    ("P-256", "ES256"),
    ("P-384", "ES384"),
    ("P-521", "ES512"),
    ("Ed25519", "EdDSA"),
]


@pytest.mark.parametrize(("kind", "algorithm"), ASYMMETRIC)
def test_a_public_key_verifies_its_algorithm(kind, algorithm):
    """Contract §2: RS, PS, ES and EdDSA keys in PEM."""
    mine, anothers = private_key(kind), private_key(kind, "another's")
    verifier = Verifier(relay_settings(jwt_public_key=public_pem(mine), jwt_algorithms=(algorithm,)))
    assert verifier.verify(token(mine, algorithm)).user_id == "1"
    with pytest.raises(InvalidToken, match="matches no key"):
        verifier.verify(token(anothers, algorithm))


def test_the_public_key_is_no_hmac_secret():
    """The oldest forgery (RFC 8725 §2.1): HS256 with the public key, which everybody has, as the secret."""
    pem = public_pem(private_key("RSA"))
    verifier = Verifier(relay_settings(jwt_public_key=pem, jwt_algorithms=("RS256",)))
    for secret in (pem, pem.strip(), "".join(pem.splitlines()[1:-1])):
        with pytest.raises(InvalidToken, match="alg is 'HS256'"):
            verifier.verify(handmade({"alg": "HS256"}, claims(), secret))


def test_a_token_may_not_choose_another_algorithm_of_the_same_key():
    """Exactly the pinned ones: an RS256 key says nothing about PS256."""
    mine = private_key("RSA")
    verifier = Verifier(relay_settings(jwt_public_key=public_pem(mine), jwt_algorithms=("RS256",)))
    with pytest.raises(InvalidToken, match="JWT_ALGORITHMS is RS256"):
        verifier.verify(token(mine, "PS256"))


def test_a_token_that_brings_its_own_key_is_not_believed():
    """``jwk``, ``jku`` and ``x5u`` of a header are the sender's word (RFC 8725 §3.10)."""
    mine, anothers = private_key("RSA"), private_key("RSA", "another's")
    verifier = Verifier(relay_settings(jwt_public_key=public_pem(mine), jwt_algorithms=("RS256",)))
    header = {
        "jwk": jwk(anothers, "RS256"),
        "jku": "http://127.0.0.1:1/",
        "x5u": "http://127.0.0.1:1/",
        "kid": "../../key",
    }
    with pytest.raises(InvalidToken, match="matches no key"):
        verifier.verify(token(anothers, "RS256", header))


def test_the_other_signature_of_an_ecdsa_token_has_the_same_fingerprint():
    """(r, n - s) is as good as (r, s): it must not be a way around a revocation."""
    mine = private_key("P-256")
    verifier = Verifier(relay_settings(jwt_public_key=public_pem(mine), jwt_algorithms=("ES256",)))
    text = token(mine, "ES256")
    signed, _, signature = text.rpartition(".")
    raw = jwt.utils.base64url_decode(signature)
    r, s = decode_dss_signature(jwt.utils.raw_to_der_signature(raw, mine.curve))
    twin = f"{signed}.{part(r.to_bytes(32, 'big') + (P256_ORDER - s).to_bytes(32, 'big'))}"
    assert twin != text
    assert verifier.verify(twin).fingerprint == verifier.verify(text).fingerprint


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param(
            {"jwt_public_key": public_pem(private_key("RSA")), "jwt_algorithms": ("HS256",)}, "HMAC", id="PEM and HMAC"
        ),
        pytest.param(
            {"jwt_public_key": public_pem(private_key("RSA")), "jwt_algorithms": ("RS256", "HS256")},
            "HMAC",
            id="HMAC besides",
        ),
        pytest.param({"jwt_jwks_url": "http://127.0.0.1:1/", "jwt_algorithms": ("HS256",)}, "HMAC", id="JWKS and HMAC"),
        pytest.param(
            {"jwt_public_key": "-----BEGIN", "jwt_algorithms": ("RS256",)}, "not a public key for RS256", id="no PEM"
        ),
        pytest.param(
            {"jwt_public_key": public_pem(private_key("P-256")), "jwt_algorithms": ("RS256",)},
            "for RS256",
            id="EC key for RSA",
        ),
        pytest.param(
            {"jwt_public_key": public_pem(private_key("P-256")), "jwt_algorithms": ("ES384",)},
            "for ES384",
            id="another curve",
        ),
        pytest.param(
            {"jwt_public_key": public_pem(private_key("RSA-1024")), "jwt_algorithms": ("RS256",)},
            "for RS256",
            id="1024 bits",
        ),
    ],
)
def test_keys_that_can_not_be_used_stop_the_start(changes, says):
    """RFC 8725 §3.1, RFC 7518 §3.3; the message names the variable and never shows the key."""
    with pytest.raises(ValueError, match=says) as caught:
        Verifier(relay_settings(**changes))
    assert "BEGIN" not in str(caught.value)


def test_a_key_is_used_with_those_of_the_algorithms_that_fit():
    """JWT_ALGORITHMS may name more than the key of the moment can do."""
    keys = configured(
        relay_settings(jwt_public_key=public_pem(private_key("RSA")), jwt_algorithms=("RS256", "ES256", "PS256"))
    )
    assert [key.algorithm for key in keys] == ["RS256", "PS256"]


def test_the_current_secret_is_tried_before_the_previous():
    """Most tokens are of the current one."""
    keys = configured(relay_settings(jwt_secret=SECRET, jwt_previous_secret=OTHER_SECRET, jwt_previous_until=5.0))
    assert [(key.signing_key, key.until) for key in keys] == [(SECRET, float("inf")), (OTHER_SECRET, 5.0)]


RSA = jwk(private_key("RSA"), "RS256")
EC = jwk(private_key("P-256"), "ES256")


def published_by(entries, *algorithms):
    return [
        (k.algorithm, k.kid)
        for k in published({"keys": entries}, relay_settings(jwt_jwks_url="http://x", jwt_algorithms=algorithms))
    ]


@pytest.mark.parametrize(
    ("entries", "algorithms", "keys"),
    [
        pytest.param([RSA | {"kid": "a"}], ["RS256"], [("RS256", "a")], id="RSA"),
        pytest.param([RSA], ["RS256"], [("RS256", None)], id="without a kid"),
        pytest.param(
            [RSA], ["RS256", "PS256"], [("RS256", None), ("PS256", None)], id="for every pinned algorithm that fits"
        ),
        pytest.param([RSA | {"alg": "PS256"}], ["RS256", "PS256"], [("PS256", None)], id="for its own algorithm only"),
        pytest.param(
            [RSA | {"alg": "RS512"}, EC], ["RS256", "ES256"], [("ES256", None)], id="not for one that isn't pinned"
        ),
        pytest.param([RSA | {"use": "enc"}, EC], ["RS256", "ES256"], [("ES256", None)], id="not one for encryption"),
        pytest.param([RSA | {"use": "sig"}], ["RS256"], [("RS256", None)], id="one for signatures"),
        pytest.param(
            [RSA | {"key_ops": ["encrypt"]}, EC], ["RS256", "ES256"], [("ES256", None)], id="not without verify"
        ),
        pytest.param([RSA | {"key_ops": ["verify"]}], ["RS256"], [("RS256", None)], id="one to verify with"),
        pytest.param(
            [{"kty": "oct", "k": part(SECRET.encode()), "alg": "RS256"}, EC],
            ["RS256", "ES256"],
            [("ES256", None)],
            id="never symmetric",
        ),
        pytest.param(
            [json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private_key("RSA"))), EC],
            ["RS256", "ES256"],
            [("ES256", None)],
            id="never a private key",
        ),
        pytest.param(
            [jwk(private_key("RSA-1024"), "RS256"), EC], ["RS256", "ES256"], [("ES256", None)], id="not 1024 bits"
        ),
        pytest.param(
            [jwk(private_key("P-384"), "ES384"), EC | {"crv": "P-999"}, EC],
            ["ES256"],
            [("ES256", None)],
            id="not another curve",
        ),
        pytest.param(
            [None, 5, "x", [], {}, {"kty": []}, EC], ["ES256"], [("ES256", None)], id="not what is no key at all"
        ),
        pytest.param([EC | {"x": 5}, EC | {"x": "!"}, EC], ["ES256"], [("ES256", None)], id="not what is broken"),
        pytest.param([EC | {"kid": 5}], ["ES256"], [("ES256", None)], id="a kid that is no string is none"),
    ],
)
def test_which_keys_of_a_jwks_count(entries, algorithms, keys):
    """Public ones, for signatures, for a pinned algorithm (RFC 7517 §4.2-4.4); the others are skipped (§5)."""
    assert published_by(entries, *algorithms) == keys


def test_only_so_many_keys_are_looked_at():
    """A token without kid is tried with each: the number must be bounded."""
    assert len(published_by([EC] * 100, "ES256")) == 64


@pytest.mark.parametrize(
    "document",
    [None, [], "x", 5, {}, {"keys": None}, {"keys": {}}, {"keys": []}, {"keys": [{"kty": "oct", "k": "AAAA"}]}],
    ids=repr,
)
def test_what_holds_no_key_is_no_jwks(document):
    """It counts as a failed fetch, so that the keys at hand stay."""
    with pytest.raises(ValueError, match=r"JWKS|can be used"):
        published(document, relay_settings(jwt_jwks_url="http://x", jwt_algorithms=("ES256",)))


FIELDS = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "use", "key_ops", "alg", "kid"])
VALUES = (
    st.none()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["RSA", "EC", "OKP", "P-256", "AQAB"])
    | st.just([])
)


@given(st.dictionaries(FIELDS, VALUES))
def test_no_entry_of_a_jwks_breaks_the_others(fields):
    """An issuer that publishes nonsense beside its key keeps its users."""
    assert ("ES256", "good") in published_by([EC | fields, EC | {"kid": "good"}], "ES256", "RS256")


@given(st.binary(min_size=64, max_size=64))
def test_no_signature_is_good_by_chance_or_breaks_the_verifier(signature):
    """r and s of zero, above the order, anything."""
    signed = token(private_key("P-256"), "ES256").rpartition(".")[0]
    with pytest.raises(TokenError):
        ES256.verify(f"{signed}.{part(signature)}")


ES256 = Verifier(relay_settings(jwt_public_key=public_pem(private_key("P-256")), jwt_algorithms=("ES256",)))
