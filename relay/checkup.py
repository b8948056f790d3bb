"""Check whether backends can be reached and accept the gateway's traffic, for ``manage.py check_backends``.

Each url of a backend is checked separately, by the code that carries the traffic: name, TCP and TLS by the dial, the
health path by the poll, each WebSocket route by a complete opening handshake, closed at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import quote

from relay import forwarding
from relay.access import Grant
from relay.backends import health
from relay.backends.connector import Connector
from relay.backends.dial import Dial, DialFailed, tls_context
from relay.backends.resolver import Resolver
from relay.entry import Arrival
from relay.forwarding import Forwarding
from relay.identity.model import NOBODY, Identification
from relay.refusals import BackendError, BackendRefused
from relay.routing import paths
from relay.routing.snapshot import Backend, Route, Snapshot, Url
from relay.typing import Scope
from relay.websocket import upstream
from relay.websocket.frames import close_frame
from relay.websocket.opening import Opening

PATIENCE = 10.0
"""Seconds that one step may take, even if the backend's own limits allow more."""

TLS_PATIENCE = 2.0
"""Seconds to find out whether a port speaks TLS."""

Outcome = Literal["ok", "FAILS", "refuses", "skipped"]
"""``refuses``: the backend answers, but rejects this visitor; it might accept another. That is not a failure."""

MOST_ORIGINS = 20
"""Allowed origins to try with a backend that may be checking Origin."""

SAMPLES = {"int": "1", "slug": "check", "path": "check", "uuid": "00000000-0000-4000-8000-000000000000"}
"""Sample values for the ``<placeholder>`` of a route's path, by converter; ``check`` for others."""

_NOT_ORIGIN = "it refuses with no Origin, with the allowed ones and with its own: its log should say why"

_BY_STATUS = {
    400: "is this the path of its WebSocket? See upstream_path",
    401: _NOT_ORIGIN,
    403: _NOT_ORIGIN,
    404: "its WebSocket may be at another path: see upstream_path",
    426: "is this the path of its WebSocket? See upstream_path",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: ``name``, ``tcp``, ``tls``, ``health <path>`` or ``websocket <path>``.
        detail: The exact cause, or what was found.
        advice: What to try.
        seconds: How long it took, if that is meaningful.
    """

    backend: str
    url: str
    check: str
    outcome: Outcome = "ok"
    detail: str = ""
    advice: str = ""
    seconds: float | None = None

    @property
    def took(self) -> str:
        """`seconds` for display; empty if there are none."""
        return "" if self.seconds is None else f"{self.seconds * 1000:.1f} ms"


@dataclass(frozen=True, slots=True)
class Visitor:
    """The client that handshakes are made for.

    Attributes:
        who: Nobody, or the holder of a token, whom the backend sees in the ``X-User-*`` fields.
        headers: The fields that the client would send.
    """

    rules: Forwarding
    who: Identification = NOBODY
    headers: tuple[tuple[bytes, bytes], ...] = ()


async def check(snapshot: Snapshot, names: Sequence[str], visitor: Visitor) -> list[Finding]:
    """Check the backends with these names, even if disabled; without names, all that are enabled.

    All urls are checked concurrently and independently.
    """
    chosen = [snapshot.backends[name] for name in names] or list(snapshot.backends.values())
    visited = [backend for backend in chosen if backend.enabled or names]
    for verify in {backend.tls_verify for backend in visited for url in backend.urls if url.scheme == "https"}:
        await asyncio.to_thread(
            tls_context, verify
        )  # reading the CAs would block the loop while other checks' timeouts run
    visits = [_Visit(snapshot, backend, url, visitor).findings() for backend in visited for url in backend.urls]
    found = await asyncio.gather(*visits)
    off = [backend for backend in chosen if backend not in visited]
    return [
        *(finding for findings in found for finding in findings),
        *(Finding(b.name, "", "all", "skipped", "it is disabled; name it to check it anyway") for b in off),
    ]


class _Visit:
    """The checks of one url, in order, until one makes the rest pointless."""

    def __init__(self, snapshot: Snapshot, backend: Backend, url: Url, visitor: Visitor) -> None:
        self._backend = replace(
            backend,
            urls=(url,),
            connect_timeout=min(backend.connect_timeout or PATIENCE, PATIENCE),
            read_timeout=min(backend.read_timeout or PATIENCE, PATIENCE),
        )
        self._snapshot, self._url, self._visitor = snapshot, url, visitor
        self._resolver, self._connector = Resolver(), Connector()

    async def findings(self) -> list[Finding]:
        try:
            return [finding async for finding in self._checks()]
        finally:
            await self._connector.close()
            await self._resolver.close()

    async def _checks(self) -> AsyncIterator[Finding]:
        reached = await self._connect()
        for finding in reached:
            yield finding
        if reached[-1].outcome != "ok":
            return
        if self._backend.health_path:
            yield await self._health()
        else:
            yield self._finding(
                "health", "skipped", "no health_path: it always counts as up, and relay_backend_up stays 1"
            )
        for route in self._snapshot.routes:
            if route.kind == "websocket" and route.backend == self._backend.name and route.enabled:
                yield await self._websocket(route)

    def _finding(self, check: str, outcome: Outcome = "ok", detail: str = "", advice: str = "") -> Finding:
        return Finding(self._backend.name, self._url.text, check, outcome, detail, advice)

    async def _connect(self) -> list[Finding]:
        """A finding for each step of the dial, up to the first that fails."""
        url, failure = self._url, None
        dial = Dial(url, self._resolver, self._backend.tls_verify)
        started = time.monotonic()
        try:
            transport, _ = await dial.connect(asyncio.Protocol, self._backend.connect_timeout)
            transport.abort()
        except DialFailed as exc:
            failure = exc
        steps = {"resolve": "name", "connect": "tcp"} | ({"tls": "tls"} if url.scheme == "https" else {})
        found: list[Finding] = []
        for phase, check in steps.items():
            if failure is not None and failure.phase == phase:
                return [*found, self._finding(check, "FAILS", str(failure), advice_to_connect(failure, url))]
            found.append(self._finding(check, detail=dial.place if phase == "connect" else ""))
        return [*found[:-1], replace(found[-1], seconds=time.monotonic() - started)]

    async def _health(self) -> Finding:
        path, started = self._backend.health_path, time.monotonic()
        probe = health.Probe(self._backend.name, self._url, path, self._backend.tls_verify)
        cause = await probe.ask(self._resolver, health.LIMIT)
        if not cause:
            return replace(self._finding(f"health {path}"), seconds=time.monotonic() - started)
        advice = f"the gateway expects 200 within {health.LIMIT:g} s; correct health_path, or leave it empty"
        advice = await self._https_instead() or advice
        return self._finding(f"health {path}", "FAILS", cause, advice)

    async def _websocket(self, route: Route) -> Finding:
        path, started = sample(route.path), time.monotonic()
        check = f"websocket {path}"
        match = Snapshot.build((), [route], ()).match("websocket", "GET", path)
        if match is None:
            return self._finding(check, "skipped", f"no sample path matches {route.path}")
        grant = Grant(route, self._backend, self._visitor.who.identity, match.target(quote(path).encode()))
        try:
            await self._handshake(grant, path)
        except BackendRefused as exc:
            return self._finding(check, *await self._judge(grant, path, exc))
        except BackendError as exc:
            advice = "does it speak HTTP/1.1 and WebSocket on this port, and does it answer in time?"
            return self._finding(check, "FAILS", str(exc), await self._https_instead() or advice)
        return replace(self._finding(check), seconds=time.monotonic() - started)

    async def _judge(self, grant: Grant, path: str, refused: BackendRefused) -> tuple[Outcome, str, str]:
        """What a refused handshake means: outcome, detail and advice."""
        detail, status, route = str(refused), refused.status, grant.route
        if status == 400 and (advice := await self._https_instead()):
            return "FAILS", detail, advice
        if status in (401, 403) and (advice := await self._origin_that_opens(grant, path)):
            return "FAILS", detail, advice
        if path != route.path and 400 <= status < 500:
            return "refuses", detail, f"the route is {route.path}: it may accept a real path"
        if status in (401, 403) and route.access != "public" and grant.identity is None:
            return "refuses", detail, "no user was sent; with --token there is one, and other Origins are tried"
        if 300 <= status < 400:
            return "FAILS", detail, "redirects are not followed: use the url and path that it redirects to"
        return "FAILS", detail, _BY_STATUS.get(status, "its log should say why")

    async def _https_instead(self) -> str:
        """Advice for an ``http`` url whose port turns out to speak TLS; empty if it does not."""
        if self._url.scheme != "http":
            return ""
        dial = Dial(replace(self._url, scheme="https"), self._resolver, tls_verify=False)
        try:
            transport, _ = await dial.connect(asyncio.Protocol, min(self._backend.connect_timeout, TLS_PATIENCE))
        except DialFailed:
            return ""
        transport.abort()
        return "this port speaks TLS: write https:// in the url"

    async def _origin_that_opens(self, grant: Grant, path: str) -> str:
        """Advice for an Origin that the backend turns out to accept; empty if none helps.

        No Origin is tried first, as it suits every client; then the allowed ones (Django Channels wants one that it
        knows, and refuses a missing one), then the backend's own (gorilla/websocket).
        """
        scope, _ = _handshake_scope(path, self._visitor.headers)
        seen, own = forwarding.websocket_origin(scope, grant), self._url.origin
        listed = [origin.origin for origin in self._snapshot.origins if origin.enabled and "*" not in origin.origin]
        for rule in dict.fromkeys(("omit", *listed[:MOST_ORIGINS], own)):
            other = replace(grant, backend=replace(self._backend, websocket_origin=rule))
            if forwarding.websocket_origin(scope, other) == seen:
                continue
            try:
                await self._handshake(other, path)
            except BackendError:
                continue
            if rule == "omit":
                return 'it accepts a handshake without Origin: set websocket_origin = "omit"'
            if rule not in listed:
                return f'it accepts its own Origin: set websocket_origin = "{rule}"'
            if self._backend.websocket_origin == "forward":
                return f'it accepts {rule}: allow the other origins there as well, or set websocket_origin = "{rule}"'
            return f'it accepts {rule}, which is allowed here: set websocket_origin = "forward", or always "{rule}"'
        return ""

    async def _handshake(self, grant: Grant, path: str) -> None:
        """Open a WebSocket and close it.

        Raises:
            BackendError: The handshake failed.
        """
        visitor = self._visitor
        scope, arrival = _handshake_scope(path, visitor.headers)
        opened = await upstream.dial(self._connector, Opening(scope, arrival, grant, visitor.who, visitor.rules, ()))
        opened.transport.write(close_frame(1000, masked=True))
        opened.transport.close()
        self._connector.release(grant.backend, opened.url)


def sample(path: str) -> str:
    """A path that a route matches, with sample values for its placeholders."""
    return paths.PLACEHOLDER.sub(lambda found: SAMPLES.get(found[1] or "str", "check"), path)


def _handshake_scope(path: str, headers: Iterable[tuple[bytes, bytes]]) -> tuple[Scope, Arrival]:
    fields = list(headers)
    host = next((value.decode("latin-1") for name, value in fields if name == b"host"), "")
    scope: Scope = {
        "type": "websocket",
        "method": "GET",
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": b"",
        "headers": fields,
    }
    return scope, Arrival("check-backends", "127.0.0.1", "127.0.0.1", False, "http", host, 80, time.monotonic())


def advice_to_connect(failure: DialFailed, url: Url) -> str:
    """What to try after a failed dial."""
    if failure.phase == "resolve":
        return f"does the name {url.host} resolve on this machine? Try: getent hosts {url.host}"
    if failure.phase == "tls" and (failure.timed_out or "plain HTTP" in str(failure) or "reset" in str(failure)):
        return "does it speak TLS on this port? If not, write http:// in the url"
    if failure.phase == "tls" and "certificate verify failed" not in str(failure):
        return "check its TLS versions and ciphers, and whether it requires a client certificate"
    if failure.phase == "tls":
        return f"give it a certificate for {url.host} that this machine trusts, or set tls_verify = false"
    if failure.timed_out:
        return "a firewall may drop the packets, or the address may be wrong"
    return (
        f"is it running, and listening on port {url.port} at an address that can be reached from here? "
        "In a container, 127.0.0.1 is the container itself"
    )


# What the operator reads.


def report(findings: Iterable[Finding]) -> str:
    """A table of all checks, then the cause of each failure or refusal and what to try."""
    found = list(findings)
    head = ("BACKEND", "URL", "CHECK", "RESULT", "")
    rows = [head, *((f.backend, f.url, f.check, f.outcome, _note(f)) for f in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    causes = [
        f"\n{f.backend}  {f.url}  {f.check}: {f.outcome}\n    {f.detail}\n    try: {f.advice}"
        for f in found
        if f.outcome in ("FAILS", "refuses")
    ]
    return "\n".join([*table, *causes])


def _note(finding: Finding) -> str:
    if finding.outcome != "ok":
        return finding.detail if finding.outcome == "skipped" else ""
    return "  ".join(part for part in (finding.detail, finding.took) if part)
