"""docs/deploy: what operators copy agrees with what the gateway does (proxies and systemd have tests of their own)."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from relay.door import HEALTH
from relay.server.limits import Limits
from relay.server.workers import GRACE
from relay.settings import RelaySettings

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "docs" / "deploy"
DRAIN = RelaySettings.__dataclass_fields__["drain_seconds"].default


MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def manifest(kind: str) -> Any:
    """The one of that kind in kubernetes.yaml."""
    (found,) = [it for it in MANIFESTS if it["kind"] == kind]
    return found


def systemd_starts() -> list[str]:
    """The command lines of gateway.service, with the one that stands there as a comment."""
    return re.findall(r"^#?ExecStart(?:Pre)?=(.+)", (DEPLOY / "gateway.service").read_text(), re.M)


def pod(kind: str = "Deployment") -> Any:
    return manifest(kind)["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", ["1.25", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("it", MANIFESTS, ids=lambda it: it["kind"])
def test_kubernetes_knows_every_field(it: dict[str, Any], version: str) -> None:
    """Kubernetes' own schemas, of an old and a new release; a field with a typing error is none of theirs."""
    kubernetes_validate.validate(it, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**it, "sepc": {}}, version, strict=True)


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_pods_have_no_more_rights_than_they_need(kind: str) -> None:
    """What a namespace with the "restricted" Pod Security Standard lets in, and a root that is not written to."""
    user = pod(kind)["securityContext"]
    assert (user["runAsNonRoot"], user["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    assert f"USER {user['runAsUser']}:" in (ROOT / "Dockerfile").read_text()
    (container,) = pod(kind)["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_pod_has_time_to_leave() -> None:
    """It serves until it is out of every balancer, then drains, and is not killed meanwhile."""
    (container,) = pod()["containers"]
    _, serving_on = container["lifecycle"]["preStop"]["exec"]["command"]
    drain = int(manifest("ConfigMap")["data"]["DRAIN_SECONDS"])
    assert pod()["terminationGracePeriodSeconds"] > int(serving_on) + drain + GRACE
    readiness = container["readinessProbe"]
    assert int(serving_on) > readiness["periodSeconds"]


def test_pods_are_asked_what_they_answer() -> None:
    """A node that drains must leave the balancer, and must not be restarted for it."""
    (container,) = pod()["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/health/ready", "readiness": "/health/ready", "liveness": "/health/live"}
    assert set(paths.values()) <= set(HEALTH)


def test_one_pod_is_always_there() -> None:
    """In a rollout, and when machines are emptied."""
    deployment = manifest("Deployment")["spec"]
    assert deployment["replicas"] >= 2
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    budget = manifest("PodDisruptionBudget")["spec"]
    assert budget["minAvailable"] >= 1
    labels = deployment["template"]["metadata"]["labels"]
    assert labels == budget["selector"]["matchLabels"] == deployment["selector"]["matchLabels"]
    assert labels == manifest("Service")["spec"]["selector"]


def test_the_job_migrates_what_the_pods_serve() -> None:
    """The same image, with the same settings."""
    (job,) = pod("Job")["containers"]
    (container,) = pod()["containers"]
    assert (job["image"], job["envFrom"]) == (container["image"], container["envFrom"])


@pytest.mark.parametrize(
    "words",
    [
        *(pytest.param(shlex.split(line)[1:], id=f"systemd: {line}") for line in systemd_starts()),
        pytest.param(pod()["containers"][0]["args"][1:], id="a pod serves"),
        pytest.param(pod("Job")["containers"][0]["args"][1:], id="a job migrates"),
    ],
)
def test_the_commands_exist(words: list[str]) -> None:
    """With their options."""
    from django.core.management import get_commands, load_command_class

    script, name, *options = words
    assert script == "manage.py"
    app = get_commands()[name]
    assert isinstance(app, str)
    parsed = load_command_class(app, name).create_parser("manage.py", name).parse_args(options)
    assert getattr(parsed, "daphne", []) == [], "none is left over for Daphne"


@pytest.mark.parametrize(
    ("name", "pattern"), [("nginx.conf", r"keepalive_timeout (\d+)s;"), ("Caddyfile", r"keepalive (\d+)s")]
)
def test_no_proxy_keeps_a_connection_that_the_gateway_closes(name: str, pattern: str) -> None:
    """A POST that is sent into a closing connection is lost, as nobody may send it twice."""
    (seconds,) = re.findall(pattern, (DEPLOY / name).read_text())
    assert int(seconds) < Limits().idle_time


@pytest.mark.parametrize("name", ["nginx.conf", "haproxy.cfg", "Caddyfile"])
def test_every_example_asks_or_tries_and_speaks_for_itself(name: str) -> None:
    """What the guide asks of any proxy; Caddy writes X-Forwarded-* unasked."""
    text = (DEPLOY / name).read_text()
    assert "/health/ready" in text or "http_503" in text
    for field in ("X-Request-ID", *(["X-Forwarded-Host", "X-Forwarded-Proto"] if name != "Caddyfile" else [])):
        assert field in text
