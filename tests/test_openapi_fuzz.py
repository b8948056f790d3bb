"""The gateway's own pages against their OpenAPI document: whatever is sent, the answer is one that it promises."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests import served
from tests.identity_helpers import SECRET, token

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
OPERATIONS = [
    "GET /health/live",
    "GET /health/ready",
    "GET /health",
    "GET /metrics",
    "POST /gateway/session",
    "POST /gateway/ticket",
    "POST /gateway/logout",
]


@pytest.fixture(scope="module")
def server(migrated: served.Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Server]:
    """A gateway as it runs in production."""
    site = served.copy_of(migrated, tmp_path_factory.mktemp("fuzzed"))
    with served.serving(site) as it:
        yield it


def operations(url: str) -> dict[str, schemathesis.schemas.APIOperation]:
    schema = schemathesis.openapi.from_url(f"{url}/gateway/openapi.json")
    return {f"{o.method.upper()} {o.path}": o for o in (result.ok() for result in schema.get_all_operations())}


def test_every_operation_is_fuzzed(server: served.Server) -> None:
    """A page that is added to the document is added here."""
    assert sorted(operations(server.url)) == sorted(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("authorized", [False, True], ids=["nobody", "a user"])
def test_answers_keep_to_the_document(server: served.Server, operation: str, authorized: bool) -> None:
    """Status, media type and body of each answer are documented, and none is a failure of ours."""
    wanted = operations(server.url)[operation]

    @given(case=wanted.as_strategy())
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def ask(case: schemathesis.Case) -> None:
        if authorized:
            case.headers = {**(case.headers or {}), "Authorization": f"Bearer {token(SECRET)}"}
        case.call_and_validate(base_url=server.url, checks=CHECKS)

    ask()
