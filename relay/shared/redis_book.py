"""The book of many machines, inside Redis: ``book.lua`` answers each batch atomically."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from relay.routing.snapshot import Rate
from relay.shared.book import Ask
from relay.shared.link import Unreachable

PREFIX = "gateway"
LEASE = 15.0
"""Seconds after which whatever a dead process held is released."""

_SCRIPT = Path(__file__).with_name("book.lua").read_text(encoding="utf-8")


class RedisBook:
    """Connects to the book in Redis.

    Args:
        url: ``REDIS_URL``.
        rate: The rate limit of each client; None: there is none.
        lease: This process's lease, in seconds.
    """

    def __init__(self, url: str, rate: Rate | None, lease: float = LEASE) -> None:
        self._url = url
        interval = rate.seconds * 1000 / rate.count if rate is not None else 0  # ms
        self._facts = (PREFIX, secrets.token_hex(8), round(lease * 1000), interval, rate.burst if rate else 0)

    async def dial(self) -> RedisLine:
        """Connect.

        Raises:
            Unreachable: Redis can't be reached, or refuses.
        """
        # No retries or time limits here: the link has them.
        client = Redis.from_url(self._url, single_connection_client=True, protocol=2, socket_timeout=None, retry=None)
        try:
            digest = await client.script_load(_SCRIPT)
        except BaseException as exc:
            await _close(client)
            if isinstance(exc, RedisError):
                raise Unreachable(str(exc)) from exc
            raise
        return RedisLine(client, digest, self._facts)


class RedisLine:
    """A process's connection to Redis."""

    def __init__(self, client: Redis, digest: str, facts: tuple[str | int | float, ...]) -> None:
        self._client, self._digest, self._facts = client, digest, facts

    async def exchange(self, asks: Sequence[Ask]) -> list[float]:
        try:
            answers = await self._client.evalsha(self._digest, 1, *self._facts, json.dumps(asks))
        except RedisError as exc:
            raise Unreachable(str(exc)) from exc
        return [float(answer) for answer in answers]

    async def close(self) -> None:
        await _close(self._client)


async def _close(client: Redis) -> None:
    with suppress(OSError, RedisError):
        await client.aclose()
