"""Several worker processes on one listening socket, and the supervisor that keeps them alive.

The supervisor serves nothing: it imports neither the application nor the reactor. It has a socket pair with each
worker: the worker writes a byte when it listens, and stops when the other end is closed, so that no worker outlives a
killed supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence

logger = logging.getLogger("relay.server")

GRACE = 5.0
"""Seconds after the drain until a worker that has not ended is killed."""
FIRST_DELAY, LAST_DELAY = 0.1, 10.0
"""Seconds before a dead worker is replaced: doubled each time, and reset once a worker has lived longer."""


class NoWorker(Exception):
    """The system could not start the first worker; the message says why."""


def join(supervisor: int) -> None:
    """Tell the supervisor that this worker listens, and treat the supervisor's death as a SIGTERM. Call on the loop.

    Args:
        supervisor: File descriptor of the worker's end of the socket pair.
    """
    os.write(supervisor, b"!")
    asyncio.get_running_loop().add_reader(supervisor, _orphaned, supervisor)


def _orphaned(supervisor: int) -> None:
    asyncio.get_running_loop().remove_reader(supervisor)
    os.kill(os.getpid(), signal.SIGTERM)


class Supervisor:
    """Starts the workers, replaces those that die, and ends with them.

    The first worker starts alone: if it can't serve, none can, and its exit status is the supervisor's.

    Args:
        command: A worker's command; ``--supervisor-fd N`` is added.
        sockets: Inherited by the workers.
        drain_seconds: How long a worker may take to end.
        on_ready: Called when all workers serve.
        on_stop: Called at the first signal, when they start to drain.
        on_exit: Called with the process id of a worker that has ended.
        beside: A context entered, on the supervisor's loop, for as long as workers run.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int,
        sockets: Sequence[socket.socket],
        drain_seconds: float,
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_stop: Callable[[], None] = lambda: None,
        on_exit: Callable[[int], None] = lambda pid: None,
        beside: contextlib.AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        self._command, self._workers = list(command), workers
        self._inherited = [opened.fileno() for opened in sockets]
        self._drain_seconds = drain_seconds
        self._on_ready, self._on_stop, self._on_exit = on_ready, on_stop, on_exit
        self._beside = beside or contextlib.nullcontext()
        self._processes: set[asyncio.subprocess.Process] = set()
        self._waiting = workers  # how many are still to start serving
        self._status = 0
        self._failure: Exception | None = None

    def run(self) -> int:
        """Run until the end; return the exit status: 0 after a signal, or the first worker's if it couldn't serve.

        Raises:
            NoWorker: The system could not start the first worker.
        """
        status = asyncio.run(self._run())
        if self._failure is not None:
            raise NoWorker(str(self._failure)) from self._failure
        return status

    async def _run(self) -> int:
        self._stopping, self._first_serves = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop)
        async with self._beside, asyncio.TaskGroup() as group:
            for index in range(self._workers):
                group.create_task(self._keep(index), name=f"worker {index}")
        return self._status

    def _stop(self) -> None:
        """Pass each signal on to the workers: the second one ends them at once."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._on_stop()
            asyncio.get_running_loop().call_later(self._drain_seconds + GRACE, self._signal, signal.SIGKILL)
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, index: int) -> None:
        """Keep a worker running until the end."""
        if index > 0:
            await self._either(self._first_serves, None)
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            started = asyncio.get_running_loop().time()
            failure: Exception | None = None
            try:
                status = await self._live(index)
            except (
                OSError,
                RuntimeError,
            ) as exc:  # no process, or no thread to wait for it; the others serve on
                status, failure = 1, exc
            if self._stopping.is_set():
                return
            if not self._first_serves.is_set():
                self._status, self._failure = status if status > 0 else 1, failure
                self._stopping.set()
                return
            lived = asyncio.get_running_loop().time() - started
            delay = FIRST_DELAY if lived > LAST_DELAY else min(delay * 2, LAST_DELAY)
            end = f"ended with status {status}" if failure is None else f"can't be started ({failure})"
            logger.error("worker %d %s, a new one starts in %.1f s", index, end, delay)
            await self._either(self._stopping, delay)

    async def _live(self, index: int) -> int:
        """Run a worker once; return its exit status.

        Raises:
            OSError, RuntimeError: The worker could not be started.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    "--supervisor-fd",
                    str(theirs.fileno()),
                    pass_fds=(*self._inherited, theirs.fileno()),
                    # A terminal's Ctrl-C must reach only the supervisor: two signals would cut the drain short.
                    start_new_session=True,
                )
            self._processes.add(process)
            if self._stopping.is_set():
                self._signal(signal.SIGTERM)
            ours.setblocking(False)
            if await asyncio.get_running_loop().sock_recv(ours, 1):
                self._serves(index)
            status = await process.wait()
        self._processes.discard(process)
        self._on_exit(process.pid)
        return status

    def _serves(self, index: int) -> None:
        self._first_serves.set()
        if self._waiting:
            self._waiting -= 1
            if not self._waiting:
                self._on_ready()

    async def _either(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait for an event or the end, for at most `seconds`."""
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._stopping.wait())]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
