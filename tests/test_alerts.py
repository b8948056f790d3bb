"""docs/alerts.yml: rules that ask for what /metrics has, by codes that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.refusals import KINDS
from tests.promql import assert_exported

DOCUMENT: dict[str, Any] = yaml.safe_load((Path(__file__).resolve().parent.parent / "docs/alerts.yml").read_text())
RULES: list[dict[str, Any]] = [rule for group in DOCUMENT["groups"] for rule in group["rules"]]
EVERY_RULE = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


@EVERY_RULE
def test_a_rule_names_what_is_exported(rule: dict[str, Any]) -> None:
    """A rule on a metric that does not exist never fires, and says nothing."""
    assert_exported(rule["expr"])


@EVERY_RULE
def test_a_rule_asks_for_codes_that_there_are(rule: dict[str, Any]) -> None:
    """Each alternative of a refusal's `code` is one of the contract's."""
    for operator, pattern in re.findall(r'refusals_total\{code(=~?)"([^"]+)"', rule["expr"]):
        wanted = {code for code in KINDS if re.fullmatch(pattern, code)}
        assert wanted if operator == "=~" else wanted == {pattern}
        for alternative in re.findall(r"\w+", pattern):
            assert any(alternative in code for code in wanted), alternative


@EVERY_RULE
def test_a_rule_says_what_and_what_next(rule: dict[str, Any]) -> None:
    """In a line each; the labels that it speaks of are those that its expression keeps."""
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description"}
    told = " ".join(rule["annotations"].values())
    kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"])))) or {"job", "instance"}
    assert set(re.findall(r"\$labels\.(\w+)", told)) <= kept


def test_names_are_told_apart() -> None:
    """Alertmanager groups and silences by them."""
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
