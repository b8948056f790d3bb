"""The codes of the contract, and what a refused client reads: `relay.refusals`."""

from __future__ import annotations

import json
import pickle

import pytest

from relay import refusals
from relay.mends import MENDS
from relay.refusals import KINDS, BackendError, Refusal

CONTRACT = {
    400: (None, ["bad_path", "bad_request"]),
    401: (4401, ["no_token", "invalid_token", "expired_token", "revoked_token", "ambiguous_token", "invalid_ticket"]),
    403: (4403, ["origin_not_allowed", "role_required"]),
    404: (None, ["no_route"]),
    405: (None, ["method_not_allowed"]),
    413: (None, ["body_too_large"]),
    429: (4429, ["rate_limited", "too_many_connections"]),
    500: (None, ["internal_error"]),
    502: (4502, ["backend_unreachable", "backend_refused", "backend_protocol_error"]),
    503: (4503, ["backend_disabled", "no_healthy_backend", "database_unavailable"]),
    504: (4504, ["backend_timeout"]),
}
ROWS = [(code, status, close) for status, (close, codes) in CONTRACT.items() for code in codes] + [
    ("draining", 503, None)
]


@pytest.mark.parametrize(("code", "status", "close_code"), ROWS, ids=[row[0] for row in ROWS])
def test_a_code_has_its_status_and_close_code(code: str, status: int, close_code: int | None) -> None:
    """Contract, section 4; `draining` is always the HTTP status."""
    assert (Refusal(code).status, Refusal(code).close_code) == (status, close_code)


def test_there_are_no_other_codes() -> None:
    """They are stable: clients, logs and metrics tell them apart."""
    assert KINDS.keys() == {code for code, _, _ in ROWS}
    assert MENDS.keys() == KINDS.keys()


@pytest.mark.parametrize("code", KINDS)
def test_a_body_is_the_contracts_json(code: str) -> None:
    """Contract, section 4: a plain sentence, the code and the request's id; never what the log knows."""
    body = Refusal(code, detail="http://10.0.0.7:9000 said no").body("req-1")
    assert json.loads(body) == {"success": False, "error": KINDS[code].sentence, "code": code, "request_id": "req-1"}
    assert KINDS[code].sentence.endswith(".")


@pytest.mark.parametrize("code", KINDS)
def test_the_fields_of_a_refusal(code: str) -> None:
    """401 says Bearer (RFC 6750 §3), 429 and 503 when to come again, 405 what is allowed; nothing is cached."""
    refusal = Refusal(code, detail="10.0.0.7")
    body = refusal.body("req-1")
    pairs = refusal.headers("req-1", body)
    headers = dict(pairs)
    assert len(pairs) == len(headers)
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"content-length"] == str(len(body)).encode()
    assert headers[b"x-request-id"] == b"req-1"
    assert headers[b"cache-control"] == b"no-store"
    assert headers.get(b"www-authenticate") == (b"Bearer" if refusal.status == 401 else None)
    assert (b"retry-after" in headers) is (refusal.status in (429, 503))
    assert (b"allow" in headers) is (refusal.status == 405)
    assert b"10.0.0.7" not in body + b"".join(headers.values())


def test_a_known_time_goes_before_the_usual_one() -> None:
    """A rate limit knows when it will let the client through."""
    headers = dict(Refusal("rate_limited", retry_after=17).headers("req-1", b""))
    assert headers[b"retry-after"] == b"17"


ERRORS = [error for error in vars(refusals).values() if isinstance(error, type) and issubclass(error, BackendError)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_of_a_backend_is_its_refusal(error: type[BackendError]) -> None:
    """The exact cause is for the log; the client reads the kind's sentence."""
    raised = error("main", "connect to 10.0.0.7:9000: refused", "connect")
    assert (raised.backend, raised.detail, raised.phase) == ("main", "connect to 10.0.0.7:9000: refused", "connect")
    assert str(raised) == raised.detail
    assert raised.refusal == Refusal(error.code, raised.detail)
    assert raised.refusal.status in (502, 503, 504)
    assert b"10.0.0.7" not in raised.refusal.body("req-1")


def test_every_kind_of_a_backends_failure_has_its_error() -> None:
    """None of the codes of a failing backend is left without one."""
    assert {error.code for error in ERRORS} == {
        "backend_unreachable",
        "backend_refused",
        "backend_protocol_error",
        "backend_timeout",
        "no_healthy_backend",
    }


def test_a_refused_handshake_keeps_the_backends_status() -> None:
    """The log names it (contract, section 4); it happens in the handshake unless said otherwise."""
    refused = refusals.BackendRefused("main", "403 Forbidden", status=403)
    assert (refused.status, refused.phase, refused.refusal.code) == (403, "handshake", "backend_refused")


def test_refusals_are_values() -> None:
    """Pure functions return them; nobody changes one, and two alike are equal."""
    refusal = Refusal("no_token", "nothing was sent")
    assert refusal == pickle.loads(pickle.dumps(refusal))
    with pytest.raises(AttributeError):
        refusal.code = "no_route"  # type: ignore[misc]
    with pytest.raises(TypeError):
        KINDS["no_token"] = KINDS["no_route"]  # type: ignore[index]
