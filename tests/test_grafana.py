"""docs/grafana.json: a dashboard that asks for nothing that /metrics lacks, and leaves none of ours out."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.promql import asked_for, assert_exported, exported

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parent.parent / "docs/grafana.json").read_text(encoding="utf-8")
)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel.get("targets", ())]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ('sum by (code, by) (rate(a_total{job=~"$job",x="}"}[$__rate_interval])) or vector(0)', {"a_total"}),
        ('histogram_quantile(0.5, sum by (le) (rate(a_bucket{b="c"}[5m]))) / b_count', {"a_bucket", "b_count"}),
        ('label_replace(rate(a_total[1m]), "class", "${1}xx", "status", "(.).*")', {"a_total"}),
    ],
)
def test_the_names_in_a_query_are_found(query: str, names: set[str]) -> None:
    assert asked_for(query) == names


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_names_what_is_exported(query: str) -> None:
    assert_exported(query)


@pytest.mark.parametrize("metric", sorted(name for name in exported() if name.startswith("relay_")))
def test_every_metric_of_ours_is_shown(metric: str) -> None:
    shown = set[str]().union(*map(asked_for, QUERIES))
    assert exported()[metric] & shown


def test_every_query_asks_the_chosen_source_for_the_chosen_gateways() -> None:
    """A dashboard with the name of one's own Prometheus in it shows nothing elsewhere."""
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    places = [variable for variable in variables.values() if variable["type"] == "query"]
    for panel in PANELS:
        places += [panel, *panel["targets"]] if panel["type"] != "row" else []
    assert {(place["datasource"]["type"], place["datasource"]["uid"]) for place in places} == {
        ("prometheus", "${datasource}")
    }
    for query in QUERIES:
        assert '{job=~"$job",instance=~"$instance"}' in query


def test_it_can_be_imported() -> None:
    """No id of the instance it was made on; panels that are told apart and do not lie on each other."""
    assert DASHBOARD["schemaVersion"] >= 39
    assert DASHBOARD["id"] is None
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations((panel["gridPos"] for panel in PANELS), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)
