"""Close codes: which may be relayed, which the gateway sends itself, and which a stock server can send. Pure.

RFC 6455 §7.4 and the IANA registry of close codes; the contract, section 6, for the gateway's own use of them.
"""

from __future__ import annotations

NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
NO_CODE = 1005  # never on the wire: a close frame without a code (§7.4.1)
ABNORMAL = 1006  # never on the wire: the connection ended without a close frame
INVALID_DATA = 1007
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011
BAD_GATEWAY = 1014

_STOCK_DAPHNE = {
    1001: 4503,
    1002: 4400,
    1003: 4400,
    1007: 4400,
    1008: 4403,
    1009: 4413,
    1010: 4400,
    1011: 4500,
    1012: 4503,
    1013: 4503,
    1014: 4502,
}


def may_travel(code: int) -> bool:
    """Whether a close frame may carry the code: 1000-1003, 1007-1014, 3000-4999 (§7.4; 1012-1014: IANA registry)."""
    return 3000 <= code <= 4999 or 1000 <= code <= 1003 or 1007 <= code <= 1014


def for_asgi(code: int | None) -> int:
    """The code for ``websocket.close``, which can't ask for a close frame without one."""
    return NORMAL if code is None else code


def for_stock_daphne(code: int | None) -> int:
    """The closest code that stock Daphne can send.

    Its autobahn raises for all codes except 1000 and 3000-4999, and sends 1000 if there is none. Other codes become
    4000 plus the closest HTTP status, as in the gateway's own refusals: 1014 becomes 4502, 1012 becomes 4503. Sending
    1000 instead would tell a client that all is well, and not to reconnect.
    """
    return NORMAL if code is None else _STOCK_DAPHNE.get(code, code)
