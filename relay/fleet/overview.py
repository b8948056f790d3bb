"""A summary of all processes, for the dashboard."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from django.db import connection
from django.db.models import Count, Max
from django.db.models.functions import Now

from relay.fleet.figures import BackendFigures, Figures
from relay.fleet.models import GONE_AFTER, Process, RefusalRecord, Sample
from relay.fleet.reporter import SAMPLES_KEPT
from relay.live.latency import CLASSES, quantile
from relay.models import Backend, Revision

STALE_AFTER = 5.0
"""Seconds without an update from the database after which a process's configuration counts as stale."""

OVERLAP = 30
"""Seconds of samples that are sent again: processes don't write them at the same moment."""

FAILURES = ("backend_unreachable", "backend_timeout", "backend_protocol_error", "backend_refused")

Json = dict[str, Any]


def overview(since: int = 0) -> Json:
    """The state of the gateway as JSON; rates are per second, counts are for the last minute, times in seconds.

    Args:
        since: Unix time; samples from shortly before it are included. 0: those of the last hour.

    Raises:
        django.db.Error: The database can't be reached.
    """
    began = time.perf_counter()
    revision = Revision.current().config
    seconds = time.perf_counter() - began
    rows: list[Any] = list(Process.objects.with_silence())
    living: list[Figures] = [row.figures for row in rows if row.silence < GONE_AFTER and row.figures]
    processes = [_process(row) for row in rows]
    backends = _backends(living)
    return {
        "now": time.time(),
        "problems": list(_problems(processes, backends)),
        "totals": _sums(living),
        "processes": processes,
        "backends": backends,
        "routes": _routes(living),
        "refusals": _added(figures["refusals"] for figures in living),
        "revision": revision,
        "database": {"vendor": connection.display_name, "seconds": seconds},
        "samples": _samples(max(since - OVERLAP, int(time.time()) - SAMPLES_KEPT)),
    }


def backends() -> list[Json]:
    """Each configured backend, as seen by all living processes."""
    return _backends([row.figures for row in Process.objects.living() if row.figures])


# Processes


def _process(row: Any) -> Json:
    """One process; if it is gone, without its figures."""
    gone = row.silence >= GONE_AFTER
    return {
        "name": str(row),
        "version": row.version,
        "started": row.started_at.timestamp(),
        "silence": row.silence.total_seconds(),
        "state": "gone" if gone else "draining" if row.draining else "serving",
        "revision": row.revision,
        "config_age": row.config_age,
        "config_error": row.config_error,
        **_sums([row.figures] if row.figures and not gone else []),
    }


def _sums(living: Sequence[Figures]) -> Json:
    answers = _answers(backend for figures in living for backend in figures["backends"].values())
    return {
        "sockets": sum(n for figures in living for _, _, n in figures["sockets"]),
        "requests": sum(figures["requests"] for figures in living),
        "messages": sum(figures["messages"] for figures in living),
        "errors": sum(figures["errors"] for figures in living),
        "refusals": sum(n for figures in living for n in figures["refusals"].values()),
        "p50": quantile(answers, 0.5),
        "p99": quantile(answers, 0.99),
    }


def _routes(living: Iterable[Figures]) -> list[Json]:
    """Live sockets by route and backend, largest number first."""
    sockets: Counter[tuple[str, str]] = Counter()
    for figures in living:
        for route, backend, n in figures["sockets"]:
            sockets[route, backend] += n
    return [{"route": route, "backend": backend, "sockets": n} for (route, backend), n in sockets.most_common()]


# Backends


def _backends(living: Sequence[Figures]) -> list[Json]:
    """Each configured backend, as seen by these processes."""
    failures = _failures()
    return [
        _backend(row, [f["backends"][row.name] for f in living if row.name in f["backends"]], failures.get(row.name))
        for row in Backend.objects.all()
    ]


def _backend(row: Backend, seen: Sequence[BackendFigures], failure: Json | None) -> Json:
    urls: dict[str, Json] = {}
    for url in (url for figures in seen for url in figures["urls"]):
        known = urls.setdefault(url["url"], {"url": url["url"], "up": 0, "seen": 0, "in_use": 0, "cause": ""})
        known["up"] += url["up"]
        known["seen"] += 1
        known["in_use"] += url["in_use"]
        known["cause"] = known["cause"] or url["cause"]
    answers = _answers(seen)
    return {
        "id": row.pk,
        "name": row.name,
        "state": _state(row, list(urls.values())),
        "urls": list(urls.values()),
        "answers": sum(answers),
        "p50": quantile(answers, 0.5),
        "p99": quantile(answers, 0.99),
        "failures": failure["n"] if failure else 0,
        "failure": failure["detail"] if failure else "",
    }


def _state(row: Backend, urls: Sequence[Json]) -> str:
    """``up``, ``partly``, ``down``; ``unasked`` without a health path; ``unknown`` until a process has reported."""
    if not row.enabled:
        return "disabled"
    if not urls:
        return "unknown"
    if not row.health_path:
        return "unasked"
    if not any(url["up"] for url in urls):
        return "down"
    return "up" if all(url["up"] == url["seen"] for url in urls) else "partly"


def _failures() -> dict[str, Json]:
    """By backend, how many requests or handshakes it failed in the last minute, and the last cause."""
    recent = RefusalRecord.objects.filter(at__gt=Now() - timedelta(minutes=1), code__in=FAILURES)
    found = {row["backend"]: row for row in recent.order_by().values("backend").annotate(n=Count("pk"), last=Max("pk"))}
    details = dict(
        RefusalRecord.objects.filter(pk__in=[row["last"] for row in found.values()]).values_list("pk", "detail")
    )
    return {name: {"n": row["n"], "detail": details.get(row["last"], "")} for name, row in found.items()}


def _answers(seen: Iterable[BackendFigures]) -> list[int]:
    counts = [0] * CLASSES
    for figures in seen:
        for n, count in figures["answers"]:
            counts[n] += count
    return counts


# What needs an operator's attention


def _problems(processes: Sequence[Json], backends: Sequence[Json]) -> Iterator[Json]:
    """Problems as sentences, each with the id of its backend if it is about one."""
    if all(process["state"] == "gone" for process in processes):
        yield _problem("no process of the gateway has reported recently; its log says why")
    for process in processes:
        name, silence = process["name"], process["silence"]
        if process["state"] == "gone":
            yield _problem(f"process {name} last reported {silence:.0f} s ago, and did not sign off")
        elif process["config_error"] or process["config_age"] > STALE_AFTER:
            reason = process["config_error"] or "database unreachable"
            yield _problem(f"process {name} has a configuration that is {process['config_age']:.0f} s old: {reason}")
    for backend in backends:
        for text in _backend_problems(backend):
            yield _problem(text, backend["id"])
    versions = sorted({process["version"] for process in processes if process["state"] != "gone"})
    if len(versions) > 1:
        yield _problem(f"processes run different versions: {', '.join(versions)}")


def _problem(text: str, backend: int | None = None) -> Json:
    return {"text": text, "backend": backend}


def _backend_problems(backend: Json) -> Iterator[str]:
    for url in backend["urls"] if backend["state"] in ("down", "partly") else ():
        if url["up"] < url["seen"]:
            where = f" for {url['seen'] - url['up']} of {url['seen']} processes" if url["up"] else ""
            yield f"backend {backend['name']}: {url['url']} is out{where}: {url['cause']}"
    if failures := backend["failures"]:
        times = "once" if failures == 1 else f"{failures} times"
        yield f"backend {backend['name']} failed {times} in the last minute: {backend['failure']}"


# Curves


def _samples(since: int) -> list[Json]:
    """The samples of all processes, summed by slot, in order."""
    slots: dict[int, Json] = {}
    for row in Sample.objects.filter(slot__gt=since).order_by("slot"):
        slot = slots.setdefault(
            row.slot, {"at": row.slot, "sockets": 0, "requests": 0, "errors": 0, "messages": 0, "refusals": Counter()}
        )
        for name in ("sockets", "requests", "errors", "messages"):
            slot[name] += getattr(row, name)
        slot["refusals"].update(row.refusals)
    return list(slots.values())


def _added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    added: Counter[str] = Counter()
    for each in counts:
        added.update(each)
    return dict(added.most_common())
