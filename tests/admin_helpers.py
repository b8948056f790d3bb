"""People who use the admin, what it told them, and a backend to be checked."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client

from tests import stack

BACKEND = {
    "name": "main",
    "urls": "http://127.0.0.1:9000",
    "connect_timeout": "5",
    "read_timeout": "60",
    "max_body_size": "67108864",
    "max_message_size": "16777216",
    "websocket_origin": "omit",
    "tls_verify": "on",
    "enabled": "on",
    "routes-TOTAL_FORMS": "0",
    "routes-INITIAL_FORMS": "0",
}
"""What the form of a backend posts."""

ROUTE = {
    "path": "/api/",
    "kind": "http",
    "access": "authenticated",
    "refuse_with": "http",
    "idle_timeout": "0",
    "max_connections_per_user": "0",
    "enabled": "on",
}
"""What the form of a route posts, all but its backend."""


def staff(client: Client, *permissions: str) -> Client:
    """Logged in as one of the staff with these permissions of ours, like ``view_process``; with none: a superuser."""
    if permissions:
        user = User.objects.create_user("op", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    else:
        user = User.objects.create_superuser("root")
    client.force_login(user)
    return client


def text(response: Any) -> str:
    """What the page says, without markup."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", response.content.decode(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def messages(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


def posted_again(page: str) -> dict[str, list[str]]:
    """What the form of a page that asks posts once it is agreed to."""
    again: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page):
        again.setdefault(unescape(name), []).append(unescape(value))
    return again


def log() -> list[tuple[int, str, str]]:
    """What the admin's log says, oldest first."""
    return [(e.action_flag, e.object_repr, e.get_change_message()) for e in LogEntry.objects.order_by("pk")]


@contextmanager
def answering() -> Iterator[str]:
    """The url of an echoing backend, in a loop of its own thread."""
    loop, ready, done = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    urls: list[str] = []

    async def serve() -> None:
        async with stack.backend() as backend:
            urls.append(backend.url)
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(10)
        loop.close()
