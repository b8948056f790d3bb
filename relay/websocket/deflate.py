"""Negotiation of ``permessage-deflate`` between client and backend (RFC 7692). Pure.

The gateway passes on the client's offers and the backend's answer, and never compresses. It must understand the
extension nevertheless: an answer that no offer allows would break the socket later, and another extension could give
the reserved bits a meaning that the scanner can't judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NAME = b"permessage-deflate"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_EXTENSION = re.compile(rb"[ \t]*(%b)((?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|\"%b\"))?)*)[ \t]*" % ((_TOKEN,) * 4))
_PARAMETER = re.compile(rb";[ \t]*(%b)(?:[ \t]*=[ \t]*(?:(%b)|\"(%b)\"))?" % ((_TOKEN,) * 3))
_BITS = frozenset(b"%d" % bits for bits in range(8, 16))


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of one offer or answer (RFC 7692 §7.1).

    Attributes:
        server_bits: ``server_max_window_bits``; 0 if missing.
        client_bits: ``client_max_window_bits``; 0 if missing; 15 if an offer gives no value, which allows any.
    """

    server_takes_over: bool = True
    client_takes_over: bool = True
    server_bits: int = 0
    client_bits: int = 0

    def allows(self, answer: Parameters) -> bool:
        """Whether a server may give this answer to this offer (§7.1.1, §7.1.2)."""
        if answer.server_takes_over and not self.server_takes_over:
            return False
        if self.server_bits and not 0 < answer.server_bits <= self.server_bits:
            return False
        return answer.client_bits <= self.client_bits


@dataclass(frozen=True, slots=True)
class Offer:
    """One offer of the extension, parsed and as the client wrote it."""

    text: bytes
    parameters: Parameters


def offers(values: Iterable[bytes]) -> tuple[Offer, ...]:
    """The valid offers of ``permessage-deflate`` in ``Sec-WebSocket-Extensions`` fields; anything else is dropped.

    A server declines an invalid offer (§7.1); so does the gateway, by not passing it on.
    """
    found = []
    for value in values:
        for text in value.split(b","):
            parameters = _parameters(text, is_offer=True)
            if parameters is not None:
                found.append(Offer(text.strip(), parameters))
    return tuple(found)


def answers(value: bytes, offered: Iterable[Offer]) -> bool:
    """Whether the backend's ``Sec-WebSocket-Extensions`` is allowed by one of the offers."""
    parameters = _parameters(value, is_offer=False)
    return parameters is not None and any(offer.parameters.allows(parameters) for offer in offered)


def _parameters(text: bytes, *, is_offer: bool) -> Parameters | None:
    """Parse one extension; None if it is malformed, a different one, or has an unknown or repeated parameter."""
    found = _EXTENSION.fullmatch(text)
    if found is None or found[1] != _NAME:
        return None
    given: dict[bytes, bytes | None] = {}
    for name, value, quoted in _PARAMETER.findall(found[2]):
        if name in given:
            return None
        given[name] = value or quoted
    server_takes_over = given.pop(b"server_no_context_takeover", None)
    client_takes_over = given.pop(b"client_no_context_takeover", None)
    server_bits = given.pop(b"server_max_window_bits", None)
    client_bits = given.pop(b"client_max_window_bits", None)
    if given or server_takes_over or client_takes_over:
        return None
    if client_bits == b"" and is_offer:
        client_bits = b"15"
    if any(bits is not None and bits not in _BITS for bits in (server_bits, client_bits)):
        return None
    return Parameters(
        server_takes_over is None, client_takes_over is None, int(server_bits or 0), int(client_bits or 0)
    )
