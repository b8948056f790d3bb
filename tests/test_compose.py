"""compose.yaml: two nodes behind HAProxy, whose configuration is the one that tests/test_balancers.py runs."""

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.server.workers import GRACE

ROOT = Path(__file__).resolve().parent.parent
NODES = ("gateway1", "gateway2")


def with_defaults(text: str) -> str:
    """As Docker Compose reads it where `.env` has none of the optional variables."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load(with_defaults((ROOT / "compose.yaml").read_text()))["services"]


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    return yaml.safe_load(with_defaults((ROOT / "compose.yaml").read_text()))["networks"]


def address(service: dict[str, Any]) -> str:
    found: str = service["networks"]["front"]["ipv4_address"]
    return found


def test_only_the_balancer_is_published(services: dict[str, Any], networks: dict[str, Any]) -> None:
    """Whoever can reach a backend directly skips the gateway."""
    assert [name for name, service in services.items() if service.get("ports")] == ["balancer"]
    assert [name for name, service in services.items() if "front" in service["networks"]] == ["balancer", *NODES]
    assert networks["inside"] == {"internal": True}


def test_the_balancer_runs_the_example(services: dict[str, Any]) -> None:
    """The file itself: what differs are the variables that it asks for."""
    balancer = services["balancer"]
    (mounted,) = balancer["volumes"]
    source, inside, options = mounted.split(":")
    assert inside == "/usr/local/etc/haproxy/haproxy.cfg"
    assert "ro" in options.split(",")
    text = (ROOT / source).read_text()
    assert set(balancer["environment"]) == set(re.findall(r"\$\{([A-Z0-9_]+)", text))
    assert balancer["tmpfs"] == re.findall(r"stats socket (/.+)/admin.sock", text)
    published, _, port = balancer["ports"][0].rpartition(":")
    assert (published, balancer["environment"]["LISTEN"]) == ("8000", f":{port}")


def test_the_balancer_finds_the_nodes(services: dict[str, Any], networks: dict[str, Any]) -> None:
    """Under addresses that are theirs alone, whatever else joins the network."""
    environment = services["balancer"]["environment"]
    assert [environment["NODE1"], environment["NODE2"]] == [f"{address(services[node])}:8000" for node in NODES]
    (pool,) = networks["front"]["ipam"]["config"]
    taken = [ip_address(it) for it in (pool["gateway"], *(address(services[name]) for name in ("balancer", *NODES)))]
    assert len(set(taken)) == len(taken)
    assert all(it in ip_network(pool["subnet"]) and it not in ip_network(pool["ip_range"]) for it in taken)


@pytest.mark.parametrize("node", NODES)
def test_a_node_believes_the_balancer_alone(services: dict[str, Any], node: str) -> None:
    """Nobody else of its network: there, the machine itself has an address too."""
    trusted = services[node]["environment"]["TRUSTED_PROXIES"].split(",")
    assert trusted == [address(services["balancer"]), ""], "what .env adds stands behind the comma"


def test_the_nodes_are_equal_but_for_their_addresses(services: dict[str, Any]) -> None:
    """Either can take over from the other."""
    one, other = ({**services[node], "networks": sorted(services[node]["networks"])} for node in NODES)
    assert one == other


@pytest.mark.parametrize("node", NODES)
def test_a_node_has_time_to_drain(services: dict[str, Any], node: str) -> None:
    """The kill comes after the drain, and migrations before the start."""
    assert services[node]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    drain = float(services[node]["environment"]["DRAIN_SECONDS"])
    assert float(services[node]["stop_grace_period"].removesuffix("s")) > drain + GRACE


def test_there_is_no_secret_that_everybody_knows(services: dict[str, Any]) -> None:
    """Without one in .env, Compose refuses to start. JWT_SECRET the gateway asks for: a public key may stand for it."""
    environment = services["gateway1"]["environment"]
    assert environment["SECRET_KEY"].startswith("${SECRET_KEY:?")
    assert "${POSTGRES_PASSWORD:?" in environment["DATABASE_URL"]
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")


def test_all_that_is_in_the_example_reaches_the_nodes(services: dict[str, Any]) -> None:
    """And none of it a backend."""
    assert {name for name, service in services.items() if service.get("env_file")} == {*NODES, "migrate"}
    assert all(services[name]["env_file"] == ".env" for name in (*NODES, "migrate"))
    assert services["backend"]["environment"] == {}


@pytest.mark.parametrize("name", ["balancer", *NODES, "migrate", "backend"])
def test_a_container_has_no_more_rights_than_it_needs(services: dict[str, Any], name: str) -> None:
    """None of root's, and nothing to write to but memory; PostgreSQL's and Redis' images begin as root."""
    service = services[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
