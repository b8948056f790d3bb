"""Mask a handshake's own tokens and cookie values, which a peer may repeat, before anything is logged. Pure.

A cookie value looks like any other word, so `relay.live.masking` can't recognise it; the handshake that brought it can.
Nothing is stored for this: the handshake is read again when a line is logged.
"""

from __future__ import annotations

from collections.abc import Sequence

from relay.identity.model import Identification
from relay.identity.places import TICKET, cookie_value, parameters
from relay.live.masking import MASK
from relay.typing import Scope

_SHORTEST = 3
"""Bytes. Shorter cookie values are not secrets, and masking them would make log lines unreadable."""


def of_handshake(scope: Scope, who: Identification) -> list[bytes]:
    """A handshake's tokens, tickets, credentials and cookies, as sent and as backends read them, longest first."""
    found = {presented.value.encode("latin-1", "replace") for presented in who.presented}
    found.update(ticket.encode("latin-1") for ticket in parameters(scope["query_string"], TICKET))
    for name, value in scope["headers"]:
        if name == b"cookie":
            for pair in value.split(b";"):
                raw = pair.partition(b"=")[2]
                found |= {raw.strip().strip(b'"'), cookie_value(raw).encode("latin-1", "replace")}
        elif name == b"authorization":
            found.add(value.strip().rpartition(b" ")[2])
    return sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)


def masked(data: bytes, secrets: Sequence[bytes]) -> bytes:
    """The data without these secrets, including the beginning of one at the end, where the data may have been cut."""
    mask = MASK.encode()
    for secret in secrets:
        data = data.replace(secret, mask)
        for length in range(min(len(secret) - 1, len(data)), _SHORTEST, -1):
            if data.endswith(secret[:length]):
                data = data[:-length] + mask
                break
    return data
