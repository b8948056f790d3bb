"""`make run`: from a bare checkout to a gateway, its backend and a page to try both, until Ctrl-C."""

import asyncio
import contextlib
import errno
import http.client
import io
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from demo import environment
from demo.orphans import end_with

HOST = "127.0.0.1"
PORTS = (environment.PORT, 9000)
"""The ports of the gateway and the backend in gateway.toml."""
PATIENCE = 30.0
"""Seconds for both to start answering."""
TOKEN_LIFETIME = 24 * 60 * 60.0
"""Lifetime of the printed token, in seconds."""


def run(port: int) -> int:
    """Prepare and run the demo until a signal; return the exit status. SystemExit: the port is in use."""
    if "MAKELEVEL" in os.environ:
        end_with(os.getppid())
    if not is_free(port):
        sys.exit(f"Port {port} is in use: stop what is listening there, or use another: make run PORT={port + 1}")
    data = environment.enter(port)
    with listener(port) as backend_socket:
        backend_port = backend_socket.getsockname()[1]
        password = prepare(data, port, backend_port)
        return asyncio.run(supervise(port, backend_socket, banner(port, backend_port, password)))


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def listener(gateway_port: int) -> socket.socket:
    """Return a listening socket for the backend, on its usual port or any free one."""
    if gateway_port != PORTS[1]:
        with contextlib.suppress(OSError):
            return socket.create_server((HOST, PORTS[1]))
    return socket.create_server((HOST, 0))


def prepare(data: Path, port: int, backend_port: int) -> str:
    """Migrate, apply gateway.toml and create the admin account; return its password."""
    import django
    from django.core.management import call_command

    django.setup()
    from django.contrib.auth import get_user_model
    from django.db import connections

    call_command("migrate", verbosity=0)
    text = (Path(__file__).parent / "gateway.toml").read_text()
    for written, chosen in zip(PORTS, (port, backend_port), strict=True):
        text = text.replace(f":{written}", f":{chosen}")
    (data / "gateway.toml").write_text(text)
    call_command("import_config", str(data / "gateway.toml"), stdout=io.StringIO())

    password = environment.kept(data / "admin-password", 6)
    users = get_user_model().objects
    if not users.filter(username="admin").exists():
        users.create_superuser("admin", password=password)
    connections.close_all()
    return password


def banner(port: int, backend_port: int, password: str) -> str:
    from demo.people import PEOPLE, claims_of, token_of

    ada = PEOPLE["ada"]
    url = f"http://{HOST}:{port}"
    chosen = "" if port == environment.PORT else f"PORT={port} "
    return f"""
  The gateway is running, with a demo backend behind it. Ctrl-C stops both.

    Page      {url}/
    Admin     {url}/admin/     admin / {password}
    Health    {url}/health
    Backend   http://{HOST}:{backend_port}            (anyone who can reach it directly skips the gateway)

  A token (Ada, role user, valid for a day), and how to use it:

    TOKEN={token_of(ada, claims_of(ada, TOKEN_LIFETIME))}
    curl -H "Authorization: Bearer $TOKEN" {url}/api/hello
    {chosen}{os.path.relpath(sys.executable)} -m demo explain GET /api/hello --token "$TOKEN"
"""


# The two processes


async def supervise(port: int, backend_socket: socket.socket, text: str) -> int:
    """Run the backend and the gateway until a signal (0), or until one of them ends by itself (1)."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopped.set)

    backend_port = backend_socket.getsockname()[1]
    backend = await start(
        "-m", "demo.backend", "--fd", str(backend_socket.fileno()), pass_fds=[backend_socket.fileno()]
    )
    backend_socket.close()
    gateway = await start(str(environment.ROOT / "manage.py"), "serve", "-b", HOST, "-p", str(port))
    processes = {"backend": backend, "gateway": gateway}
    ends = {asyncio.create_task(process.wait(), name=name) for name, process in processes.items()}
    stop = asyncio.create_task(stopped.wait(), name="")
    greet = asyncio.create_task(say_when_ready(port, backend_port, text))
    done, _ = await asyncio.wait({*ends, stop}, return_when=asyncio.FIRST_COMPLETED)
    greet.cancel()

    stopped.clear()
    await end(gateway, stopped)
    await end(backend, stopped)
    stop.cancel()
    if stop in done:
        return 0
    name = done.pop().get_name()
    print(
        f"The {name} ended by itself with status {processes[name].returncode}: see its output above.", file=sys.stderr
    )
    return 1


async def start(*arguments: str, pass_fds: Sequence[int] = ()) -> Process:
    """Start Python in its own process group: Ctrl-C reaches only us, and we pass it on once."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=environment.ROOT,
        process_group=0,
        pass_fds=pass_fds,
        preexec_fn=partial(end_with, os.getpid()),
    )


async def end(process: Process, again: asyncio.Event) -> None:
    """Ask a process to end, let it drain, and ask again at each further signal that we get."""
    while process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        again.clear()
        waits = {asyncio.create_task(process.wait()), asyncio.create_task(again.wait())}
        _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()


async def say_when_ready(port: int, backend_port: int, text: str) -> None:
    async with asyncio.timeout(PATIENCE):
        for asked, path in ((backend_port, "/api/health"), (port, "/health/ready")):
            while await asyncio.to_thread(status_of, asked, path) != 200:  # noqa: ASYNC110 (another process: it has no event for us)
                await asyncio.sleep(0.05)
    print(text, flush=True)


def status_of(port: int, path: str) -> int:
    """Return the status of a GET; 0 if there is no answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def main() -> None:
    """`python -m demo` runs the demo; with arguments, a manage.py command in the environment of the demo on PORT."""
    text = os.environ.get("PORT") or str(environment.PORT)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        sys.exit(f"PORT: {text!r} is not a port; for example: make run PORT=8001")
    if sys.argv[1:]:
        environment.enter(int(text))
        os.execv(sys.executable, [sys.executable, str(environment.ROOT / "manage.py"), *sys.argv[1:]])  # noqa: S606
    sys.exit(run(int(text)))
