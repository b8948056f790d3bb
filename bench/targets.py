"""What is measured: the gateway, its peers, and the lab that starts them in front of one echo backend."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jwt

from bench.processes import free_port, wait_for

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SECRET = "lab-secret-lab-secret-lab-secret-0"  # noqa: S105  # of the peers that check a token, on loopback
ORIGIN = "http://localhost:3000"

GO = ["golang-go", "golang-github-gorilla-websocket-dev", "golang-github-golang-jwt-jwt-dev"]
PYPI = ["websockets", "channels", "daphne", "django<6", "djangorestframework-simplejwt", "fastapi-proxy-lib[standard]"]
NPM = ["http-proxy-3"]

CONFIGURATION = """
[[backend]]
name = "main"
url = "http://{backend}"
{backend_options}
[[route]]
path = "/api/"
kind = "http"
backend = "main"
[[route]]
path = "/ws"
kind = "websocket"
backend = "main"
[[origin]]
origin = "{origin}"
"""


def token(seconds: int = 36000) -> str:
    """An HS256 token for user 1."""
    now = int(time.time())
    claims = {"user_id": 1, "email": "a@b.c", "role": "user", "iat": now, "exp": now + seconds}
    return jwt.encode(claims, SECRET, "HS256")


@dataclass
class Target:
    """A running relay: its url, the process whose CPU time and memory count, and the headers its clients send."""

    name: str
    url: str  # http://host:port
    process: subprocess.Popen[bytes]
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass(frozen=True)
class Peer:
    """A relay that the lab can start.

    Attributes:
        argv: Returns its command, given the build directory, its port and the backend's host:port.
        wants: The program that it needs; without it, the peer is left out.
        relays: Whether it relays; if not, it answers by itself and has no large body to fetch.
    """

    argv: Callable[[Path, int, str], list[str]]
    wants: str
    http: bool = True
    websocket: bool = True
    relays: bool = True


def _nginx(build: Path, port: int, backend: str) -> list[str]:
    run = Path(tempfile.mkdtemp(prefix="nginx-", dir=build))
    text = (HERE / "relays/nginx.conf").read_text()
    for name, value in {"listen": f"127.0.0.1:{port}", "backend": backend, "run": str(run)}.items():
        text = text.replace("{" + name + "}", value)
    (run / "nginx.conf").write_text(text)
    return [which("nginx") or "nginx", "-c", str(run / "nginx.conf")]


def _go(build: Path, port: int, backend: str) -> list[str]:
    return [f"{build}/bin/gogateway", "-addr", f"127.0.0.1:{port}", "-backend", backend, "-secret", SECRET]


def _asgi(build: Path, port: int, server: str, module: str) -> list[str]:
    quiet = {"daphne": ["-v", "0"], "uvicorn": ["--log-level", "error", "--no-access-log"]}[server]
    option = {"daphne": "-p", "uvicorn": "--port"}[server]
    return [f"{build}/venv/bin/{server}", option, str(port), *quiet, f"{module}:application"]


def _script(build: Path, port: int, backend: str) -> list[str]:
    return [f"{build}/venv/bin/python", f"{HERE}/relays/relay_websockets.py", str(port), backend]


def _node(build: Path, port: int, backend: str) -> list[str]:
    return ["node", f"{HERE}/relays/relay_node.js", str(port), backend]


PEERS: dict[str, Peer] = {
    "nginx": Peer(_nginx, "nginx"),
    "go-gorilla": Peer(_go, "go", http=False),
    "go-reverseproxy": Peer(lambda build, port, backend: [*_go(build, port, backend), "-raw"], "go"),
    "node": Peer(_node, "node"),
    "websockets": Peer(_script, "python3", http=False),
    "fastapi-proxy-lib": Peer(lambda b, port, _: _asgi(b, port, "uvicorn", "relay_fastapi"), "python3"),
    "channels-daphne": Peer(lambda b, port, _: _asgi(b, port, "daphne", "relay_channels"), "python3", http=False),
    "daphne-hello": Peer(
        lambda b, port, _: _asgi(b, port, "daphne", "hello_asgi"), "python3", websocket=False, relays=False
    ),
}


def which(program: str) -> str | None:
    return shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")


def build_tools(build: Path) -> None:
    """Build whatever is missing: the load generator, the echo backend, the peers' environments."""
    if missing := [program for program in ("go", "wrk") if not which(program)]:
        raise SystemExit(f"missing: {', '.join(missing)}. On Debian: apt install wrk {' '.join(GO)}")
    (build / "bin").mkdir(parents=True, exist_ok=True)
    env = os.environ | {"GOPATH": "/usr/share/gocode", "GO111MODULE": "off"}  # Debian's packages of Go libraries
    for source in sorted((HERE / "go").glob("*.go")):
        binary = build / "bin" / source.stem
        if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["go", "build", "-o", str(binary), str(source)], env=env, check=True)
    if not (build / "venv/.ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(build / "venv")], check=True)
        subprocess.run([str(build / "venv/bin/pip"), "install", "--quiet", *PYPI], check=True)
        (build / "venv/.ready").touch()
    if which("npm") and not (build / "node/node_modules/http-proxy-3").exists():
        (build / "node").mkdir(exist_ok=True)
        prefix = ["--silent", "--no-audit", "--no-fund", "--prefix", str(build / "node")]
        subprocess.run(["npm", "install", *prefix, *NPM], check=True)


class Lab:
    """Starts the echo backend, the gateway and the peers, and stops them at the end of its ``with`` block."""

    def __init__(self, build: Path) -> None:
        self.build = build
        self.log = build / "relays.log"
        self.backend = f"127.0.0.1:{free_port()}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Lab:
        self.log.unlink(missing_ok=True)
        self._run([f"{self.build}/bin/echo", "-addr", self.backend], int(self.backend.rpartition(":")[2]))
        return self

    def __exit__(self, *exc: object) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for run in (*self.build.glob("nginx-*"), *self.build.glob("gateway-*")):
            shutil.rmtree(run, ignore_errors=True)

    def _run(self, argv: list[str], port: int, **environment: str) -> subprocess.Popen[bytes]:
        # One core for each Go program: every relay here is a single process on one core.
        env = os.environ | {
            "GOMAXPROCS": "1",
            "LAB_BACKEND": self.backend,
            "LAB_SECRET": SECRET,
            "PYTHONPATH": str(HERE / "relays"),
            "NODE_PATH": str(self.build / "node/node_modules"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with self.log.open("ab") as log:
            process = subprocess.Popen(argv, env=env | environment, stdout=log, stderr=log)
        self._processes.append(process)
        wait_for(port, process, self.log)
        return process

    def peer(self, name: str) -> Target:
        """Start the peer with that name."""
        port = free_port()
        process = self._run(PEERS[name].argv(self.build, port, self.backend), port)
        return Target(name, f"http://127.0.0.1:{port}", process, _headers())

    def gateway(
        self,
        name: str = "gateway",
        *options: str,
        backend: str = "",
        backend_options: str = "",
        manage: str = "manage.py",
        **environment: str,
    ) -> Target:
        """Start the gateway as an operator would: a migrated database, an imported configuration, ``serve``.

        Args:
            backend_options: More TOML lines for the backend.
            manage: The program to start, if not the usual one.
        """
        directory, port = Path(tempfile.mkdtemp(prefix="gateway-", dir=self.build)), free_port()
        settings = {
            "SECRET_KEY": SECRET * 2,
            "JWT_SECRET": SECRET,
            "ALLOWED_HOSTS": "127.0.0.1",
            "DATABASE_URL": f"sqlite:///{directory}/gateway.sqlite3",
            "LOG_FORMAT": "json",
            "DRAIN_SECONDS": "1",
            "PYTHONPATH": str(ROOT),
        } | environment
        (directory / "gateway.toml").write_text(
            CONFIGURATION.format(backend=backend or self.backend, backend_options=backend_options, origin=ORIGIN)
        )
        for command in (["migrate", "--verbosity", "0"], ["import_config", str(directory / "gateway.toml")]):
            argv = [sys.executable, str(ROOT / "manage.py"), *command]
            subprocess.run(argv, env=os.environ | settings, check=True, stdout=subprocess.DEVNULL)
        process = self._run([sys.executable, str(ROOT / manage), "serve", "-p", str(port), *options], port, **settings)
        return Target(name, f"http://127.0.0.1:{port}", process, _headers())


def _headers() -> dict[str, str]:
    return {"Cookie": f"auth_token={token()}", "Origin": ORIGIN}
