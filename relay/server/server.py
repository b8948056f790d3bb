"""Daphne's server with asyncio's transports: the same options and the same reactor, but our own protocols."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Sequence
from typing import Any

from relay.server import loop

loop.install()

import daphne.server  # noqa: E402
from twisted.internet import reactor  # noqa: E402
from twisted.logger import STDLibLogObserver, globalLogBeginner  # noqa: E402

from relay.live import events, log  # noqa: E402
from relay.server.endpoints import BACKLOG, Opened  # noqa: E402
from relay.server.host import Hooks, Host  # noqa: E402
from relay.server.lifespan import Lifespan  # noqa: E402
from relay.server.limits import Limits  # noqa: E402

logger = logging.getLogger("relay.server")

TLS_HANDSHAKE_TIME = 10.0
"""Seconds."""
SHUTDOWN_TIME = 5.0
"""Seconds that the application has to end after its last client; 1 after a second signal."""
COLLECT_AFTER = 10_000
"""New container objects before the garbage collector runs: some hundred sockets."""

if daphne.server.twisted_loop is not reactor._asyncioEventloop:
    daphne.server.twisted_loop.close()  # created for a reactor; the process uses ours


class Server(daphne.server.Server):
    """Takes Daphne's arguments, and these:

    Args:
        endpoints: Not strings, but each with its listening socket.
        drain_seconds: The maximum from the first SIGTERM or SIGINT to the end of the process. A second one ends it.
    """

    host: Host
    lifespan: Lifespan

    def __init__(
        self,
        *args: Any,
        endpoints: Sequence[Opened],
        hooks: Hooks | None = None,
        drain_seconds: float = 20,
        **options: Any,
    ) -> None:
        super().__init__(*args, endpoints=endpoints, **options)
        self.hooks = hooks
        self.drain_seconds = drain_seconds
        self._drain: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._hurried = False

    @property
    def limits(self) -> Limits:
        """Daphne's options as our limits; where -1 means none to it, it does to us."""
        return Limits(
            request_time=max(self.http_timeout or 0, 0),
            accept_time=max(self.websocket_connect_timeout, 0),
            socket_time=max(self.websocket_timeout, 0),
            message_size=self.websocket_max_message_size,
            frame_size=self.websocket_max_frame_size,
            ping_interval=self.ping_interval,
            ping_timeout=self.ping_timeout,
            application_close_time=self.application_close_timeout,
        )

    def run(self) -> None:
        """Serve until a signal ends it.

        Raises:
            EndpointError, StartupFailed: The server can't start.
        """
        running = reactor._asyncioEventloop
        asyncio.set_event_loop(running)
        running.set_debug(self.verbosity >= 3)
        observers = [STDLibLogObserver("twisted")] if self.verbosity > 1 else [lambda event: None]
        globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False, discardBuffer=True)
        start = running.create_task(self._start(), name="start")
        if self.signal_handlers:
            for number in (signal.SIGTERM, signal.SIGINT):
                running.add_signal_handler(number, self._signalled, number, start)

        def stop_if_failed(done: asyncio.Task[None]) -> None:
            if done.cancelled() or done.exception() is not None:
                reactor.callWhenRunning(reactor.stop)

        # Run the loop once, not twice: a signal in between would be lost.
        start.add_done_callback(stop_if_failed)
        reactor.run(installSignalHandlers=False)
        if start.cancelled():
            return  # by a signal
        self.abort_start = start.exception() is not None
        start.result()

    async def _start(self) -> None:
        sockets = [opened for _, opened in self.endpoints]
        contexts = [endpoint.tls() for endpoint, _ in self.endpoints]
        self.host = Host(
            self.application,
            self.limits,
            self.hooks,
            root_path=self.root_path,
            server_name=self.server_name,
        )
        self.lifespan = Lifespan(self.application)
        try:
            await self.lifespan.startup()
        except BaseException:
            await self.host.close()
            raise
        for opened, context in zip(sockets, contexts, strict=True):
            self.listeners.append(await self._listen(opened, context))
        self.listening_addresses = [tuple(s.getsockname()[:2]) for s in sockets if s.family != socket.AF_UNIX]
        _spare_the_garbage_collector()
        self.host.hooks.on_ready([endpoint.url(opened) for endpoint, opened in self.endpoints])
        if self.ready_callable:
            self.ready_callable()

    async def _listen(self, opened: socket.socket, context: Any) -> asyncio.AbstractServer:
        create: Any = self.host.loop.create_server
        if opened.family == socket.AF_UNIX:
            create = self.host.loop.create_unix_server
        limit = {"ssl_handshake_timeout": TLS_HANDSHAKE_TIME} if context is not None else {}
        listener: asyncio.AbstractServer = await create(
            self.host.protocol, sock=opened, ssl=context, backlog=BACKLOG, **limit
        )
        return listener

    # The end:

    def _signalled(self, number: int, start: asyncio.Task[None]) -> None:
        if not start.done():
            start.cancel()
        elif self._ending is None:
            self._ending = self.host.loop.create_task(self._end(signal.Signals(number).name), name="end")
        else:
            self._hurried = True
            if self._drain is not None:
                self._drain.cancel()

    async def _end(self, name: str) -> None:
        """Drain, cut what is left, and stop. Clients can connect until the end: a balancer has to see the 503."""
        host = self.host
        sockets = sum(run.scope["type"] == "websocket" for run in host.applications)
        requests = len(host.applications) - sockets
        log.tell(events.ServerDrain(sockets=sockets, requests=requests, seconds=self.drain_seconds, signal=name))
        self._drain = host.loop.create_task(host.drain(self.drain_seconds), name="drain")
        host.hooks.on_drain()
        with contextlib.suppress(asyncio.CancelledError):
            await self._drain
        for listener in self.listeners:
            listener.close()
        await host.close()
        await self.lifespan.shutdown(1 if self._hurried else SHUTDOWN_TIME)
        reactor.stop()


def _spare_the_garbage_collector() -> None:
    """Make the garbage collector's pauses, in which every socket waits, rare and short.

    Requests and sockets leave no reference cycles behind (tests/test_garbage.py), so there is little to find. What is
    loaded by now stays loaded, and is not examined again: that alone took 90 ms each time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
