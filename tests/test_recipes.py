"""docs/recipes.md: every recipe runs as it is written, behind the gateway."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.served import Site, copy_of, free_port, serving
from tests.servers import Daemon, program, running
from tests.stack import Answer, Client, bearer

pytestmark = pytest.mark.timeout(120)

DOCUMENT = (Path(__file__).resolve().parent.parent / "docs" / "recipes.md").read_text()
HOST, ORIGIN = "app.example.com", "https://app.example.com"
ALICE = {"Host": HOST, "X-Forwarded-Proto": "https", "X-Forwarded-Host": HOST, **bearer(role=["admin", "staff"])}
"""What a proxy that ends TLS passes on of Alice's request."""

ITS_OWN = {"DJANGO_SETTINGS_MODULE": "mysite.settings", "PYTHONDEVMODE": "", "PYTHONWARNINGS": ""}
"""The environment of a service, as it is not ours that is tested."""

URLS = """
from django.http import JsonResponse
from django.middleware.csrf import get_token
from django.urls import path
from rest_framework.authentication import RemoteUserAuthentication
from rest_framework.decorators import api_view, authentication_classes
from rest_framework.response import Response

class GatewayUser(RemoteUserAuthentication):
    header = "HTTP_X_USER_ID"

def me(request):
    user = request.user
    return JsonResponse({"id": user.username, "email": user.email, "staff": user.is_staff, "token": get_token(request),
                         "url": request.build_absolute_uri("/x")})

@api_view(["POST"])
@authentication_classes([GatewayUser])
def api(request):
    return Response({"id": request.user.username})

urlpatterns = [path("me", me), path("api", api), path("health", lambda request: JsonResponse({}))]
"""
ROUTING = """
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.urls import path

class Me(AsyncJsonWebsocketConsumer):
    async def connect(self):
        await self.accept()
        await self.send_json({"id": self.scope["user"].username})

urlpatterns = [path("ws/me", Me.as_asgi())]
"""


def section(title: str) -> str:
    """What stands under a heading; the introduction for an empty one."""
    parts = re.split(r"^## (.+)\n", DOCUMENT, flags=re.M)
    return parts[0] if not title else dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section(title), re.M | re.S)


class Recipe:
    """A section's code, moved to a port of this machine."""

    def __init__(self, title: str, directory: Path) -> None:
        self.title, self.directory, self.port = title, directory, free_port()

    def also(self, title: str) -> Recipe:
        """Another section's code for the same service."""
        other = Recipe(title, self.directory)
        other.port = self.port
        return other

    def _here(self, text: str) -> str:
        return text.replace("10.0.0.5", "127.0.0.1").replace("9000", str(self.port))

    def file(self, name: str) -> str:
        """The block whose first line names that file."""
        found = blocks(self.title, "python") + blocks(self.title, "js")
        (text,) = (text for text in found if re.match(rf"(#|//) {re.escape(name)}\b", text))
        return self._here(text)

    @property
    def toml(self) -> str:
        """The common configuration, with the section's changes of the backend."""
        (common,) = blocks("", "toml")
        changes = "".join(blocks(self.title, "toml"))
        return self._here(common.replace("[[backend]]\n", f"[[backend]]\n{changes}"))

    @property
    def command(self) -> list[str]:
        (line,) = blocks(self.title, "sh")
        name, *words = shlex.split(self._here(line))
        beside = Path(sys.executable).parent / name
        return [str(beside) if beside.exists() else program(name), *words]

    @contextmanager
    def behind_the_gateway(self, migrated: Site, command: list[str] | None = None) -> Iterator[Client]:
        """Run the service, and the gateway in front of it, until the block ends."""
        home = self.directory / "gateway"
        home.mkdir()
        site = copy_of(migrated, home, TRUSTED_PROXIES="127.0.0.0/8")
        site.configure(self.toml)
        with ExitStack() as stack:
            service = Daemon(command or self.command, self.port, self.directory, environment=ITS_OWN)
            stack.enter_context(running(service))
            yield Client(stack.enter_context(serving(site)).port)


def ask(client: Client, target: str, method: str = "GET", headers: dict[str, str] = ALICE, body: bytes = b"") -> Answer:
    return asyncio.run(client.request(target, method, headers, body))


async def first_message(client: Client, path: str, origin: str | None = ORIGIN) -> dict[str, str]:
    """What a socket of Alice's is told at once."""
    headers = {name: value for name, value in ALICE.items() if name != "Host"}
    url = f"ws://127.0.0.1:{client.port}{path}"
    async with connect(url, origin=origin, additional_headers=headers, proxy=None) as socket:  # type: ignore[arg-type]
        found: dict[str, str] = json.loads(await socket.recv())
        return found


def python(directory: Path, *arguments: str) -> None:
    command, environment = [sys.executable, *arguments], {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def django(tmp_path: Path) -> Recipe:
    """A fresh project with the recipe's two files, and pages to ask."""
    recipe = Recipe("Django", tmp_path)
    python(tmp_path, "-m", "django", "startproject", "mysite", ".")
    (tmp_path / "gateway_user.py").write_text(recipe.file("gateway_user.py"))
    with (tmp_path / "mysite" / "settings.py").open("a") as settings:
        settings.write(recipe.file("settings.py"))
    (tmp_path / "mysite" / "urls.py").write_text(URLS)
    python(tmp_path, "manage.py", "migrate", "--verbosity", "0")
    return recipe


def assert_django_knows_alice(client: Client) -> None:
    """User, public URL, health, and Django's own CSRF check, which wants Origin and Host to agree."""
    answer = ask(client, "/me")
    told = answer.json
    token = told.pop("token")
    assert told == {"id": "1", "email": "a@example.com", "staff": True, "url": f"{ORIGIN}/x"}
    cookie = (answer.get("set-cookie") or "").partition(";")[0]
    form = ALICE | {"Origin": ORIGIN, "Cookie": cookie}
    assert ask(client, "/me", "POST", form).status == 403
    assert ask(client, "/me", "POST", form | {"X-CSRFToken": token}).json["id"] == "1"
    assert ask(client, "/api", "POST", ALICE | {"Origin": ORIGIN}).json == {"id": "1"}
    assert "sessionid" not in cookie
    assert ask(client, "/health").json["services"] == {"main": {"healthy": True}}


def test_django_knows_the_user(django: Recipe, migrated: Site) -> None:
    """Under WSGI."""
    command = [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{django.port}"]
    with django.behind_the_gateway(migrated, command) as client:
        assert_django_knows_alice(client)


def test_channels_knows_the_user(django: Recipe, migrated: Site) -> None:
    """Under Daphne, on a WebSocket too; its own validator is shown the Origin that the gateway has judged."""
    recipe = django.also("Django Channels")
    (recipe.directory / "mysite" / "asgi.py").write_text(recipe.file("asgi.py"))
    (recipe.directory / "mysite" / "routing.py").write_text(ROUTING)
    with recipe.behind_the_gateway(migrated) as client:
        assert asyncio.run(first_message(client, "/ws/me")) == {"id": "1"}
        assert ask(client, "/me").json["id"] == "1"
        with pytest.raises(InvalidStatus) as refused:
            asyncio.run(first_message(client, "/ws/me", origin=None))
        assert json.loads(refused.value.response.body)["code"] == "backend_refused"


def test_fastapi_knows_the_user(tmp_path: Path, migrated: Site) -> None:
    """By one dependency, on routes and WebSockets."""
    recipe = Recipe("FastAPI", tmp_path)
    (tmp_path / "main.py").write_text(recipe.file("main.py"))
    alice = {"id": "1", "email": "a@example.com", "roles": ["admin", "staff"]}
    with recipe.behind_the_gateway(migrated) as client:
        assert ask(client, "/me").json == alice
        assert asyncio.run(first_message(client, "/ws/me")) == alice


def test_node_knows_the_user(tmp_path: Path, migrated: Site) -> None:
    """With nothing but node:http."""
    recipe = Recipe("Node", tmp_path)
    (tmp_path / "server.mjs").write_text(recipe.file("server.mjs"))
    with recipe.behind_the_gateway(migrated) as client:
        assert ask(client, "/me").json == {"id": "1", "email": "a@example.com", "roles": ["admin", "staff"]}
