"""The environment, read once into typed values (the contract, section 2).

Every problem is reported at once, and each names its variable and the mend; no value of a secret is ever shown.
``NAME_FILE`` gives a file that holds the value (container secrets); ``.env`` in the working directory is read as
well, real variables win.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, TypeVar

import dj_database_url
from dotenv import dotenv_values

from relay.routing.snapshot import Rate

T = TypeVar("T")

HMAC_ALGORITHMS = ("HS256", "HS384", "HS512")
ASYMMETRIC_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
SHORTEST_SECRET = 32  # bytes: a key no shorter than the hash of HS256 (RFC 7518 §3.2)
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class SettingsError(Exception):
    """The environment can't be used; `problems` has a line for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What the relay itself is told. Times in seconds."""

    debug: bool = False
    demo: bool = False
    jwt_secret: str = field(default="", repr=False)
    jwt_previous_secret: str = field(default="", repr=False)
    jwt_previous_until: float | None = None  # unix time
    jwt_public_key: str = ""
    jwt_jwks_url: str = ""
    jwt_algorithms: tuple[str, ...] = ("HS256",)
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_leeway: float = 0
    jwt_user_id_claim: str = "user_id"
    jwt_email_claim: str = "email"
    jwt_role_claim: str = "role"
    jwt_cookie: str = "auth_token"
    jwt_query_param: str = "token"
    main_service_url: str = ""
    allowed_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    rate_limit: Rate | None = None
    drain_seconds: float = 20
    log_format: str = ""  # json | console; empty: console on a terminal
    log_level: str = "INFO"
    metrics_token: str = field(default="", repr=False)
    redis_url: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """What Django is told."""

    debug: bool
    secret_key: str = field(repr=False)
    allowed_hosts: list[str]
    database: dict[str, Any] = field(repr=False)


class Reader:
    """Reads variables one by one and collects what is wrong with them."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = variables
        self.problems: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        """The value, or that of the file which ``NAME_FILE`` names (surrounding white space dropped)."""
        path = self.variables.get(f"{name}_FILE", "")
        if not path:
            return self.variables.get(name, default).strip()
        if self.variables.get(name):
            self.problems.append(f"{name}: {name} and {name}_FILE are both set; keep one")
        try:
            return Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
            self.problems.append(f"{name}_FILE: can't read {path}: {reason}")
            return default

    def parsed(self, name: str, parse: Callable[[str], T], default: T, expected: str) -> T:
        """The value as `parse` gives it; a ValueError of it becomes a problem that says what is expected."""
        text = self.text(name)
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as exc:
            self.problems.append(f"{name}: {text!r} is not {expected}" + (f" ({exc})" if str(exc) else ""))
            return default

    def flag(self, name: str) -> bool:
        words = {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }

        def parse(text: str) -> bool:
            if text.lower() not in words:
                raise ValueError
            return words[text.lower()]

        return self.parsed(name, parse, default=False, expected="1 or 0")

    def seconds(self, name: str, default: float) -> float:
        def parse(text: str) -> float:
            value = float(text)
            if not 0 <= value < 1e9:
                raise ValueError
            return value

        return self.parsed(name, parse, default, "a number of seconds, 0 or more")

    def words(self, name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A comma-separated list."""
        text = self.text(name)
        return tuple(word.strip() for word in text.split(",") if word.strip()) if text else default

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        def parse(text: str) -> str:
            found = {c.lower(): c for c in choices}.get(text.lower())
            if found is None:
                raise ValueError
            return found

        return self.parsed(name, parse, default, "one of " + ", ".join(choices))


def environment(real: Mapping[str, str], directory: Path) -> dict[str, str]:
    """The real variables over those of ``.env`` in a directory."""
    path = directory / ".env"
    from_file = (
        {k: v for k, v in dotenv_values(path, interpolate=False).items() if v is not None} if path.is_file() else {}
    )
    return {**from_file, **real}


def read(variables: Mapping[str, str], base: Path) -> tuple[SiteSettings, RelaySettings]:
    """Read and check everything.

    Args:
        base: The project's directory; a relative SQLite path and the generated ``SECRET_KEY`` lie below it.

    Raises:
        SettingsError: With a line for each variable that can't be used.
    """
    reader = Reader(variables)
    debug = reader.flag("DEBUG")
    database = _database(reader, base)
    site = SiteSettings(debug, _secret_key(reader, debug, database), _allowed_hosts(reader, debug), database)
    relay = RelaySettings(
        debug=debug,
        demo=reader.flag("DEMO"),
        **_tokens(reader, debug),
        main_service_url=reader.text("MAIN_SERVICE_URL"),
        allowed_origins=reader.words("ALLOWED_ORIGINS"),
        trusted_proxies=_networks(reader, "TRUSTED_PROXIES"),
        rate_limit=_rate(reader, "RATE_LIMIT"),
        drain_seconds=reader.seconds("DRAIN_SECONDS", 20),
        log_format=reader.choice("LOG_FORMAT", ("json", "console"), ""),
        log_level=reader.choice("LOG_LEVEL", LOG_LEVELS, "INFO"),
        metrics_token=reader.text("METRICS_TOKEN"),
        redis_url=_url(reader, "REDIS_URL", ("redis", "rediss", "unix")),
    )
    if relay.demo and not debug:
        reader.problems.append("DEMO: the demo page hands out tokens; it needs DEBUG=1, and never runs in production")
    if reader.problems:
        raise SettingsError(reader.problems)
    return site, relay


def _tokens(reader: Reader, debug: bool) -> dict[str, Any]:
    secret, previous = reader.text("JWT_SECRET"), reader.text("JWT_PREVIOUS_SECRET")
    public_key = reader.text("JWT_PUBLIC_KEY").replace("\\n", "\n")
    jwks_url = _url(reader, "JWT_JWKS_URL", ("https", "http"))
    algorithms = reader.words("JWT_ALGORITHMS", ("HS256",))
    _check_keys(reader, debug, secret, previous, public_key, jwks_url, algorithms)
    cookie = _token_place(reader, "JWT_COOKIE", "auth_token")
    return {
        "jwt_secret": secret,
        "jwt_previous_secret": previous,
        "jwt_previous_until": reader.parsed(
            "JWT_PREVIOUS_UNTIL", _moment, None, "an ISO time such as 2026-12-31T00:00:00Z"
        ),
        "jwt_public_key": public_key,
        "jwt_jwks_url": jwks_url,
        "jwt_algorithms": algorithms,
        "jwt_issuer": reader.text("JWT_ISSUER"),
        "jwt_audience": reader.text("JWT_AUDIENCE"),
        "jwt_leeway": reader.seconds("JWT_LEEWAY", 0),
        "jwt_user_id_claim": reader.text("JWT_USER_ID_CLAIM") or "user_id",
        "jwt_email_claim": reader.text("JWT_EMAIL_CLAIM") or "email",
        "jwt_role_claim": reader.text("JWT_ROLE_CLAIM") or "role",
        "jwt_cookie": cookie,
        "jwt_query_param": _token_place(reader, "JWT_QUERY_PARAM", "token"),
    }


def _token_place(reader: Reader, name: str, default: str) -> str:
    """The name of a cookie or parameter; set but empty turns the place off."""
    value = reader.text(name, default)
    if any(c in value for c in " \t;,=&%+\"'\\") or not value.isascii():
        reader.problems.append(f"{name}: {value!r} is no plain name; use letters, digits, - and _")
    return value


def _check_keys(
    reader: Reader, debug: bool, secret: str, previous: str, public_key: str, jwks_url: str, algorithms: tuple[str, ...]
) -> None:
    """Exactly one kind of key, and only algorithms that belong to it: an HMAC over a public key is a forgery."""
    known = HMAC_ALGORITHMS + ASYMMETRIC_ALGORITHMS
    for algorithm in algorithms:
        if algorithm not in known:
            reader.problems.append(f"JWT_ALGORITHMS: {algorithm!r} is not one of {', '.join(known)}")
    hmac = [a for a in algorithms if a in HMAC_ALGORITHMS]
    if public_key or jwks_url:
        name = "JWT_PUBLIC_KEY" if public_key else "JWT_JWKS_URL"
        if hmac:
            mend = "name only those of your key, for example RS256"
            reader.problems.append(f"JWT_ALGORITHMS: {', '.join(hmac)} can't stand beside {name}; {mend}")
        if public_key and jwks_url:
            reader.problems.append("JWT_JWKS_URL: JWT_PUBLIC_KEY is set too; keep one")
        if public_key and "PRIVATE KEY" in public_key:
            reader.problems.append("JWT_PUBLIC_KEY: this is a private key; give the public one")
        elif public_key and "-----BEGIN" not in public_key:
            reader.problems.append("JWT_PUBLIC_KEY: not a PEM key (-----BEGIN PUBLIC KEY-----…)")
        return
    if not secret:
        if "JWT_SECRET_FILE" not in reader.variables:
            reader.problems.append(
                "JWT_SECRET: required (or JWT_PUBLIC_KEY, or JWT_JWKS_URL); make one: openssl rand -base64 48"
            )
        return
    if asymmetric := [a for a in algorithms if a in ASYMMETRIC_ALGORITHMS]:
        reader.problems.append(
            f"JWT_ALGORITHMS: {', '.join(asymmetric)} needs JWT_PUBLIC_KEY or JWT_JWKS_URL, not JWT_SECRET"
        )
    for name, value in (("JWT_SECRET", secret), ("JWT_PREVIOUS_SECRET", previous)):
        if value and len(value.encode()) < SHORTEST_SECRET and not debug:
            found = len(value.encode())
            reader.problems.append(
                f"{name}: {found} bytes; at least {SHORTEST_SECRET} are needed: openssl rand -base64 48"
            )


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _networks(reader: Reader, name: str) -> tuple[IPv4Network | IPv6Network, ...]:
    networks = []
    for word in reader.words(name):
        try:
            networks.append(ip_network(word, strict=False))
        except ValueError:
            reader.problems.append(f"{name}: {word!r} is no network; write for example 10.0.0.0/8")
    return tuple(networks)


def _rate(reader: Reader, name: str) -> Rate | None:
    if reader.text(name).lower() in ("", "off", "0"):
        return None
    return reader.parsed(name, Rate.parse, None, "a rate such as 100/s;burst=200, or off")


def _url(reader: Reader, name: str, schemes: tuple[str, ...]) -> str:
    value = reader.text(name)
    if value and not any(value.startswith(f"{scheme}://") for scheme in schemes):
        # Only the name: the value may hold a password.
        reader.problems.append(f"{name}: must begin with " + " or ".join(f"{scheme}://" for scheme in schemes))
    return value


def _database(reader: Reader, base: Path) -> dict[str, Any]:
    url = reader.text("DATABASE_URL") or "sqlite:///data/gateway.sqlite3"
    scheme = url.partition(":")[0]
    if scheme not in ("sqlite", "postgres", "postgresql"):
        reader.problems.append(
            f"DATABASE_URL: {scheme!r} is not supported; use sqlite:///path or postgres://user:password@host/name"
        )
        url = "sqlite:///data/gateway.sqlite3"
    try:
        config: dict[str, Any] = dict(dj_database_url.parse(url, conn_max_age=60, conn_health_checks=True))
    except (ValueError, dj_database_url.ParseError):
        reader.problems.append("DATABASE_URL: can't be read; use sqlite:///path or postgres://user:password@host/name")
        return {}
    if config["ENGINE"] == "django.db.backends.sqlite3" and config["NAME"] != ":memory:":
        config["NAME"] = str(base / config["NAME"])
        # Writers wait for each other instead of failing at once, and readers for none (SQLite, "WAL").
        config["OPTIONS"] = {
            "timeout": 10,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        }
    elif config["ENGINE"] == "django.db.backends.postgresql":
        config.setdefault("OPTIONS", {}).setdefault("connect_timeout", 5)
    return config


def _secret_key(reader: Reader, debug: bool, database: dict[str, Any]) -> str:
    """Django's key; with ``DEBUG=1`` generated once and kept beside the SQLite file, so logins survive a restart."""
    key = reader.text("SECRET_KEY")
    if key:
        return key
    if not debug:
        if "SECRET_KEY_FILE" not in reader.variables:
            reader.problems.append("SECRET_KEY: required; make one: openssl rand -base64 48")
        return ""
    if database.get("ENGINE") != "django.db.backends.sqlite3":
        return secrets.token_urlsafe(48)
    path = Path(database["NAME"]).parent / "secret_key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            path.chmod(0o600)
            file.write(secrets.token_urlsafe(48))
    except FileExistsError:
        pass
    except OSError as exc:
        reader.problems.append(f"SECRET_KEY: can't keep a generated one in {path}: {exc.strerror}; set SECRET_KEY")
        return ""
    return path.read_text().strip()


def _allowed_hosts(reader: Reader, debug: bool) -> list[str]:
    hosts = list(reader.words("ALLOWED_HOSTS"))
    if not hosts and debug:
        return ["*"]
    if not hosts:
        reader.problems.append(
            "ALLOWED_HOSTS: required; the names that clients use, comma-separated, for example gateway.example.com"
        )
    return hosts
