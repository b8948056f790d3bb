"""Connections to backends: this process makes all of them here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from relay.backends import health
from relay.backends.balance import UrlState, in_order
from relay.backends.dial import Dial, DialFailed
from relay.backends.resolver import Resolver
from relay.refusals import BackendError, BackendTimeout, BackendUnreachable, NoHealthyBackend
from relay.routing.snapshot import Backend, Snapshot, Url

P = TypeVar("P", bound=asyncio.BaseProtocol)


@dataclass(frozen=True, slots=True)
class UrlHealth:
    """A url's health as seen by this process; `cause` says why it is not up."""

    url: str
    up: bool
    in_use: int
    cause: str


@dataclass(frozen=True, slots=True)
class BackendHealth:
    """A backend's health: it is healthy while any url is up. Without a health path, all count as up."""

    healthy: bool
    urls: tuple[UrlHealth, ...]


class Connector:
    """Connects to backends. One per process, used from its event loop only.

    Args:
        interval: Seconds between health polls of a url.
        limit: Seconds that one poll may take.
    """

    def __init__(self, interval: float = health.INTERVAL, limit: float = health.LIMIT) -> None:
        self._interval, self._limit = interval, limit
        self._resolver = Resolver()
        self._states: dict[tuple[str, str], UrlState] = {}
        self._backends: Mapping[str, Backend] = {}
        self._polls: dict[health.Probe, asyncio.Task[None]] = {}

    # Connecting

    async def connect(self, backend: Backend, factory: Callable[[], P]) -> tuple[asyncio.Transport, P, Url]:
        """Connect to the best url or, if that fails, the next; it counts as in use until `release`.

        Args:
            backend: Its ``connect_timeout`` applies to each url separately (name, TCP and TLS together): a url that
                swallows packets must not use up the time of a healthy one.
            factory: Called once per address tried; only the returned protocol stays connected.

        Raises:
            NoHealthyBackend: Every url is out by its health path.
            BackendTimeout: No url was reached, and all of them timed out.
            BackendUnreachable: No url was reached.
        """
        failures: list[tuple[Url, DialFailed]] = []
        for state in self.candidates(backend):
            try:
                transport, protocol = await self.dial(backend, state, factory)
            except DialFailed as failure:
                failures.append((state.url, failure))
            else:
                return transport, protocol, state.url
        raise unreachable(backend, failures) from failures[-1][1]

    def release(self, backend: Backend, url: Url) -> None:
        """Undo the counting of `connect`; call once per connection, when it has ended."""
        self._state(backend.name, url).release()

    def candidates(self, backend: Backend) -> list[UrlState]:
        """The urls to try, best first, at least one.

        Raises:
            NoHealthyBackend: Every url is out by its health path.
        """
        urls, name = backend.urls, backend.name
        if len(urls) == 1:
            state = self._state(name, urls[0])
            found = [] if state.out else [state]
        else:
            found = in_order([self._state(name, url) for url in urls], asyncio.get_running_loop().time())
        if not found:
            causes = "; ".join(f"{url.text}: {self._state(name, url).cause}" for url in urls)
            raise NoHealthyBackend(name, f"every url of {name} is out: {causes}", "connect")
        return found

    async def dial(self, backend: Backend, state: UrlState, factory: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        """Connect to one url of `candidates`; it counts as in use until ``state.release()``.

        Raises:
            DialFailed: The url could not be reached; `state` has recorded that.
        """
        state.take()
        try:
            connection = await Dial(state.url, self._resolver, backend.tls_verify).connect(
                factory, backend.connect_timeout
            )
        except BaseException as exc:
            state.release()
            if isinstance(exc, DialFailed):
                state.not_connected(asyncio.get_running_loop().time())
            raise
        state.connected()
        return connection

    # Health

    def status(self) -> Mapping[str, BackendHealth]:
        """The health of every enabled backend."""
        return {name: self._health(backend) for name, backend in self._backends.items()}

    def update(self, snapshot: Snapshot) -> None:
        """Apply a new configuration: start and stop polls as needed, and leave the others alone."""
        self._backends = {name: backend for name, backend in snapshot.backends.items() if backend.enabled}
        wanted = {
            health.Probe(backend.name, url, backend.health_path, backend.tls_verify): self._state(backend.name, url)
            for backend in self._backends.values()
            if backend.health_path
            for url in backend.urls
        }
        for probe in self._polls.keys() - wanted.keys():
            self._polls.pop(probe).cancel()
        probed = {(probe.backend, probe.url.text) for probe in wanted}
        configured = {(backend.name, url.text) for backend in self._backends.values() for url in backend.urls}
        for key, state in list(self._states.items()):
            if key not in probed:
                state.unprobed()
            if key not in configured and not state.in_use:
                del self._states[key]
        for probe, state in wanted.items():
            if probe not in self._polls:
                poll = health.poll(probe, state, self._resolver, self._interval, self._limit)
                self._polls[probe] = asyncio.create_task(poll, name=f"health {probe.backend} {probe.url.text}")

    async def close(self) -> None:
        """Stop polling and resolving; existing connections stay with their owners."""
        polls = list(self._polls.values())
        self._polls.clear()
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        await self._resolver.close()

    def _state(self, backend: str, url: Url) -> UrlState:
        key = (backend, url.text)
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = UrlState(url)
        return state

    def _health(self, backend: Backend) -> BackendHealth:
        states = [self._state(backend.name, url) for url in backend.urls]
        urls = tuple(UrlHealth(s.url.text, not s.out, s.in_use, s.cause) for s in states)
        return BackendHealth(any(url.up for url in urls), urls)


def unreachable(backend: Backend, failures: list[tuple[Url, DialFailed]]) -> BackendError:
    """The error for a backend without a reachable url: a timeout only if every url timed out."""
    kind = BackendTimeout if all(failure.timed_out for _, failure in failures) else BackendUnreachable
    cause = "; ".join(f"{url.text}: {failure}" for url, failure in failures)
    return kind(backend.name, cause, failures[-1][1].phase)
