"""``serve``: the production server. Daphne with our own server class, as one process or as supervised workers."""

from __future__ import annotations

import logging
import os
import resource
import sys
import tempfile
import threading
from argparse import SUPPRESS, Namespace
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from django.conf import settings
from django.core import checks
from django.core.management.base import CommandError, CommandParser
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from relay import __version__, database
from relay.checks import line
from relay.live import events, log, metrics
from relay.management.command import GatewayCommand, manage
from relay.server import workers as supervision
from relay.server.endpoints import Endpoint, EndpointError, Opened, adopt, descriptions
from relay.server.notify import READY, STOPPING, notify
from relay.shared.keeper import Keeper

logger = logging.getLogger("relay.server")

APPLICATION = "gatewaysite.asgi:application"


class Command(GatewayCommand):
    help = "Serve the gateway. Daphne's other options work as well: --root-path, --http-timeout, ..."
    requires_system_checks = ()  # run after the migration check, and printed one per line

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Options that are not ours go on to Daphne's command line."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)

        def parse_args(args: Sequence[str] | None = None, namespace: Namespace | None = None) -> Namespace:
            options, rest = parser.parse_known_args(args, namespace)
            options.daphne = rest
            return options

        parser.parse_args = parse_args  # type: ignore[method-assign,assignment]  # BaseCommand makes the parser itself
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("-b", "--bind", dest="host", help="address to listen on (default 127.0.0.1)")
        parser.add_argument("-p", "--port", type=int, help="port to listen on (default 8000)")
        parser.add_argument("-u", "--unix-socket", help="path of a Unix socket to listen on")
        parser.add_argument("--fd", type=int, help="file descriptor of a listening socket")
        parser.add_argument("-e", "--endpoint", action="append", default=[], help="tcp:, ssl:, unix:, fd: or systemd:")
        parser.add_argument("--workers", type=int, default=1, help="number of processes (default 1)")
        parser.add_argument("--inherited", default="", help=SUPPRESS)  # of a worker: sockets of its supervisor
        parser.add_argument("--supervisor-fd", type=int, help=SUPPRESS)  # of a worker: see relay.server.workers
        parser.add_argument("--keeper", help=SUPPRESS)  # of a worker: see relay.shared.keeper

    def handle(self, *args: Any, **options: Any) -> None:
        texts = descriptions(
            options["host"], options["port"], options["unix_socket"], options["fd"], options["endpoint"]
        )
        _allow_open_files()
        rest = ["-v", str(options["verbosity"]), *(word for text in texts for word in ("-e", text)), *options["daphne"]]
        try:
            endpoints = [Endpoint.parse(text) for text in texts]
            if options["inherited"]:
                sockets = [adopt(int(number)) for number in options["inherited"].split(",")]
                opened = list(zip(endpoints, sockets, strict=True))
                self._serve(opened, rest, options["supervisor_fd"], options["keeper"])
            else:
                self._check(options["workers"])
                status = self._listen(endpoints, options["workers"], rest)
                if options["workers"] > 1:
                    _leave(status)
        except EndpointError as exc:
            raise CommandError(str(exc)) from None
        if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
            _leave(0)  # a thread that hangs, say in one of the admin's queries, must not keep the process alive

    def _listen(self, endpoints: list[Endpoint], workers: int, rest: list[str]) -> int:
        opened = [(endpoint, endpoint.open()) for endpoint in endpoints]
        try:
            if workers > 1:
                return self._supervise(workers, opened, rest)
            self._serve(opened, rest)
            return 0
        finally:
            for endpoint in endpoints:
                endpoint.remove()

    # Problems are reported before anything listens:

    def _check(self, workers: int) -> None:
        if workers < 1:
            raise CommandError(f"--workers {workers}: at least one is needed", returncode=2)
        try:
            executor = MigrationExecutor(connection)
            missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
            problems = [] if missing else checks.run_checks(databases=["default"])
        except DatabaseError as exc:
            raise CommandError(database.trouble(exc)) from None
        finally:
            connection.close()
        if missing:
            there = f"{len(missing)} migrations are missing in the database {database.place()}"
            raise CommandError(f"{there}; run: {manage(sys.argv[0])} migrate")
        for problem in problems:
            if not problem.is_serious():
                logger.warning("%s", line(problem))
        serious = [line(problem) for problem in problems if problem.is_serious()]
        if serious:
            raise CommandError("\n".join(serious))

    # One process:

    def _serve(
        self, opened: list[Opened], rest: list[str], supervisor: int | None = None, keeper: str | None = None
    ) -> None:
        from gatewaysite.asgi import runtime
        from relay.door import serves_while_draining
        from relay.gateway import refusal_fields
        from relay.server.cli import CommandLineInterface, UsageError
        from relay.server.host import Hooks
        from relay.server.lifespan import StartupFailed

        def ready(urls: list[str]) -> None:
            if supervisor is None:
                _listens(" ".join(urls))
            else:
                supervision.join(supervisor)

        def drain() -> None:
            if supervisor is None:
                notify(STOPPING)
            runtime.drain()

        if supervisor is not None:
            log.worker_pid = os.getpid()

        if keeper is not None:
            runtime.share_with_workers(keeper)
        hooks = Hooks(
            on_ready=ready,
            on_drain=drain,
            on_refusal=runtime.metrics.refusal,
            refusal_fields=partial(refusal_fields, runtime),
            serves_while_draining=serves_while_draining,
        )
        try:
            CommandLineInterface().run([*rest, APPLICATION], opened, hooks, settings.RELAY.drain_seconds)
        except UsageError as exc:
            raise CommandError(f"{exc}; see {manage(sys.argv[0])} serve --help", returncode=2) from None
        except StartupFailed as exc:
            raise CommandError(str(exc)) from None

    # Several:

    def _supervise(self, workers: int, opened: list[Opened], rest: list[str]) -> int:
        sockets = [socket for _, socket in opened]
        listening = " ".join(endpoint.url(socket) for endpoint, socket in opened)
        inherited = ",".join(str(socket.fileno()) for socket in sockets)
        with _directory() as directory:
            metrics.share(directory)
            keeper = os.path.join(directory, "keeper")
            supervisor = supervision.Supervisor(
                [sys.executable, sys.argv[0], "serve", "--inherited", inherited, "--keeper", keeper, *rest],
                workers,
                sockets,
                settings.RELAY.drain_seconds,
                on_ready=lambda: _listens(listening, workers),
                on_stop=lambda: notify(STOPPING),
                on_exit=metrics.forget_process,
                beside=Keeper(keeper, settings.RELAY.rate_limit),
            )
            try:
                return supervisor.run()
            except supervision.NoWorker as exc:
                raise CommandError(f"no worker can be started: {exc}") from None


def _allow_open_files() -> None:
    """Raise the soft limit to the hard one: the usual 1024 means 500 sockets, and Kubernetes can't raise it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS reports a limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _directory() -> tempfile.TemporaryDirectory[str]:
    """A temporary directory shared by the supervisor and its workers."""
    try:
        return tempfile.TemporaryDirectory(prefix="gateway-")
    except OSError as exc:
        raise CommandError(f"--workers needs a directory to write to ({exc.strerror}); mount one at /tmp") from None


def _listens(listening: str, workers: int = 1) -> None:
    """Tell the log and systemd that connections are accepted."""
    log.tell(events.ServerStart(version=__version__, pid=os.getpid(), listening=listening, workers=workers))
    notify(READY)


def _leave(status: int) -> NoReturn:
    """End the process now: neither its threads nor the interpreter's cleanup may extend the drain."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
