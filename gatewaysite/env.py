"""The environment, read once into typed values (the contract, section 2).

All problems are reported together, each with the variable's name and the fix. The value of a secret is never shown.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from django.core.exceptions import ValidationError

from gatewaysite.variables import Reader, SettingsError, environment
from relay import validation
from relay.identity import algorithms
from relay.identity.places import TICKET
from relay.routing.snapshot import Rate
from relay.settings import RelaySettings

__all__ = ["SettingsError", "SiteSettings", "environment", "read"]

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_DEFAULTS = RelaySettings()
_DATABASES = "use sqlite:///path or postgres://user:password@host/name"
_HOST_PATTERN = re.compile(r"\*|\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:.]+\]")  # as Django compares them


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """What Django itself needs."""

    debug: bool
    secret_key: str = field(repr=False)
    allowed_hosts: list[str]
    database: dict[str, Any] = field(repr=False)


def read(variables: Mapping[str, str], base: Path) -> tuple[SiteSettings, RelaySettings]:
    """Read and check everything.

    Args:
        base: The project's directory. A relative SQLite path is resolved against it.

    Raises:
        SettingsError: One line for each problem found.
    """
    reader = Reader(variables)
    debug = reader.flag("DEBUG")
    database = _database(reader, base)
    site = SiteSettings(debug, _secret_key(reader, debug, database), _allowed_hosts(reader, debug), database)
    relay = RelaySettings(
        debug=debug,
        demo=reader.flag("DEMO"),
        **_tokens(reader, debug),
        main_service_url=_valid(reader, "MAIN_SERVICE_URL", (reader.text("MAIN_SERVICE_URL"),), validation.url)[0],
        allowed_origins=_valid(reader, "ALLOWED_ORIGINS", reader.words("ALLOWED_ORIGINS"), validation.origin),
        trusted_proxies=_networks(reader, "TRUSTED_PROXIES"),
        rate_limit=_rate(reader, "RATE_LIMIT"),
        drain_seconds=reader.seconds("DRAIN_SECONDS", _DEFAULTS.drain_seconds),
        log_format=reader.choice("LOG_FORMAT", ("json", "console"), ""),
        log_level=reader.choice("LOG_LEVEL", LOG_LEVELS, _DEFAULTS.log_level),
        metrics_token=reader.text("METRICS_TOKEN"),
        redis_url=_redis_url(reader, "REDIS_URL"),
        traces=_traces(reader),
    )
    if relay.demo and not debug:
        reader.problems.append("DEMO: the demo page hands out tokens; it needs DEBUG=1, and is not for production")
    if reader.problems:
        raise SettingsError(reader.problems)
    return site, relay


def _tokens(reader: Reader, debug: bool) -> dict[str, Any]:
    secret, previous = reader.text("JWT_SECRET"), reader.text("JWT_PREVIOUS_SECRET")
    public_key = reader.text("JWT_PUBLIC_KEY").replace("\\n", "\n")
    jwks_url = _url(reader, "JWT_JWKS_URL", ("https", "http"), logs_in=False)
    names = reader.words("JWT_ALGORITHMS", _DEFAULTS.jwt_algorithms)
    _check_keys(reader, debug, secret, previous, public_key, jwks_url, names)
    cookie = _token_place(reader, "JWT_COOKIE", _DEFAULTS.jwt_cookie)
    query_param = _token_place(reader, "JWT_QUERY_PARAM", _DEFAULTS.jwt_query_param)
    if query_param == TICKET.decode():
        reader.problems.append(f"JWT_QUERY_PARAM: {query_param!r} is the parameter of tickets; take another name")
    return {
        "jwt_secret": secret,
        "jwt_previous_secret": previous,
        "jwt_previous_until": reader.parsed(
            "JWT_PREVIOUS_UNTIL", _moment, None, "an ISO time such as 2026-12-31T00:00:00Z"
        ),
        "jwt_public_key": public_key,
        "jwt_jwks_url": jwks_url,
        "jwt_algorithms": names,
        "jwt_issuer": reader.text("JWT_ISSUER"),
        "jwt_audience": reader.text("JWT_AUDIENCE"),
        "jwt_leeway": reader.seconds("JWT_LEEWAY", _DEFAULTS.jwt_leeway),
        "jwt_user_id_claim": reader.text("JWT_USER_ID_CLAIM") or _DEFAULTS.jwt_user_id_claim,
        "jwt_email_claim": reader.text("JWT_EMAIL_CLAIM") or _DEFAULTS.jwt_email_claim,
        "jwt_role_claim": reader.text("JWT_ROLE_CLAIM") or _DEFAULTS.jwt_role_claim,
        "jwt_cookie": cookie,
        "jwt_query_param": query_param,
    }


def _token_place(reader: Reader, name: str, default: str) -> str:
    """The name of a cookie or query parameter; an empty value turns that place off."""
    value = reader.text(name, default)
    if not re.fullmatch(r"[A-Za-z0-9._-]*", value):
        reader.problems.append(f"{name}: {value!r} is not a plain name; use letters, digits, - and _")
    return value


def _check_keys(
    reader: Reader, debug: bool, secret: str, previous: str, public_key: str, jwks_url: str, names: tuple[str, ...]
) -> None:
    """Allow exactly one kind of key, with algorithms of that kind: anyone can sign an HMAC with a public key."""
    known = algorithms.HMAC + algorithms.ASYMMETRIC
    if not names:
        reader.problems.append("JWT_ALGORITHMS: the list is empty; remove the variable to get HS256")
    for name in names:
        if name not in known:
            reader.problems.append(f"JWT_ALGORITHMS: {name!r} is not one of {', '.join(known)}")
    hmac = [name for name in names if name in algorithms.HMAC]
    asymmetric = [name for name in names if name in algorithms.ASYMMETRIC]
    if public_key or jwks_url:
        variable = "JWT_PUBLIC_KEY" if public_key else "JWT_JWKS_URL"
        if hmac:
            fix = "list only algorithms that suit your key, for example RS256"
            reader.problems.append(f"JWT_ALGORITHMS: {', '.join(hmac)} can't be combined with {variable}; {fix}")
        if public_key and jwks_url:
            reader.problems.append("JWT_JWKS_URL: JWT_PUBLIC_KEY is set too; keep one")
        if public_key and (fault := _fault_of(public_key, asymmetric)):
            reader.problems.append(f"JWT_PUBLIC_KEY: {fault}")
        return
    if not secret:
        fix = " (or JWT_PUBLIC_KEY, or JWT_JWKS_URL); generate one: openssl rand -base64 48"
        reader.required("JWT_SECRET", fix, "JWT_PUBLIC_KEY", "JWT_JWKS_URL")
        return
    if asymmetric:
        reader.problems.append(
            f"JWT_ALGORITHMS: {', '.join(asymmetric)} needs JWT_PUBLIC_KEY or JWT_JWKS_URL, not JWT_SECRET"
        )
    for variable, value in (("JWT_SECRET", secret), ("JWT_PREVIOUS_SECRET", previous)):
        found = len(value.encode())
        if value and found < algorithms.SHORTEST_SECRET and not debug:
            reader.problems.append(
                f"{variable}: {found} bytes; at least {algorithms.SHORTEST_SECRET} are needed: openssl rand -base64 48"
            )


def _fault_of(public_key: str, names: list[str]) -> str:
    """Why the key can't be used with any of the algorithms; empty if it works with at least one."""
    if "PRIVATE KEY" in public_key:
        return "this is a private key; give the public one"
    if "-----BEGIN" not in public_key:
        return "not a PEM key (-----BEGIN PUBLIC KEY-----…)"
    faults = {algorithms.fault(name, public_key) for name in names}
    if not faults or "" in faults:
        return ""
    too_weak = [fault for fault in faults if fault != algorithms.NOT_A_KEY]
    return too_weak[0] if too_weak else f"not a public key for {', '.join(names)}"


def _valid(reader: Reader, name: str, values: tuple[str, ...], validate: Callable[[str], str]) -> tuple[str, ...]:
    """The values in normal form, judged by the admin's own rule; each invalid one adds a problem."""
    valid = []
    for value in values:
        try:
            valid.append(validate(value) if value else value)
        except ValidationError as exc:
            reader.problems.append(f"{name}: {exc.message}")
            valid.append("")
    return tuple(valid)


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _networks(reader: Reader, name: str) -> tuple[IPv4Network | IPv6Network, ...]:
    networks = []
    for word in reader.words(name):
        try:
            networks.append(ip_network(word, strict=False))
        except ValueError:
            reader.problems.append(f"{name}: {word!r} is not a network; write for example 10.0.0.0/8")
    return tuple(networks)


def _rate(reader: Reader, name: str) -> Rate | None:
    def parse(text: str) -> Rate | None:
        return None if text.lower() in ("off", "0") else Rate.parse(text)

    return reader.parsed(name, parse, None, "a rate such as 100/s;burst=200, or off")


def _url(reader: Reader, name: str, schemes: tuple[str, ...], *, logs_in: bool = True) -> str:
    # For a bad value only the variable's name is reported: the value may hold a password.
    value = reader.text(name)
    if value and not any(value.startswith(f"{scheme}://") for scheme in schemes):
        reader.problems.append(f"{name}: must begin with " + " or ".join(f"{scheme}://" for scheme in schemes))
    elif value:
        try:
            parts = urlsplit(value)
            _ = parts.port
            if "@" in parts.netloc and not logs_in:
                reader.problems.append(f"{name}: a user or password before the host would not be sent; remove it")
        except ValueError:  # the client libraries would report it too, but with a traceback
            reader.problems.append(
                f"{name}: the host or port is not valid; write for example {schemes[0]}://host:port/…"
            )
    return value


def _redis_url(reader: Reader, name: str) -> str:
    earlier = len(reader.problems)
    value = _url(reader, name, ("redis", "rediss", "unix"))
    if not value or len(reader.problems) > earlier:
        return value
    import redis  # takes a while, and few need it

    path = urlsplit(value).path.strip("/")
    try:
        if path and not path.isdecimal() and not value.startswith("unix:"):
            raise ValueError("the path is not the number of a database")
        redis.ConnectionPool.from_url(value).make_connection()  # which does not connect yet
    except TypeError:
        reader.problems.append(
            f"{name}: has an option that the client does not know; write for example redis://host:6379/0"
        )
    except (ValueError, redis.RedisError) as exc:
        reader.problems.append(f"{name}: {str(exc).rstrip('.')}; write for example redis://host:6379/0")
    return value


def _traces(reader: Reader) -> dict[str, str]:
    """OpenTelemetry's variables, for its SDK to read; empty if no traces are sent."""
    common = _url(reader, "OTEL_EXPORTER_OTLP_ENDPOINT", ("http", "https"))
    own = _url(reader, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ("http", "https"))
    exporter = reader.choice("OTEL_TRACES_EXPORTER", ("otlp", "none"), "otlp") if common or own else "none"
    if exporter == "none" or reader.text("OTEL_SDK_DISABLED").lower() == "true":
        return {}
    if not _protocol(reader, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        _protocol(reader, "OTEL_EXPORTER_OTLP_PROTOCOL")
    if not _is_installed("opentelemetry.exporter.otlp.proto.http"):
        name = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" if own else "OTEL_EXPORTER_OTLP_ENDPOINT"
        reader.problems.append(f"{name}: traces need more packages: pip install -r requirements-otel.txt")
    return {name: value for name, value in reader.variables.items() if name.startswith("OTEL_")} | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": common,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": own,
        "OTEL_EXPORTER_OTLP_HEADERS": reader.text("OTEL_EXPORTER_OTLP_HEADERS"),
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": reader.text("OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
    }


def _protocol(reader: Reader, name: str) -> str:
    def parse(text: str) -> str:
        if text != "http/protobuf":
            raise ValueError
        return text

    return reader.parsed(name, parse, "", "http/protobuf, the only one built in; collectors accept it on port 4318")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # its parent package is not installed either
        return False


def _database(reader: Reader, base: Path) -> dict[str, Any]:
    url = reader.text("DATABASE_URL") or "sqlite:///data/gateway.sqlite3"
    if url.partition("://")[0] not in ("sqlite", "postgres", "postgresql"):
        # The value is not shown: it may hold a password.
        reader.problems.append(f"DATABASE_URL: {_DATABASES}")
        url = "sqlite:///data/gateway.sqlite3"
    try:
        config: dict[str, Any] = dict(dj_database_url.parse(url, conn_max_age=60, conn_health_checks=True))
    except (ValueError, dj_database_url.ParseError):
        reader.problems.append(f"DATABASE_URL: can't be parsed; {_DATABASES}")
        return {}
    if config["ENGINE"] == "django.db.backends.sqlite3" and config["NAME"] != ":memory:":
        path = base / config["NAME"]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            reader.problems.append(f"DATABASE_URL: can't create the directory {path.parent}: {exc.strerror}")
        config["NAME"] = str(path)
        # Writers wait for each other instead of failing at once; readers never wait (SQLite, "WAL").
        config["OPTIONS"] = {
            "timeout": 10,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        }
    elif config["ENGINE"] == "django.db.backends.postgresql":
        # A network that swallows packets must not block the watcher for minutes (libpq; seconds, milliseconds).
        config["OPTIONS"] = {"connect_timeout": 5, "tcp_user_timeout": 5000, **config.get("OPTIONS", {})}
        if not config["NAME"] and "service" not in config["OPTIONS"]:
            reader.problems.append("DATABASE_URL: names no database; use postgres://user:password@host/name")
    return config


def _secret_key(reader: Reader, debug: bool, database: dict[str, Any]) -> str:
    """Django's key. With ``DEBUG=1`` it is generated once and kept beside the SQLite file: logins survive a restart."""
    key = reader.text("SECRET_KEY")
    if key:
        return key
    if not debug:
        reader.required("SECRET_KEY", "; generate one: openssl rand -base64 48")
        return ""
    if database.get("ENGINE") != "django.db.backends.sqlite3" or database["NAME"] == ":memory:":
        return secrets.token_urlsafe(48)
    path = Path(database["NAME"]).parent / "secret_key"
    try:
        return _kept(path)
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        reader.problems.append(f"SECRET_KEY: can't store a generated key in {path}: {reason}; set SECRET_KEY")
        return ""


def _kept(path: Path) -> str:
    """The key from a file that only its owner can read; among processes that start together, one creates it."""
    if not path.exists():
        descriptor, fresh = tempfile.mkstemp(dir=path.parent)  # mode 0600
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(48))
        with suppress(FileExistsError):
            os.link(fresh, path)
        os.unlink(fresh)
    return path.read_text(encoding="utf-8").strip()


def _allowed_hosts(reader: Reader, debug: bool) -> list[str]:
    hosts = list(reader.words("ALLOWED_HOSTS"))
    if not hosts and debug:
        return ["*"]
    example = "the names that clients use, comma-separated, for example gateway.example.com"
    if not hosts:
        reader.required("ALLOWED_HOSTS", f"; {example}")
    for host in hosts:
        if not _HOST_PATTERN.fullmatch(host):
            reader.problems.append(f"ALLOWED_HOSTS: {host!r} is not a host; {example} (no scheme, port or path)")
    return hosts
