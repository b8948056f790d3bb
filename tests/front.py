"""A gateway in a process of its own, in front of a backend that runs in the loop of the test."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

from tests import served, stack
from tests.served import Line, Server, Site

APPLICATION = "gatewaysite.asgi:application"
OTHER_SERVERS = {
    "daphne": [str(Path(sys.executable).with_name("daphne")), "-p", "{port}", APPLICATION],
    "uvicorn": [str(Path(sys.executable).with_name("uvicorn")), "--port", "{port}", APPLICATION],
}
"""Their command lines; the site's ``PYTHONPATH`` leads to the application."""


class Front(stack.Client):
    """The gateway. Its backend listens as long as it does, and serves whenever a test brings a behaviour along.

    Attributes:
        name: Of the server that it runs under.
    """

    def __init__(self, name: str, site: Site, server: Server, listener: socket.socket) -> None:
        super().__init__(server.port)
        self.name, self.site, self.server, self._listener = name, site, server, listener

    def backend(self, behaviour: stack.Behaviour = stack.echo) -> AbstractAsyncContextManager[stack.BackendServer]:
        """The backend, while the block runs."""
        return stack.backend(behaviour, self._listener)

    async def logged(self, wanted: Callable[[Line], bool] | str, within: float = 10) -> Line:
        """The first line that is wanted, now or soon."""
        return await asyncio.to_thread(self.server.wait_for, wanted, within)


@contextmanager
def fronting(site: Site, configuration: str, *options: str, under: str = "serve") -> Iterator[Front]:
    """Run a gateway until the block ends.

    Args:
        configuration: TOML; its ``{port}`` is the backend's.
        options: Of ``serve``.
        under: Which server; ``serve`` is ours.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site.configure(configuration.format(port=listener.getsockname()[1]))
        with served.serving(site, *options, argv=OTHER_SERVERS.get(under)) as server:
            yield Front(under, site, server, listener)
