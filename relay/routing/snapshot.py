"""The configuration at one moment: frozen backends, routes and origins, indexed for matching. Pure.

Each request is judged by a single snapshot throughout; a change makes a new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal
from urllib.parse import urlsplit

from relay.identity.model import Identity
from relay.routing import paths
from relay.routing.pattern import Pattern, compile_path
from relay.typing import Kind

DEFAULT_PORTS = MappingProxyType({"http": 80, "https": 443})
_UNITS = MappingProxyType({"s": 1.0, "m": 60.0, "h": 3600.0})
_VISIBLE = re.compile(r"[!-\[\]-~]*")
_RATE = re.compile(r"(\d{1,9})/([smh])(?:;burst=(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate limit: a token bucket.

    Attributes:
        count: Allowed in one period, on average.
        seconds: The period.
        burst: Allowed at once; at least 1.
    """

    count: int
    seconds: float
    burst: int

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read ``50/s``, ``100/m`` or ``1000/h;burst=200``.

        Raises:
            ValueError: The text is not a rate; the message says what is expected.
        """
        found = _RATE.fullmatch(text.replace(" ", ""))
        if found is None:
            raise ValueError(f"{text!r} is not a valid rate; write for example 50/s or 100/m;burst=200")
        count, unit, burst = int(found[1]), found[2], int(found[3] or found[1])
        if count < 1 or burst < 1:
            raise ValueError(f"{text!r} would let nothing through; a rate and its burst must be at least 1")
        return cls(count, _UNITS[unit], burst)


@dataclass(frozen=True, slots=True)
class Url:
    """Where a backend listens: ``scheme://host[:port][/prefix]``.

    Attributes:
        text: As it was configured.
        host: A name or address, lowercase, IPv6 without brackets.
        prefix: Put before every path; ``""`` or ``/like/this``.
    """

    text: str
    scheme: Literal["http", "https"]
    host: str
    port: int
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Url:
        """Read a backend's url.

        Raises:
            ValueError: The url is not valid; the message says why, and never repeats a password.
        """
        scheme_text, _, rest = text.partition("://")
        if "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
            host = rest.rpartition("@")[2]
            raise ValueError(f"{scheme_text}://…@{host} contains a user or password; a backend url can't")
        if not _VISIBLE.fullmatch(text):
            raise ValueError(f"{text!r} has a space, a backslash or a non-ASCII character; write a host as xn--…")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as exc:
            raise ValueError(f"{text!r} is not a valid url: {exc}") from exc
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"{text!r} must begin with http:// or https://")
        if not parts.hostname:
            raise ValueError(f"{text!r} has no host")
        if port == 0:
            raise ValueError(f"{text!r} has port 0")
        if "?" in text or "#" in text:
            raise ValueError(f"{text!r} has a query or fragment; only a path prefix is possible")
        prefix = parts.path.rstrip("/")
        if prefix and (wrong := paths.check(prefix.encode())):
            raise ValueError(f"{text!r} has a path prefix with {wrong}")
        scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
        return cls(text, scheme, parts.hostname, port or DEFAULT_PORTS[scheme], prefix)

    @property
    def authority(self) -> str:
        """``host[:port]`` as in the ``Host`` field (RFC 9110 §7.2): the default port left out, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class Backend:
    """A service behind the gateway. Times are in seconds, sizes in bytes; 0 means no limit."""

    name: str
    urls: tuple[Url, ...]
    health_path: str = ""
    connect_timeout: float = 5
    read_timeout: float = 60
    max_body_size: int = 67108864
    max_message_size: int = 16777216
    websocket_origin: str = "omit"
    forward_token: bool = False
    forward_host: bool = False
    tls_verify: bool = True
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    """A path that leads to a backend. `path` is in Django's syntax; a trailing slash makes it a prefix."""

    path: str
    kind: Kind
    backend: str
    methods: tuple[str, ...] = ()
    access: Literal["public", "authenticated", "roles"] = "authenticated"
    roles: tuple[str, ...] = ()
    upstream_path: str = ""
    refuse_with: Literal["http", "close"] = "http"
    idle_timeout: float = 0
    max_connections_per_user: int = 0
    message_rate: Rate | None = None
    enabled: bool = True

    @property
    def key(self) -> tuple[str, str, tuple[str, ...]]:
        return (self.kind, self.path, self.methods)

    @property
    def is_prefix(self) -> bool:
        return self.path.endswith("/")

    def serves(self, method: str) -> bool:
        """``GET`` includes ``HEAD``; no methods: all."""
        return not self.methods or method in self.methods or (method == "HEAD" and "GET" in self.methods)

    def admits(self, identity: Identity | None) -> bool:
        """Whether somebody may use this route: anyone if it is public; otherwise any of the roles is enough."""
        if self.access == "public":
            return True
        if identity is None:
            return False
        return self.access == "authenticated" or not set(self.roles).isdisjoint(identity.roles)


@dataclass(frozen=True, slots=True)
class Origin:
    """An allowed origin: ``https://app.example.com``, ``https://*.example.com`` (any depth), or ``*`` for any."""

    origin: str
    note: str = ""
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Match:
    """The route of a path, and how many slashes of the path its pattern covers."""

    route: Route
    slashes: int

    def target(self, raw_path: bytes) -> bytes:
        """The raw path for the backend: unchanged, or with `upstream_path` in place of what matched."""
        if not self.route.upstream_path:
            return raw_path
        replacement = self.route.upstream_path.encode()
        if not self.route.is_prefix:
            return replacement
        # "Exactly one slash": a backend may take what follows two for a host (RFC 3986 §4.2).
        rest = paths.after_segments(raw_path, self.slashes).lstrip(b"/")
        if not rest and not raw_path.endswith(b"/"):
            return replacement.rstrip(b"/") or b"/"
        return replacement.rstrip(b"/") + b"/" + rest


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A route with its pattern; `rank` is its place among all routes, the most specific first."""

    route: Route
    rank: int
    pattern: Pattern

    def match(self, path: str) -> Match | None:
        end = self.pattern.end(path)
        # A prefix also covers the slash after it, whether the path has one or not.
        return None if end is None else Match(self.route, path.count("/", 0, end) + self.route.is_prefix)


_BREADTH = MappingProxyType({"int": 1, "uuid": 1, "slug": 2, "str": 3, "path": 4})
"""How much each of Django's converters matches, relative to the others; a literal segment has 0."""


def _specificity(route: Route) -> tuple[object, ...]:
    """Sort key: exact before prefix, more segments first, literal before ``<…>``, with methods before without.

    Of two placeholders, the one that matches less wins: a public ``<path:rest>`` must not open what a ``<uuid:id>``
    guards. A ``HEAD`` that is listed wins over one that a ``GET`` includes.
    """
    segments = route.path.rstrip("/").split("/")[1:]
    return (
        route.is_prefix,
        -len(segments),
        [
            max((_BREADTH.get(found[1] or "str", 4) for found in paths.PLACEHOLDER.finditer(s)), default=0)
            for s in segments
        ],
        not route.methods,
        "HEAD" not in route.methods,
        route.path,
    )


@dataclass(frozen=True, slots=True)
class _Index:
    """The enabled routes of one kind. Literal paths are looked up, patterns are tried in order of rank."""

    exact: Mapping[str, tuple[_Compiled, ...]]
    prefixes: Mapping[str, tuple[_Compiled, ...]]
    patterns: tuple[_Compiled, ...]
    depth: int  # slashes in the longest literal prefix; no deeper parent of a path can match

    @classmethod
    def build(cls, routes: Iterable[Route]) -> _Index:
        exact: dict[str, tuple[_Compiled, ...]] = {}
        prefixes: dict[str, tuple[_Compiled, ...]] = {}
        patterns: list[_Compiled] = []
        for rank, route in enumerate(sorted(routes, key=_specificity)):
            compiled = _Compiled(route, rank, compile_path(route.path))
            if paths.PLACEHOLDER.search(route.path):
                patterns.append(compiled)
            else:
                table, key = (prefixes, route.path[:-1]) if route.is_prefix else (exact, route.path)
                table[key] = (*table.get(key, ()), compiled)
        return cls(exact, prefixes, tuple(patterns), max((key.count("/") for key in prefixes), default=0))

    def candidates(self, path: str) -> Iterable[_Compiled]:
        """Literal routes that match the path, the most specific first."""
        yield from self.exact.get(path, ())
        parents = path.split("/", self.depth + 1)[: self.depth + 1]
        while parents:
            yield from self.prefixes.get("/".join(parents), ())
            parents.pop()

    def match(self, method: str, path: str) -> Match | None:
        best = next((c for c in self.candidates(path) if c.route.serves(method)), None)
        for compiled in self.patterns:
            if best is not None and compiled.rank > best.rank:
                break
            if compiled.route.serves(method) and (match := compiled.match(path)):
                return match
        return best.match(path) if best is not None else None


@dataclass(frozen=True)
class Snapshot:
    """Backends by name, all routes and all origins, disabled ones included.

    Attributes:
        revision: The configuration's revision in the database; snapshots with equal content may differ in it.
    """

    backends: Mapping[str, Backend] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    origins: tuple[Origin, ...] = ()
    revision: int = 0

    @classmethod
    def build(
        cls, backends: Iterable[Backend], routes: Iterable[Route], origins: Iterable[Origin], revision: int = 0
    ) -> Snapshot:
        return cls(MappingProxyType({b.name: b for b in backends}), tuple(routes), tuple(origins), revision)

    @cached_property
    def _indexes(self) -> Mapping[str, _Index]:
        return {
            kind: _Index.build(r for r in self.routes if r.enabled and r.kind == kind) for kind in ("http", "websocket")
        }

    @cached_property
    def _origins(self) -> tuple[frozenset[str], tuple[tuple[str, str], ...], bool]:
        """Exact origins; (scheme and ``://``, dotted suffix) of each wildcard; whether ``*`` is listed."""
        enabled = [normalise_origin(o.origin) or o.origin for o in self.origins if o.enabled]
        wild = [o.partition("*") for o in enabled if "://*." in o]
        return frozenset(enabled), tuple((scheme, suffix) for scheme, _, suffix in wild), "*" in enabled

    def match(self, kind: Kind, method: str, path: str) -> Match | None:
        """The enabled route for a decoded path, or None. The most specific wins (`_specificity`)."""
        return self._indexes[kind].match(method, path)

    def allows(self, origin: str) -> bool:
        """Whether an ``Origin`` field's value is on the list; ``null`` never is (RFC 6454 §7)."""
        exact, wildcards, any_origin = self._origins
        wanted = normalise_origin(origin)
        if wanted is None or wanted == "*":
            return False
        if any_origin or wanted in exact:
            return True
        return any(
            wanted.startswith(scheme) and wanted.endswith(suffix) and len(wanted) > len(scheme) + len(suffix)
            for scheme, suffix in wildcards
        )


_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^/\\?#@:\[\]\x00-\x20\x7f-\U0010ffff]+)(?::([0-9]{1,5}))?",
    re.IGNORECASE | re.ASCII,
)


def normalise_origin(origin: str) -> str | None:
    """``scheme://host[:port]`` in lowercase, without the default port; None if it is not an origin (``null``)."""
    if len(origin) > 512:
        return None
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        return None
    scheme, host, port = found[1].lower(), found[2].lower(), found[3]
    if port is None or int(port) == DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}"
