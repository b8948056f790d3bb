"""What a peer of one socket may repeat, and nobody may log: the handshake's own tokens and cookie values. Pure.

A cookie value looks like any other word, so `relay.live.masking` can't know it; the handshake that brought it does.
Nothing is kept for this: whoever writes a line reads the handshake again.
"""

from __future__ import annotations

from collections.abc import Sequence

from relay.identity.model import Identification
from relay.identity.places import TICKET, cookie_value, parameters
from relay.live.masking import MASK
from relay.typing import Scope

_SHORTEST = 3
"""Bytes. Shorter cookie values are no secrets, and masking them would make a log line unreadable."""


def of_handshake(scope: Scope, who: Identification) -> list[bytes]:
    """Its tokens, ticket, credentials and cookie values, as sent and as a backend reads them; longest first."""
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
    """The data without these secrets, nor the beginning of one at its end, where it may have been cut."""
    mask = MASK.encode()
    for secret in secrets:
        data = data.replace(secret, mask)
        for length in range(min(len(secret) - 1, len(data)), _SHORTEST, -1):
            if data.endswith(secret[:length]):
                data = data[:-length] + mask
                break
    return data
