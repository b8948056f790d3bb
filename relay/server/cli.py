"""Daphne's command line for our server, without the options that would break the contract."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from relay.server.server import Server  # first: it chooses the reactor

import daphne.cli  # isort: skip

from relay.server.endpoints import Opened
from relay.server.host import Hooks

_REFUSED = {
    "proxy_headers": "--proxy-headers believes every peer; set TRUSTED_PROXIES instead",
    "proxy_headers_host": "--proxy-headers-host believes every peer; set TRUSTED_PROXIES instead",
    "proxy_headers_port": "--proxy-headers-port believes every peer; set TRUSTED_PROXIES instead",
    "access_log": "--access-log would write tokens in queries to the log; the application logs each request itself",
}

_FOR_MESSAGES = {
    "ping_interval": "a silent side is pinged every 20 s",
    "ping_timeout": "a side has vanished 30 s after a ping without an answer",
    "websocket_timeout": "a route's idle_timeout ends silent sockets, and a token's exp ends any",
    "websocket_max_message_size": "a backend's max_message_size is the limit",
    "websocket_max_frame_size": "a backend's max_message_size is the limit",
}
"""Options for sockets relayed as messages, which the gateway never does under this server; and what applies instead."""

logger = logging.getLogger("relay.server")


class UsageError(Exception):
    """The command line is not valid; the message says why."""


class CommandLineInterface(daphne.cli.CommandLineInterface):
    """By default, the application alone limits the lifetime of WebSockets and the size of messages."""

    description = "HTTP and WebSocket server for ASGI applications"
    server_class = Server

    def __init__(self) -> None:
        super().__init__()
        self.parser.set_defaults(
            websocket_timeout=-1,
            websocket_connect_timeout=-1,
            websocket_max_message_size=0,
            websocket_max_frame_size=0,
            server_name="",
        )
        self.parser.error = self._fail

    def _fail(self, message: str) -> NoReturn:
        raise UsageError(message)

    def run(
        self,
        args: Sequence[str],
        endpoints: Sequence[Opened],
        hooks: Hooks | None = None,
        drain_seconds: float = 20,
    ) -> None:
        """Serve until a signal ends it.

        Args:
            args: Daphne's; endpoints in them are ignored, as they have already been opened.

        Raises:
            UsageError, EndpointError, StartupFailed: The server can't start.
        """
        options = self.parser.parse_args(args)
        for name, reason in _REFUSED.items():
            if getattr(options, name):
                raise UsageError(reason)
        for name, instead in _FOR_MESSAGES.items():
            if getattr(options, name) != self.parser.get_default(name):
                option = next(action.option_strings[-1] for action in self.parser._actions if action.dest == name)
                logger.warning("%s has no effect: %s", option, instead)
        sys.path.insert(0, ".")
        application: Any = self.load_asgi_app(options.application)
        self.server = self.server_class(
            application=application,
            endpoints=endpoints,
            hooks=hooks,
            drain_seconds=drain_seconds,
            http_timeout=options.http_timeout,
            ping_interval=options.ping_interval,
            ping_timeout=options.ping_timeout,
            websocket_timeout=options.websocket_timeout,
            websocket_connect_timeout=options.websocket_connect_timeout,
            websocket_max_message_size=options.websocket_max_message_size,
            websocket_max_frame_size=options.websocket_max_frame_size,
            application_close_timeout=options.application_close_timeout,
            root_path=options.root_path,
            verbosity=options.verbosity,
            server_name=options.server_name,
        )
        self.server.run()
