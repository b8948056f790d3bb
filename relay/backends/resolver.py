"""Resolve names to addresses, with a short-lived cache.

This uses the system's resolver, so ``/etc/hosts`` and a container network's names work.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

SockAddr = tuple[str, int] | tuple[str, int, int, int]

FRESH_FOR = 5.0
"""Seconds for which an answer is used without asking again: getaddrinfo gives no time to live, and containers move."""

STALE_FOR = 60.0
"""Seconds for which an answer is still used if asking again fails: a broken name server must not take backends down."""

PATIENCE = 0.3
"""Seconds to wait for a newer answer before a stale one is used; glibc waits 10 for a silent name server."""

REMEMBERED = 1024
"""Names kept; the least recently used is dropped first."""


@dataclass(frozen=True, slots=True)
class Address:
    """An address in the form that `socket.connect` takes."""

    family: int
    sockaddr: SockAddr

    def __str__(self) -> str:
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(slots=True)
class _Answer:
    addresses: tuple[Address, ...]
    at: float


@dataclass(slots=True)
class _Question:
    task: asyncio.Task[_Answer]
    at: float


class Resolver:
    """Resolves names, with one query per name at a time for all who wait. Failures are not cached."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, int], _Answer] = OrderedDict()
        self._asking: dict[tuple[str, int], _Question] = {}

    async def resolve(self, host: str, port: int) -> tuple[Address, ...]:
        """Addresses of a host, at least one, families alternating, the system's preferred one first (RFC 8305 §4).

        Raises:
            OSError: The lookup failed, usually with `socket.gaierror`, and there is no usable older answer.
        """
        if found := literal(host, port):
            return found
        key, now = (host, port), asyncio.get_running_loop().time()
        answer = self._answers.get(key)
        if answer is None or now - answer.at > STALE_FOR:
            answer = await asyncio.shield(self._ask(key).task)  # a cancelled caller must not cancel it for others
        elif now - answer.at > FRESH_FOR:
            answer = await self._newer(key, now) or answer
        else:
            self._answers.move_to_end(key)
        return answer.addresses

    async def _newer(self, key: tuple[str, int], now: float) -> _Answer | None:
        """A newer answer, if it comes soon; the query goes on in the background, and only the first caller waits."""
        question = self._ask(key)
        try:
            async with asyncio.timeout(max(question.at + PATIENCE - now, 0)):
                return await asyncio.shield(question.task)
        except OSError:  # TimeoutError is one
            return None

    def _ask(self, key: tuple[str, int]) -> _Question:
        question = self._asking.get(key)
        if question is None:
            task = asyncio.create_task(self._look_up(key), name=f"resolve {key[0]}")
            question = self._asking[key] = _Question(task, asyncio.get_running_loop().time())
            task.add_done_callback(lambda done: (self._asking.pop(key, None), done.cancelled() or done.exception()))
        return question

    async def _look_up(self, key: tuple[str, int]) -> _Answer:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(*key, type=socket.SOCK_STREAM)
        except UnicodeError as exc:  # a label that IDNA can't encode
            raise socket.gaierror(socket.EAI_NONAME, str(exc)) from exc
        addresses = [Address(family, sockaddr) for family, _, _, _, sockaddr in found]  # type: ignore[arg-type]  # no AF_UNIX here
        answer = self._answers[key] = _Answer(_families_in_turn(addresses), loop.time())
        self._answers.move_to_end(key)
        if len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)
        return answer

    async def close(self) -> None:
        """Cancel the queries in progress."""
        asking = [question.task for question in self._asking.values()]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


@lru_cache(REMEMBERED)
def literal(host: str, port: int) -> tuple[Address] | None:
    """The address for a literal IPv4 or IPv6 host; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 4:
        return (Address(socket.AF_INET, (host, port)),)
    zone = getattr(address, "scope_id", None)
    return None if zone else (Address(socket.AF_INET6, (host, port, 0, 0)),)  # the system has to resolve a zone's name


def _families_in_turn(addresses: list[Address]) -> tuple[Address, ...]:
    first = [a for a in addresses if a.family == addresses[0].family]
    second = [a for a in addresses if a.family != addresses[0].family]
    return tuple(a for pair in zip_longest(first, second) for a in pair if a is not None)
