"""What a PromQL expression asks for, and what /metrics has."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from relay.live.metrics import Metrics

SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}

_TEXT = re.compile(r'"(?:\\.|[^"\\])*"')
_NO_METRICS = re.compile(
    r"\{[^}]*\}|\[[^\]]*\]|\boffset \w+|\b(?:by|without|on|ignoring)\s*\([^)]*\)|\b(?:and|or|unless|bool)\b"
)
_NAME = re.compile(r"[a-zA-Z_:][\w:]*\b(?!\s*\()")


def exported() -> dict[str, set[str]]:
    """The names under which each metric can be asked for, by the metric's own."""
    return {
        family.name: {family.name + suffix for suffix in SUFFIXES[family.type]}
        for family in text_string_to_metric_families(Metrics().render().decode())
    }


def asked_for(query: str) -> set[str]:
    """The metrics that a PromQL expression names; what is called is a function."""
    return set(_NAME.findall(_NO_METRICS.sub(" ", _TEXT.sub('""', query))))


def assert_exported(query: str) -> None:
    """An expression names metrics, and none that /metrics lacks; `up` is made by Prometheus itself."""
    names = asked_for(query)
    assert names
    if not Path("/proc/self/stat").exists():  # without it there is no process_* to export
        names = {name for name in names if not name.startswith("process_")}
    assert names <= set[str]({"up"}).union(*exported().values())
