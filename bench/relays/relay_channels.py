"""The obvious Channels consumer, as a beginner would write it. LAB_BACKEND: HOST:PORT, LAB_SECRET: HS256 key."""

import asyncio
import os
from urllib.parse import parse_qs

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="lab",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "channels"],
    ROOT_URLCONF=__name__,
    SIMPLE_JWT={"SIGNING_KEY": os.environ["LAB_SECRET"], "JTI_CLAIM": None},
)
django.setup()

import websockets  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework_simplejwt.tokens import UntypedToken  # noqa: E402

BACKEND = f"ws://{os.environ['LAB_BACKEND']}/ws"
urlpatterns = []


class TokenMiddleware:
    """Puts the claims of the cookie auth_token, or of the query parameter token, into the scope."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        token = None
        for name, value in scope["headers"]:
            if name == b"cookie":
                for part in value.decode().split(";"):
                    key, _, content = part.strip().partition("=")
                    if key == "auth_token":
                        token = content
        token = token or parse_qs(scope["query_string"].decode()).get("token", [None])[0]
        await self.app(scope | {"claims": UntypedToken(token).payload}, receive, send)


class Relay(AsyncWebsocketConsumer):
    async def connect(self):
        claims = self.scope["claims"]
        identity = {"X-User-ID": str(claims["user_id"]), "X-User-Email": claims["email"], "X-User-Role": claims["role"]}
        self.backend = await websockets.connect(BACKEND, additional_headers=identity, proxy=None)
        await self.accept()
        self.pipe = asyncio.create_task(self.backend_to_client())

    async def backend_to_client(self):
        try:
            async for message in self.backend:
                if isinstance(message, str):
                    await self.send(text_data=message)
                else:
                    await self.send(bytes_data=message)
        finally:
            await self.close()

    async def receive(self, text_data=None, bytes_data=None):
        await self.backend.send(text_data if text_data is not None else bytes_data)

    async def disconnect(self, code):
        if hasattr(self, "backend"):
            await self.backend.close()


application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": TokenMiddleware(URLRouter([path("ws", Relay.as_asgi())])),
    }
)
