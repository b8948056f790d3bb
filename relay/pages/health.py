"""Whether the gateway runs, accepts work, and has healthy backends; for orchestrators, load balancers and people.

The pages are public, so they contain no addresses or causes: those are in the log and the admin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import HttpResponse, JsonResponse

import relay
from relay.http.request import RelayRequest
from relay.pages.methods import only

if TYPE_CHECKING:
    from relay.runtime import Runtime


@only("GET", "HEAD")
async def live(request: RelayRequest) -> HttpResponse:
    """200 while the process runs; otherwise an orchestrator restarts it."""
    return _answer({"success": True, "status": "alive"}, well=True)


@only("GET", "HEAD")
async def ready(request: RelayRequest) -> HttpResponse:
    """503 while draining or without a configuration: a load balancer then sends work elsewhere."""
    well = request.runtime.ready
    return _answer({"success": well, "status": "ready" if well else _state(request.runtime)}, well)


@only("GET", "HEAD")
async def health(request: RelayRequest) -> HttpResponse:
    """Each enabled backend's health; 503 if one is unhealthy. Warnings alone leave the status at 200."""
    runtime = request.runtime
    services = {name: {"healthy": state.healthy} for name, state in runtime.connector.status().items()}
    well = runtime.started and all(service["healthy"] for service in services.values())
    body = {
        "success": well,
        "warnings": _warnings(runtime),
        "status": "healthy" if well else "degraded",
        "gateway": _state(runtime),
        "version": relay.__version__,
        "services": services,
    }
    return _answer(body, well)


def _state(runtime: Runtime) -> str:
    if runtime.draining:
        return "draining"
    return "running" if runtime.started else "starting"


def _warnings(runtime: Runtime) -> list[str]:
    if not runtime.started:
        return ["there is no configuration yet"]
    return runtime.warnings


def _answer(body: dict[str, object], well: bool) -> HttpResponse:
    response = JsonResponse(body, status=200 if well else 503)
    response["Cache-Control"] = "no-store"
    return response
