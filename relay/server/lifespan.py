"""ASGI's lifespan protocol: the application starts before the server listens, and stops after its last client."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from relay.typing import ASGIApp, Message

logger = logging.getLogger("relay.server")


class StartupFailed(Exception):
    """The application can't start; the message says why."""


class Lifespan:
    """The lifespan of one application. An application without support for the protocol is simply served."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Raises StartupFailed."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        life = self._application(scope, self._events.get, self._answers.put)
        self._task = asyncio.ensure_future(life)
        answer = await self._ask("startup")
        if answer is not None and answer["type"] == "lifespan.startup.failed":
            raise StartupFailed(answer.get("message") or "the application failed to start")

    async def shutdown(self, seconds: float) -> None:
        """Give the application `seconds` to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                answer = await self._ask("shutdown")
                if answer is not None and answer["type"] == "lifespan.shutdown.failed":
                    logger.error("The application failed to stop: %s", answer.get("message"))
        if self._task is not None:
            self._task.cancel()

    async def _ask(self, event: str) -> Message | None:
        """The application's answer; None if it has ended, and so doesn't take part."""
        if self._task is None or self._task.done():
            return None
        await self._events.put({"type": f"lifespan.{event}"})
        answer = asyncio.ensure_future(self._answers.get())
        try:
            await asyncio.wait((answer, self._task), return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else None
        finally:
            answer.cancel()
            if self._task.done() and not self._task.cancelled():
                self._task.exception()  # not an error: ASGI's lifespan, "raising an exception"
