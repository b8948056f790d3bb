"""The bell: a process that changes something rings it through Redis, and every process polls the database at once.

The database says what is new, and is polled several times a second even without a bell (`relay.routing.watch`): if
Redis is lost, changes are only delayed by less than that interval.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

import redis
from redis.asyncio import Redis
from redis.exceptions import RedisError

log = logging.getLogger("relay")

CHANNEL = "gateway:changes"

GONE = (OSError, RedisError, RuntimeError)
"""What a dropped connection raises; on uvloop, writing to a transport that has just closed is a RuntimeError."""

TIMEOUT = 0.5
"""Seconds that a ring may take: somebody who clicked a button is waiting."""

REST = 5.0
"""Seconds without rings after a failed one: a change of a thousand rows must not wait a thousand times."""

BEAT = 5.0
"""Seconds of silence before Redis is pinged; it may take as long again to answer."""

RETRY = 1.0
"""Seconds between attempts to listen."""


class Bell:
    """Rings the bell, from any thread.

    Args:
        url: ``REDIS_URL``.
        clock: Monotonic seconds.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis.Redis.from_url(
            url, protocol=2, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=None
        )
        self._clock = clock
        self._silent_until = float("-inf")

    def ring(self, **_: object) -> None:
        """Announce that something has changed. Never fails: without it, the others find out by polling."""
        if self._clock() < self._silent_until:
            return
        try:
            self._redis.publish(CHANNEL, "")
        except (OSError, RedisError) as exc:
            self._silent_until = self._clock() + REST
            log.info("redis: %s; changes are found in the database, a moment later", exc)


class Listener:
    """Listens for the bell.

    Args:
        url: ``REDIS_URL``.
        on_ring: Called on the loop, also when a ring may have been missed.
    """

    def __init__(self, url: str, on_ring: Callable[[], object]) -> None:
        self._url, self._on_ring = url, on_ring
        self._deaf = False

    @property
    def warning(self) -> str:
        """For ``/health``; empty while all is well."""
        return "redis unreachable: changes are found in the database, a moment later" if self._deaf else ""

    async def listen(self) -> None:
        """Listen until cancelled."""
        while True:
            # A new client each time, so that the state of a failed one doesn't matter.
            client = Redis.from_url(self._url, protocol=2, socket_timeout=TIMEOUT, retry=None)
            try:
                await self._listen(client)
            except GONE as exc:
                if not self._deaf:
                    self._deaf = True
                    log.warning("%s: %s", self.warning, exc)
            except Exception:  # our bug; the next connection may succeed nevertheless
                self._deaf = True
                log.exception("listening to redis failed")
            finally:
                with suppress(*GONE):
                    await client.aclose()
            await asyncio.sleep(RETRY)

    async def _listen(self, client: Redis) -> None:
        async with client.pubsub() as bell:
            await bell.subscribe(CHANNEL)
            asked = False
            while True:
                message = await bell.get_message(timeout=BEAT)
                if message is None:
                    if asked:
                        raise TimeoutError("no answer")
                    await bell.ping()
                elif message["type"] == "subscribe":
                    self._hears()
                elif message["type"] == "message":
                    self._on_ring()
                asked = message is None

    def _hears(self) -> None:
        if self._deaf:
            self._deaf = False
            log.info("redis is reachable again: changes take effect at once")
        self._on_ring()
