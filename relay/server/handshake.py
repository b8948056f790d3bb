"""The server's part of a WebSocket's opening handshake (RFC 6455 §4.2). No I/O."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable

from websockets.utils import accept_key

from relay.refusals import Refused
from relay.server.head import Head
from relay.server.response import ApplicationError, field_lines
from relay.typing import RawHeaders

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = frozenset({b"upgrade", b"connection", b"sec-websocket-accept", b"sec-websocket-protocol"})


def check(head: Head) -> bytes:
    """Check a handshake, and return its key.

    Raises:
        Refused: The handshake can't be accepted.
    """
    if head.method != "GET":
        raise Refused("a WebSocket handshake is a GET (RFC 6455 §4.1)")
    if head.length:
        raise Refused("a WebSocket handshake has no body")
    if _values(head.headers, b"sec-websocket-version") != [b"13"]:
        fields = [(b"sec-websocket-version", b"13"), (b"upgrade", b"websocket")]  # RFC 6455 §4.4, RFC 9110 §15.5.22
        raise Refused("Sec-WebSocket-Version is not 13", status=426, headers=fields)
    keys = _values(head.headers, b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise Refused("Sec-WebSocket-Key is not 16 bytes in base64 (RFC 6455 §4.1)")
    return keys[0]


def _values(headers: RawHeaders, wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name == wanted]


def _is_key(key: bytes) -> bool:
    try:
        return len(key) == 24 and len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except binascii.Error:
        return False


def subprotocols(headers: RawHeaders) -> list[str]:
    """The subprotocols that the client offers, in its order."""
    values = b",".join(_values(headers, b"sec-websocket-protocol")).decode("latin-1")
    return [word.strip(" \t") for word in values.split(",") if word.strip(" \t")]


def accepted(key: bytes, subprotocol: str | None, offered: Iterable[str], headers: RawHeaders) -> bytes:
    """The 101 response.

    Args:
        headers: Additional fields; the server sets those of the handshake itself.

    Raises:
        ApplicationError: The client didn't offer that subprotocol (RFC 6455 §4.2.2), or a field can't be sent.
    """
    if subprotocol is not None and (subprotocol not in offered or not _TOKEN.fullmatch(subprotocol)):
        raise ApplicationError("the accepted subprotocol was not offered by the client")
    lines = [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        accept_key(key.decode("latin-1")).encode(),
        b"\r\n",
        b"Sec-WebSocket-Protocol: %b\r\n" % subprotocol.encode() if subprotocol is not None else b"",
        field_lines([field for field in headers if field[0].lower() not in _OURS]),
        b"\r\n",
    ]
    return b"".join(lines)
