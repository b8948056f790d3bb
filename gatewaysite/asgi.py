"""The ASGI application: for ``manage.py serve``, ``daphne gatewaysite.asgi:application`` or any other ASGI server."""

import logging
import os
import sys
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gatewaysite.settings")
django.setup()

from django.conf import settings  # noqa: E402

from relay.checks import under_stock_daphne  # noqa: E402
from relay.gateway import Gateway  # noqa: E402
from relay.http.handler import RelayHandler  # noqa: E402
from relay.runtime import Runtime  # noqa: E402
from relay.typing import ASGIApp  # noqa: E402
from relay.websocket.consumer import RelayConsumer  # noqa: E402

try:
    runtime = Runtime(settings.RELAY)
except ValueError as exc:  # an unusable key
    raise ImproperlyConfigured(str(exc)) from None
gateway = Gateway(runtime, RelayHandler(runtime), RelayConsumer.as_asgi(runtime=runtime))
application: ASGIApp = gateway

if settings.RELAY.traces:
    os.environ.update(settings.RELAY.traces)  # OpenTelemetry reads its variables itself, some at import
    try:
        from relay.tracing.layer import trace

        application = trace(runtime, gateway)
    except ValueError as exc:
        raise ImproperlyConfigured(f"OpenTelemetry's variables (OTEL_…) can't be used: {exc}") from None

if "daphne.server" in sys.modules and "relay.server.server" not in sys.modules:
    from daphne.access import AccessLogGenerator

    def _without_query(log: AccessLogGenerator, *, request: str, **fields: Any) -> None:
        _write_entry(log, request=request.partition("?")[0], **fields)

    # Daphne's access log does not go through Python's logging, and a query may hold a token.
    _write_entry, AccessLogGenerator.write_entry = AccessLogGenerator.write_entry, _without_query
    gateway.server_is_known = True
    _warning = under_stock_daphne()
    logging.getLogger("relay").warning("%s: %s; %s", _warning.id, _warning.msg, _warning.hint)
