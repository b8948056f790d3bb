"""The ASGI application: for ``manage.py serve``, ``daphne gatewaysite.asgi:application`` or any other ASGI server."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gatewaysite.settings")
django.setup()

from django.conf import settings  # noqa: E402
from relay.websocket.consumer import RelayConsumer  # noqa: E402

from relay.gateway import Gateway  # noqa: E402
from relay.http.handler import RelayHandler  # noqa: E402
from relay.runtime import Runtime  # noqa: E402

runtime = Runtime(settings.RELAY)
application = Gateway(runtime, RelayHandler(runtime), RelayConsumer.as_asgi(runtime=runtime))
