"""Why a backend could not be reached, in the words that an operator would search for. Pure."""

from __future__ import annotations

import errno
import socket
import ssl

_SOCKET_CAUSES = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "connect timed out (by the operating system)",
    errno.EADDRNOTAVAIL: "no local port or address left to connect from",
    errno.EMFILE: "too many open files in the gateway; raise its limit (ulimit -n)",
    errno.ENFILE: "too many open files on the gateway's machine",
}


def of_resolution(exc: OSError, host: str) -> str:
    """Why a name has no address (RFC 3493 §6.1)."""
    if exc.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)):
        return f"name not found: {host}"
    if exc.errno == socket.EAI_AGAIN:
        return f"name server did not answer: {host}"
    return f"name could not be resolved: {host}: {exc.strerror or exc}"


def of_connection(exc: OSError, place: str) -> str:
    """Why TCP failed to connect; `place` is ``address:port``."""
    cause = _SOCKET_CAUSES.get(exc.errno or 0) or exc.strerror or str(exc) or type(exc).__name__
    return f"{cause} {place}" if cause == "connection refused" else f"{cause}: {place}"


def of_tls(exc: OSError) -> str:
    """Why the TLS handshake failed; every failure after the TCP connection is established counts as such."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"TLS: certificate verify failed: {exc.verify_message}"
    if isinstance(exc, ssl.SSLEOFError | ConnectionError):
        return "connection reset during TLS handshake"
    if isinstance(exc, ssl.SSLError):
        reason = (exc.reason or str(exc)).replace("_", " ").lower()
        hint = " (does the backend speak plain HTTP on this port?)" if exc.reason in _NO_TLS else ""
        return f"TLS: {reason}{hint}"
    return f"TLS: {exc.strerror or exc or type(exc).__name__}"


_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})
