"""From the environment to typed values, or to a list of what is wrong: `gatewaysite.env`, `gatewaysite.variables`."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gatewaysite.env import SettingsError, SiteSettings, environment, read
from relay.routing.snapshot import Rate
from relay.settings import RelaySettings
from tests import identity_helpers

SECRET = "s3cret-" * 5
MINIMAL = {"SECRET_KEY": "django-key", "ALLOWED_HOSTS": "gw.example.com", "JWT_SECRET": SECRET}
PROJECT = Path(__file__).resolve().parent.parent


def pem(key: Any) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RSA_PEM, EC_PEM, ED_PEM = (
    pem(RSA),
    pem(ec.generate_private_key(ec.SECP256R1())),
    pem(ed25519.Ed25519PrivateKey.generate()),
)


def settings(base: Path, without: str = "", **variables: str) -> tuple[SiteSettings, RelaySettings]:
    given = {name: value for name, value in MINIMAL.items() if name not in without.split()} | variables
    return read(given, base)


def problems(base: Path, without: str = "", **variables: str) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        settings(base, without, **variables)
    assert str(raised.value) == "\n".join(raised.value.problems)
    return raised.value.problems


def test_the_defaults(tmp_path: Path) -> None:
    """Contract, section 2: what counts where nothing is said."""
    site, relay = settings(tmp_path)
    assert relay == RelaySettings(jwt_secret=SECRET)
    assert (relay.jwt_algorithms, relay.jwt_leeway) == (("HS256",), 0)
    assert (relay.jwt_user_id_claim, relay.jwt_email_claim, relay.jwt_role_claim) == ("user_id", "email", "role")
    assert (relay.jwt_cookie, relay.jwt_query_param) == ("auth_token", "token")
    assert (relay.trusted_proxies, relay.rate_limit, relay.drain_seconds, relay.log_level) == ((), None, 20, "INFO")
    assert (site.debug, site.secret_key, site.allowed_hosts) == (False, "django-key", ["gw.example.com"])
    assert site.database["NAME"] == str(tmp_path / "data" / "gateway.sqlite3")


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        *(("DEBUG", text, "debug", True) for text in ("1", "true", "Yes", "ON")),
        *(("DEBUG", text, "debug", False) for text in ("0", "false", "No", "off", "", " ")),
        ("JWT_ALGORITHMS", "HS256, HS512", "jwt_algorithms", ("HS256", "HS512")),
        ("JWT_ISSUER", "https://id.example.com", "jwt_issuer", "https://id.example.com"),
        ("JWT_AUDIENCE", "gateway", "jwt_audience", "gateway"),
        ("JWT_LEEWAY", "2.5", "jwt_leeway", 2.5),
        ("JWT_USER_ID_CLAIM", "sub", "jwt_user_id_claim", "sub"),
        ("JWT_EMAIL_CLAIM", "mail", "jwt_email_claim", "mail"),
        ("JWT_ROLE_CLAIM", "groups", "jwt_role_claim", "groups"),
        ("JWT_ROLE_CLAIM", "", "jwt_role_claim", "role"),
        ("JWT_COOKIE", "sid", "jwt_cookie", "sid"),
        ("JWT_COOKIE", "", "jwt_cookie", ""),
        ("JWT_QUERY_PARAM", "access_token", "jwt_query_param", "access_token"),
        ("JWT_QUERY_PARAM", "", "jwt_query_param", ""),
        ("JWT_PREVIOUS_SECRET", "p" * 32, "jwt_previous_secret", "p" * 32),
        ("JWT_PREVIOUS_UNTIL", "2026-12-31T00:00:00Z", "jwt_previous_until", 1798675200.0),
        ("JWT_PREVIOUS_UNTIL", "2026-12-31T01:00:00+01:00", "jwt_previous_until", 1798675200.0),
        ("JWT_PREVIOUS_UNTIL", "2026-12-31", "jwt_previous_until", 1798675200.0),
        ("MAIN_SERVICE_URL", "http://app:9000", "main_service_url", "http://app:9000"),
        (
            "ALLOWED_ORIGINS",
            "https://A.test, https://*.b.test",
            "allowed_origins",
            ("https://a.test", "https://*.b.test"),
        ),
        ("TRUSTED_PROXIES", "10.0.0.0/8, ::1", "trusted_proxies", (ip_network("10.0.0.0/8"), ip_network("::1/128"))),
        ("TRUSTED_PROXIES", "10.1.2.3/8", "trusted_proxies", (ip_network("10.0.0.0/8"),)),
        ("RATE_LIMIT", "100/s;burst=200", "rate_limit", Rate(100, 1, 200)),
        ("RATE_LIMIT", "off", "rate_limit", None),
        ("RATE_LIMIT", "OFF", "rate_limit", None),
        ("DRAIN_SECONDS", "0", "drain_seconds", 0),
        ("LOG_FORMAT", "Console", "log_format", "console"),
        ("LOG_LEVEL", "debug", "log_level", "DEBUG"),
        ("METRICS_TOKEN", "mt", "metrics_token", "mt"),
        ("REDIS_URL", "rediss://:pw@cache/1", "redis_url", "rediss://:pw@cache/1"),
    ],
)
def test_a_variable_is_read(tmp_path: Path, name: str, text: str, field: str, value: Any) -> None:
    """Contract, section 2."""
    _, relay = settings(tmp_path, **{name: text})
    assert getattr(relay, field) == value


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("DEBUG", "maybe", "1 or 0"),
        ("JWT_SECRET", "short", "5 bytes; at least 32"),
        ("JWT_PREVIOUS_SECRET", "short", "5 bytes; at least 32"),
        ("JWT_PREVIOUS_UNTIL", "tomorrow", "an ISO time"),
        ("JWT_ALGORITHMS", "none", "not one of HS256"),
        ("JWT_ALGORITHMS", "hs256", "not one of HS256"),
        ("JWT_ALGORITHMS", ",", "the list is empty"),
        ("JWT_ALGORITHMS", "RS256", "needs JWT_PUBLIC_KEY or JWT_JWKS_URL"),
        ("JWT_ALGORITHMS", "HS256,ES256", "ES256 needs JWT_PUBLIC_KEY"),
        ("JWT_LEEWAY", "-1", "0 or more"),
        ("JWT_LEEWAY", "nan", "0 or more"),
        ("JWT_LEEWAY", "inf", "0 or more"),
        ("JWT_LEEWAY", "5s", "a number of seconds"),
        ("JWT_COOKIE", "my cookie", "not a plain name"),
        ("JWT_COOKIE", "a=b", "not a plain name"),
        ("JWT_COOKIE", "töken", "not a plain name"),
        ("JWT_QUERY_PARAM", "a&b", "not a plain name"),
        ("JWT_QUERY_PARAM", "a#b", "not a plain name"),
        ("JWT_QUERY_PARAM", "ticket", "the parameter of tickets; take another name"),
        ("MAIN_SERVICE_URL", "app:9000", "must begin with http://"),
        ("MAIN_SERVICE_URL", "http://app/?x", "query"),
        ("ALLOWED_ORIGINS", "https://a.test/", "more than an origin"),
        ("ALLOWED_ORIGINS", "https://a.test, b.test", "no scheme"),
        ("ALLOWED_ORIGINS", "null", "can't be allowed"),
        ("TRUSTED_PROXIES", "10.0.0.0/33", "not a network"),
        ("TRUSTED_PROXIES", "proxy", "not a network"),
        ("RATE_LIMIT", "100", "a rate such as"),
        ("RATE_LIMIT", "0/s", "a rate such as"),
        ("DRAIN_SECONDS", "long", "a number of seconds"),
        ("LOG_FORMAT", "xml", "one of json, console"),
        ("LOG_LEVEL", "loud", "one of DEBUG"),
        ("REDIS_URL", "cache:6379", "must begin with redis://"),
        ("REDIS_URL", "redis://:hunter2@cache:port/0", "the host or port is not valid"),
        ("REDIS_URL", "redis://[::1/0", "the host or port is not valid"),
        ("REDIS_URL", "redis://hun/ter2@cache/0", "the path is not the number of a database; write for"),
        ("REDIS_URL", "redis://:hunter2@cache?db=abc", "Invalid value for 'db' in connection URL; write"),
        ("REDIS_URL", "redis://:hunter2@cache?foo=bar", "has an option that the client does not know; write"),
        ("REDIS_URL", "rediss://:hunter2@cache?ssl_cert_reqs=zzz", "Invalid SSL Certificate Requirements Flag: zzz"),
        ("REDIS_URL", "redis://:hunter2@cache?protocol=9", "protocol must be either 2 or 3"),
        ("DATABASE_URL", "postgres://", "names no database; use postgres://"),
        ("DATABASE_URL", "postgres://u:hunter2@h/", "names no database; use postgres://"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "must begin with http://"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:port/", "the host or port is not valid"),
        ("DATABASE_URL", "mysql://u@h/d", "use sqlite:///path or postgres://"),
        ("DATABASE_URL", "gateway.sqlite3", "use sqlite:///path or postgres://"),
        ("DATABASE_URL", "postgres://u:p@h:port/d", "use sqlite:///path or postgres://"),
        ("ALLOWED_HOSTS", "https://gw.example.com", "no scheme, port or path"),
        ("ALLOWED_HOSTS", "gw.example.com:8000", "no scheme, port or path"),
        ("ALLOWED_HOSTS", "gw.example.com, *.example.com", "no scheme, port or path"),
        ("DEMO", "1", "needs DEBUG=1"),
    ],
)
def test_a_bad_value_stops_the_start(tmp_path: Path, name: str, text: str, says: str) -> None:
    """Contract, section 2: it names the variable, and says what is expected."""
    (problem,) = problems(tmp_path, **{name: text})
    assert problem.startswith(f"{name}: ")
    assert says in problem
    assert "\n" not in problem


ENDPOINT = "http://collector:4318"


def test_the_variables_of_traces_are_handed_on(tmp_path: Path) -> None:
    """All that begin with OTEL_, as OpenTelemetry's SDK reads them; a key may come from a file, and is never shown."""
    (tmp_path / "headers").write_text("api-key=s3cret\n")
    given = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT,
        "OTEL_EXPORTER_OTLP_HEADERS_FILE": str(tmp_path / "headers"),
        "OTEL_TRACES_SAMPLER": "always_on",
    }
    _, relay = settings(tmp_path, **given)
    assert relay.traces["OTEL_EXPORTER_OTLP_ENDPOINT"] == ENDPOINT
    assert relay.traces["OTEL_EXPORTER_OTLP_HEADERS"] == "api-key=s3cret"
    assert relay.traces["OTEL_TRACES_SAMPLER"] == "always_on"
    assert {name[:5] for name in relay.traces} == {"OTEL_"}
    assert "s3cret" not in repr(relay)


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, id="no endpoint"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, id="a blank one"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_SDK_DISABLED": "True"}, id="disabled"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_TRACES_EXPORTER": "None"}, id="for others only"),
        pytest.param({"OTEL_TRACES_EXPORTER": "console", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, id="not for us"),
    ],
)
def test_traces_are_off(tmp_path: Path, variables: dict[str, str]) -> None:
    """A platform that sets OTEL_… for everything it runs must not stop what does not use it."""
    assert settings(tmp_path, **variables)[1].traces == {}


def test_the_protocol_of_traces_counts_before_the_common_one(tmp_path: Path) -> None:
    """As everywhere with OpenTelemetry."""
    both = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    assert settings(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=ENDPOINT, **both)[1].traces
    del both["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"]
    (problem,) = problems(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=ENDPOINT, **both)
    assert problem.startswith("OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' is not http/protobuf")


@pytest.mark.parametrize("name", ["SECRET_KEY", "ALLOWED_HOSTS", "JWT_SECRET"])
@pytest.mark.parametrize(
    "value", [pytest.param({}, id="missing"), pytest.param("", id="empty"), pytest.param("  ", id="blank")]
)
def test_a_required_variable(tmp_path: Path, name: str, value: Any) -> None:
    """Without `DEBUG=1` there is no safe default for these; an empty `NAME_FILE` is as good as none."""
    given = {name: value} if isinstance(value, str) else {f"{name}_FILE": ""}
    (problem,) = problems(tmp_path, without=name, **given)
    assert problem.startswith(f"{name}: required")


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    """Who mends a deployment wants to restart it once."""
    found = problems(tmp_path, without="SECRET_KEY JWT_SECRET", DEBUG="ja", RATE_LIMIT="fast", LOG_LEVEL="loud")
    assert [problem.partition(":")[0] for problem in found] == [
        "DEBUG",
        "SECRET_KEY",
        "JWT_SECRET",
        "RATE_LIMIT",
        "LOG_LEVEL",
    ]


# Files


def test_a_value_from_a_file(tmp_path: Path) -> None:
    """Contract, section 2: `NAME_FILE`, as containers mount secrets; editors leave a line end."""
    (tmp_path / "jwt").write_text(f"  {SECRET}\n")
    (tmp_path / "pem").write_text(RSA_PEM)
    (tmp_path / "rate").write_text("5/s\n")
    _, relay = settings(
        tmp_path, "JWT_SECRET", JWT_SECRET_FILE=str(tmp_path / "jwt"), RATE_LIMIT_FILE=str(tmp_path / "rate")
    )
    assert (relay.jwt_secret, relay.rate_limit) == (SECRET, Rate(5, 1, 5))
    _, relay = settings(tmp_path, "JWT_SECRET", JWT_PUBLIC_KEY_FILE=str(tmp_path / "pem"), JWT_ALGORITHMS="RS256")
    assert relay.jwt_public_key == RSA_PEM.strip()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(None, "No such file", id="not there"),
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b" \n", "is empty", id="blank"),
        pytest.param(b"\xff\xfe", "not UTF-8 text", id="no text"),
    ],
)
@pytest.mark.parametrize("name", ["JWT_SECRET", "SECRET_KEY", "METRICS_TOKEN", "RATE_LIMIT", "ALLOWED_HOSTS"])
def test_a_file_that_gives_no_value(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    """One line, and no second that calls the variable missing; never an empty secret that everybody could sign with."""
    path = tmp_path / "value"
    if content is not None:
        path.write_bytes(content)
    (problem,) = problems(tmp_path, without=name, **{f"{name}_FILE": str(path)})
    assert problem.startswith(f"{name}_FILE: ")
    assert str(path) in problem
    assert says in problem


def test_an_unreadable_key_file_does_not_ask_for_a_secret(tmp_path: Path) -> None:
    """What would do instead was meant; only its file is wrong."""
    found = problems(tmp_path, "JWT_SECRET", JWT_PUBLIC_KEY_FILE=str(tmp_path), JWT_ALGORITHMS="RS256")
    assert found == [f"JWT_PUBLIC_KEY_FILE: can't read {tmp_path}: Is a directory"]


def test_a_value_and_a_file(tmp_path: Path) -> None:
    """Which one is meant can't be known."""
    (tmp_path / "jwt").write_text(SECRET)
    (problem,) = problems(tmp_path, JWT_SECRET_FILE=str(tmp_path / "jwt"))
    assert problem == "JWT_SECRET: JWT_SECRET and JWT_SECRET_FILE are both set; keep one"
    settings(tmp_path, JWT_SECRET="", JWT_SECRET_FILE=str(tmp_path / "jwt"))


@pytest.mark.parametrize(
    ("in_file", "real", "expected"),
    [
        pytest.param("A=1", {}, {"A": "1"}, id="from .env"),
        pytest.param("A=1\nB=2", {"A": "3"}, {"A": "3", "B": "2"}, id="real variables win"),
        pytest.param("A=1", {"A": ""}, {"A": ""}, id="an empty real one, too"),
        pytest.param("A=1", {"A_FILE": "/a"}, {"A_FILE": "/a"}, id="a real file wins over a value"),
        pytest.param("A_FILE=/a", {"A": "1"}, {"A": "1"}, id="a real value wins over a file"),
        pytest.param("A='x y' # why\nexport B=\"2\"", {}, {"A": "x y", "B": "2"}, id="quotes and comments"),
        pytest.param("A=a$B{B}", {"B": "2"}, {"A": "a$B{B}", "B": "2"}, id="a dollar sign is one"),
        pytest.param(None, {"A": "1"}, {"A": "1"}, id="no .env"),
    ],
)
def test_dot_env(tmp_path: Path, in_file: str | None, real: dict[str, str], expected: dict[str, str]) -> None:
    """Contract, section 2: `.env` in the working directory is read, real variables win."""
    if in_file is not None:
        (tmp_path / ".env").write_text(in_file)
    assert environment(real, tmp_path) == expected


def test_a_dot_env_that_is_no_text(tmp_path: Path) -> None:
    """One line that names it."""
    (tmp_path / ".env").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"^\.env: can't read .*\.env: it is not UTF-8 text$"):
        environment({}, tmp_path)


# Keys


@pytest.mark.parametrize("name", ["JWT_SECRET", "JWT_PREVIOUS_SECRET"])
def test_a_short_secret_is_for_debugging_only(tmp_path: Path, name: str) -> None:
    """RFC 7518 §3.2: a key no shorter than the hash; it is bytes that count."""
    _, relay = settings(tmp_path, **{name: "short", "DEBUG": "1"})
    assert "short" in (relay.jwt_secret, relay.jwt_previous_secret)
    settings(tmp_path, **{name: "ä" * 16})
    assert problems(tmp_path, **{name: "ä" * 15})[0].startswith(f"{name}: 30 bytes")


@pytest.mark.parametrize(
    ("algorithms", "key"),
    [("RS256,PS512", RSA_PEM), ("ES256", EC_PEM), ("EdDSA", ED_PEM), ("RS256,ES256", EC_PEM)],
    ids=["RSA", "EC", "Ed25519", "one of several"],
)
def test_a_public_key(tmp_path: Path, algorithms: str, key: str) -> None:
    """Contract, section 2: PEM, also in one line with ``\\n`` for line ends; no secret is needed then."""
    for text in (key, key.replace("\n", "\\n")):
        _, relay = settings(tmp_path, "JWT_SECRET", JWT_PUBLIC_KEY=text, JWT_ALGORITHMS=algorithms)
        assert relay.jwt_public_key.strip() == key.strip()


PRIVATE = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("variables", "name", "says"),
    [
        pytest.param(
            {"JWT_PUBLIC_KEY": RSA_PEM},
            "JWT_ALGORITHMS",
            "HS256 can't be combined with JWT_PUBLIC_KEY",
            id="the default HMAC",
        ),
        pytest.param(
            {"JWT_PUBLIC_KEY": RSA_PEM, "JWT_ALGORITHMS": "RS256,HS384"},
            "JWT_ALGORITHMS",
            "HS384 can't be combined with JWT_PUBLIC_KEY",
            id="an HMAC among others",
        ),
        pytest.param(
            {"JWT_JWKS_URL": "https://id.test/keys", "JWT_SECRET": SECRET},
            "JWT_ALGORITHMS",
            "HS256 can't be combined with JWT_JWKS_URL",
            id="an HMAC beside a JWKS",
        ),
        pytest.param(
            {"JWT_JWKS_URL": "id.test/keys", "JWT_ALGORITHMS": "RS256"},
            "JWT_JWKS_URL",
            "must begin with https:// or http://",
            id="a JWKS without a scheme",
        ),
        pytest.param(
            {"JWT_JWKS_URL": "https://user:hunter2@id.test/keys", "JWT_ALGORITHMS": "RS256"},
            "JWT_JWKS_URL",
            "would not be sent",
            id="a JWKS with a password",
        ),
        pytest.param(
            {"JWT_PUBLIC_KEY": RSA_PEM, "JWT_JWKS_URL": "https://id.test/keys", "JWT_ALGORITHMS": "RS256"},
            "JWT_JWKS_URL",
            "JWT_PUBLIC_KEY is set too",
            id="a key and a JWKS",
        ),
        pytest.param(
            {"JWT_PUBLIC_KEY": PRIVATE, "JWT_ALGORITHMS": "RS256"},
            "JWT_PUBLIC_KEY",
            "a private key",
            id="a private key",
        ),
        pytest.param(
            {"JWT_PUBLIC_KEY": "abc", "JWT_ALGORITHMS": "RS256"}, "JWT_PUBLIC_KEY", "not a PEM key", id="no PEM"
        ),
        pytest.param(
            {"JWT_PUBLIC_KEY": "-----BEGIN PUBLIC KEY-----\nx", "JWT_ALGORITHMS": "RS256"},
            "JWT_PUBLIC_KEY",
            "not a public key for RS256",
            id="a PEM that is cut",
        ),
        pytest.param(
            {"JWT_PUBLIC_KEY": EC_PEM, "JWT_ALGORITHMS": "RS256"},
            "JWT_PUBLIC_KEY",
            "not a public key for RS256",
            id="another kind",
        ),
        pytest.param(
            {"JWT_PUBLIC_KEY": pem(identity_helpers.private_key("RSA-1024")), "JWT_ALGORITHMS": "RS256"},
            "JWT_PUBLIC_KEY",
            "1024 bits",
            id="a key that is too short",
        ),
    ],
)
def test_keys_and_algorithms_belong_together(tmp_path: Path, variables: dict[str, str], name: str, says: str) -> None:
    """Contract, section 2: an HMAC over a public key would be everybody's signature (RFC 8725 §3.1)."""
    (problem,) = problems(tmp_path, "" if "JWT_SECRET" in variables else "JWT_SECRET", **variables)
    assert problem.startswith(f"{name}: ")
    assert says in problem


# Secrets


def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Neither in a problem nor in a repr, whatever else is wrong with the value."""
    marked = {
        "SECRET_KEY": "hunter2-key",
        "JWT_SECRET": "hunter2-jwt",
        "JWT_PREVIOUS_SECRET": "hunter2-previous",
        "JWT_PUBLIC_KEY": "hunter2-pem",
        "REDIS_URL": "hunter2-redis",
        "DATABASE_URL": "hunter2-database",
        "METRICS_TOKEN": "hunter2-metrics",
        "MAIN_SERVICE_URL": "http://me:hunter2@app",
        "ALLOWED_ORIGINS": "https://me:hunter2@app",
    }
    unreadable = ("postgres://u:hunter2@h:port/d", "mysql://u:hunter2@h/d", "postgres://u:hunter2[@h/d")
    for database in ("hunter2-database", *unreadable):
        for without in ("", "JWT_PUBLIC_KEY"):
            given = {name: value for name, value in marked.items() if name != without}
            assert "hunter2" not in "\n".join(problems(tmp_path, **given | {"DATABASE_URL": database}))
    good = {
        "JWT_SECRET": "hunter2" * 5,
        "JWT_PREVIOUS_SECRET": "hunter2" * 5,
        "SECRET_KEY": "hunter2",
        "REDIS_URL": "redis://:hunter2@cache",
        "DATABASE_URL": "postgres://u:hunter2@h/d",
        "METRICS_TOKEN": "hunter2",
    }
    assert "hunter2" not in repr(settings(tmp_path, **good))


@pytest.mark.parametrize("name", ["JWT_SECRET", "SECRET_KEY", "JWT_ISSUER"])
def test_a_value_that_is_no_text(tmp_path: Path, name: str) -> None:
    """Bytes that are not UTF-8 come as lone surrogates; nothing could be computed with them later."""
    assert problems(tmp_path, **{name: SECRET + "\udcff"}) == [f"{name}: its value is not UTF-8 text"]


# Site


def test_debug_needs_no_hosts_and_keeps_a_key(tmp_path: Path) -> None:
    """Contract, section 2: the generated key lies beside the SQLite file, for its owner alone."""
    site, _ = settings(tmp_path, "SECRET_KEY ALLOWED_HOSTS", DEBUG="1")
    path = tmp_path / "data" / "secret_key"
    assert site.allowed_hosts == ["*"]
    assert site.secret_key == path.read_text()
    assert len(site.secret_key) >= 50
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["secret_key"]
    again, _ = settings(tmp_path, "SECRET_KEY ALLOWED_HOSTS", DEBUG="1")
    assert again.secret_key == site.secret_key


def test_processes_that_start_at_once_agree_on_the_key(tmp_path: Path) -> None:
    """Otherwise each would know only its own logins."""
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: settings(tmp_path, "SECRET_KEY", DEBUG="1")[0].secret_key, range(16)))
    assert len(keys) == 1
    assert "" not in keys


def test_a_key_that_can_not_be_kept(tmp_path: Path) -> None:
    """One line that says what to do."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secret_key").mkdir()
    (problem,) = problems(tmp_path, "SECRET_KEY", DEBUG="1")
    assert problem.startswith("SECRET_KEY: can't store a generated key in ")
    assert problem.endswith("set SECRET_KEY")


def test_a_key_beside_no_file_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory or on a server there is no such place; nothing is written to the working directory."""
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite://:memory:", "postgres://u:p@h/d"):
        site, _ = settings(tmp_path, "SECRET_KEY", DEBUG="1", DATABASE_URL=url)
        assert len(site.secret_key) >= 50
    assert list(tmp_path.iterdir()) == []


def test_databases(tmp_path: Path) -> None:
    """SQLite with readers beside a writer, its directory made; PostgreSQL that is not waited for long."""
    sqlite, _ = settings(tmp_path, DATABASE_URL="sqlite:///here/db.sqlite3")
    assert sqlite.database["ENGINE"] == "django.db.backends.sqlite3"
    assert sqlite.database["NAME"] == str(tmp_path / "here" / "db.sqlite3")
    assert "WAL" in sqlite.database["OPTIONS"]["init_command"]
    assert (tmp_path / "here").is_dir()
    absolute, _ = settings(tmp_path, DATABASE_URL=f"sqlite:///{tmp_path}/abs.sqlite3")
    assert absolute.database["NAME"] == f"{tmp_path}/abs.sqlite3"
    for scheme in ("postgres", "postgresql"):
        postgres, _ = settings(tmp_path, DATABASE_URL=f"{scheme}://me:p%40ss@db:5433/gw?sslmode=require")
        database = postgres.database
        assert database["ENGINE"] == "django.db.backends.postgresql"
        assert (database["HOST"], database["PORT"], database["NAME"]) == ("db", 5433, "gw")
        assert (database["USER"], database["PASSWORD"]) == ("me", "p@ss")
        assert {"sslmode": "require", "connect_timeout": 5}.items() <= database["OPTIONS"].items()


def test_a_database_directory_that_can_not_be_made(tmp_path: Path) -> None:
    """One line, instead of SQLite's `unable to open database file`."""
    (tmp_path / "file").write_text("")
    (problem,) = problems(tmp_path, DATABASE_URL="sqlite:///file/db.sqlite3")
    assert problem.startswith(f"DATABASE_URL: can't create the directory {tmp_path / 'file'}")


@pytest.mark.parametrize("host", ["*", "gw.example.com", ".example.com", "localhost", "10.0.0.7", "[::1]"])
def test_hosts_as_django_compares_them(tmp_path: Path, host: str) -> None:
    """Names, addresses, `.example.com` for all below it, `*` for any."""
    assert settings(tmp_path, ALLOWED_HOSTS=f"{host}, other")[0].allowed_hosts == [host, "other"]


# The command line


def manage(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    keep = {
        name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "COVERAGE_PROCESS_START") if name in os.environ
    }
    command = [sys.executable, str(PROJECT / "manage.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env=keep | variables, capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize("command", ["check", "migrate", "issue_token", "no_such_command"])
def test_a_command_in_a_broken_environment(tmp_path: Path, command: str) -> None:
    """Contract, section 1: a line per problem on stderr, exit status 1, no traceback."""
    ended = manage(command, cwd=tmp_path, JWT_SECRET="hunter2", RATE_LIMIT="fast", DATABASE_URL="mysql://u:hunter2@h/d")
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert [line.partition(":")[0] for line in ended.stderr.splitlines()] == [
        "DATABASE_URL",
        "SECRET_KEY",
        "ALLOWED_HOSTS",
        "JWT_SECRET",
        "RATE_LIMIT",
    ]
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr


def test_a_command_reads_dot_env(tmp_path: Path) -> None:
    """Of the working directory; and what is in it is complained about like any other value."""
    (tmp_path / ".env").write_text("DEBUG=1\nSECRET_KEY=x\nJWT_SECRET=x\nDRAIN_SECONDS=soon\n")
    ended = manage("check", cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == "DRAIN_SECONDS: 'soon' is not a number of seconds, 0 or more\n"
