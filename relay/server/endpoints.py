"""Where the server listens: Daphne's (Twisted's) endpoint strings, and the sockets they describe.

======================================================  ===============================================
``tcp:port=8000:interface=127.0.0.1``                   an empty interface means every IPv4 one
``ssl:port=443:privateKey=k.pem:certKey=c.pem``         also ``extraCertChain``, ``interface``
``unix:/run/gateway.sock:mode=660``                     a stale socket file is replaced
``fd:fileno=3``                                         a socket that is already listening
``systemd:domain=INET:index=0`` (or ``name=…``)         passed by systemd (sd_listen_fds(3))
======================================================  ===============================================

A colon inside a value is written ``\\:``. Only the first two take a ``backlog``.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
BACKLOG = 2048
"""Connections waiting for `accept`: a reconnect storm after a deploy exceeds Twisted's 50."""

_OPTIONS = {
    "tcp": ("port", "interface", "backlog"),
    "ssl": ("port", "privateKey", "certKey", "interface", "backlog", "extraCertChain"),
    "unix": ("address", "mode"),
    "fd": ("fileno", "domain"),
    "systemd": ("domain", "index", "name"),
}
_FIRST_INHERITED = 3  # sd_listen_fds(3)


class EndpointError(Exception):
    """An endpoint can't be used; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A parsed endpoint string."""

    kind: str
    options: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Raises EndpointError."""
        kind, *words = (re.sub(r"\\(.)", r"\1", word) for word in re.split(r"(?<!\\):", text))
        if kind not in _OPTIONS:
            raise EndpointError(f"endpoint {text!r}: {kind!r} is not supported; use {', '.join(_OPTIONS)}")
        options: dict[str, str] = {}
        for name, word in zip(_OPTIONS[kind], words, strict=False):
            if "=" in word:
                break
            options[name] = word
        for word in words[len(options) :]:
            name, equals, value = word.partition("=")
            if not equals or name not in _OPTIONS[kind]:
                raise EndpointError(f"endpoint {text!r}: {word!r} is not one of {', '.join(_OPTIONS[kind])}")
            options[name] = value
        endpoint = cls(kind, options)
        for name in ("port", "fileno", "index", "backlog"):
            if name in options and (not options[name].isdigit() or int(options[name]) > 65535):
                raise EndpointError(f"endpoint {text!r}: {name} is not a number up to 65535")
        if "name" not in options and _OPTIONS[kind][0] not in options:
            raise EndpointError(f"endpoint {text!r}: {_OPTIONS[kind][0]} is missing")
        return endpoint

    def open(self) -> socket.socket:
        """A listening socket. Raises EndpointError."""
        match self.kind:
            case "unix":
                return _unix(Path(self.options["address"]), int(self.options.get("mode", "666"), 8))
            case "fd":
                return adopt(int(self.options["fileno"]))
            case "systemd":
                return adopt(_of_systemd(self.options))
            case _:
                backlog = int(self.options.get("backlog", BACKLOG))
                return _tcp(self.options.get("interface", ""), int(self.options["port"]), backlog)

    def remove(self) -> None:
        """Remove the socket file, if there is one."""
        if self.kind == "unix":
            Path(self.options["address"]).unlink(missing_ok=True)

    def tls(self) -> ssl.SSLContext | None:
        """The TLS context for its connections; None without TLS. Raises EndpointError."""
        if self.kind != "ssl":
            return None
        key = self.options.get("privateKey", "server.pem")
        certificate, chain = self.options.get("certKey", key), self.options.get("extraCertChain")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        try:
            with tempfile.NamedTemporaryFile() as both:
                both.write(Path(certificate).read_bytes() + b"\n" + (Path(chain).read_bytes() if chain else b""))
                both.flush()
                context.load_cert_chain(both.name, key)
        except (OSError, ssl.SSLError) as exc:
            raise EndpointError(f"privateKey={key}, certKey={certificate}: {exc}") from None
        return context

    def url(self, opened: socket.socket) -> str:
        """The url that a client connects to."""
        name = opened.getsockname()
        if opened.family == socket.AF_UNIX:
            return f"unix:{name}"
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{'https' if self.kind == 'ssl' else 'http'}://{host}:{name[1]}"


Opened = tuple[Endpoint, socket.socket]
"""An endpoint and its listening socket."""


def descriptions(
    host: str | None, port: int | None, unix: str | None, fd: int | None, strings: Sequence[str]
) -> list[str]:
    """Endpoint strings for Daphne's options; without any, ``127.0.0.1:8000``."""
    found = list(strings)
    if host is not None or port is not None or not (unix or fd is not None or strings):
        interface = (host or DEFAULT_HOST).strip("[]").replace(":", r"\:")
        found.append(f"tcp:port={DEFAULT_PORT if port is None else port}:interface={interface}")
    if unix:
        found.append("unix:" + unix.replace(":", r"\:"))
    if fd is not None:
        found.append(f"fd:fileno={fd}")
    return found


def adopt(fileno: int) -> socket.socket:
    """A listening socket inherited from another process. Raises EndpointError."""
    try:
        adopted = socket.socket(fileno=fileno)
        if not adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            adopted.detach()
            raise EndpointError(f"file descriptor {fileno} is a socket, but is not listening")
    except OSError as exc:
        raise EndpointError(f"file descriptor {fileno} is not a socket: {exc.strerror}") from None
    return adopted


def _tcp(interface: str, port: int, backlog: int) -> socket.socket:
    where = f"{interface or '0.0.0.0'}:{port}"
    try:
        found = socket.getaddrinfo(interface or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, OverflowError) as exc:
        raise EndpointError(f"can't listen on {where}: {exc}; choose an address of this machine with -b") from None
    family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(address)
        opened.listen(backlog)
    except OSError as exc:
        opened.close()
        raise EndpointError(f"can't listen on {where}: {_mend(exc)}") from None
    return opened


def _mend(exc: OSError) -> str:
    match exc.errno:
        case errno.EADDRINUSE:
            return "another program is listening there; stop it, or choose another port with -p"
        case errno.EACCES:
            return "not permitted; ports below 1024 need privileges: choose another with -p"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address; choose another with -b"
        case _:
            return exc.strerror or str(exc)


def _unix(path: Path, mode: int) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.stat().st_mode):
                if _answers(path):
                    raise EndpointError(f"can't listen on {path}: another program is listening there; stop it")
                path.unlink()
        opened.bind(str(path))
        path.chmod(mode)
        opened.listen(BACKLOG)
    except OSError as exc:
        opened.close()
        raise EndpointError(f"can't listen on {path}: {exc.strerror or exc}") from None
    except EndpointError:
        opened.close()
        raise
    return opened


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def _of_systemd(options: dict[str, str]) -> int:
    count = int(os.environ.get("LISTEN_FDS", "0")) if os.environ.get("LISTEN_PID") == str(os.getpid()) else 0
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if "name" in options:
        index = names.index(options["name"]) if options["name"] in names else count
    else:
        index = int(options.get("index", "0"))
    if index >= count:
        raise EndpointError(f"systemd passed {count} sockets, and this is not one of them; see systemd.socket(5)")
    return _FIRST_INHERITED + index
