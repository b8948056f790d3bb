"""The demo's environment: its own settings, database and secrets, independent of the shell and of any `.env`."""

import os
import secrets
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PORT = 8000
"""The gateway's port, unless the variable PORT sets another."""
UNSET = (
    "ALLOWED_ORIGINS",
    "JWT_AUDIENCE",
    "JWT_ISSUER",
    "JWT_JWKS_URL",
    "JWT_LEEWAY",
    "JWT_PREVIOUS_SECRET",
    "JWT_PREVIOUS_UNTIL",
    "JWT_PUBLIC_KEY",
    "JWT_SECRET",
    "MAIN_SERVICE_URL",
    "METRICS_TOKEN",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "RATE_LIMIT",
    "REDIS_URL",
    "SECRET_KEY",
    "TRUSTED_PROXIES",
)
"""Settings that the demo leaves unset; an empty value overrides an `.env`."""


def folder(port: int) -> Path:
    """Return the folder for the database and secrets of the demo on that port; removing it resets the demo.

    Each port has its own: two demos in one checkout would overwrite each other's backends.
    """
    usual = ROOT / "data" / "demo"
    data = Path(os.environ.get("DEMO_DATA") or (usual if port == PORT else usual / str(port)))
    data.mkdir(parents=True, exist_ok=True)
    return data


def kept(path: Path, size: int) -> str:
    """Return the secret in a file; the first time, create it from `size` random bytes, readable only by this user."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(size))
    return path.read_text()


def enter(port: int) -> Path:
    """Set this process's environment for the demo on that port; return the demo's folder."""
    data = folder(port)
    kept(data / "jwt-secret", 32)
    own = dict.fromkeys(UNSET, "") | {
        "DEBUG": "1",
        "DEMO": "1",
        "ALLOWED_HOSTS": "127.0.0.1,localhost,.localhost",
        "DATABASE_URL": f"sqlite:///{data}/gateway.sqlite3",
        "JWT_ALGORITHMS": "HS256",
        "JWT_COOKIE": "auth_token",
        "JWT_QUERY_PARAM": "token",
        "JWT_USER_ID_CLAIM": "user_id",
        "JWT_EMAIL_CLAIM": "email",
        "JWT_ROLE_CLAIM": "role",
        "DJANGO_SETTINGS_MODULE": "gatewaysite.settings",
    }
    os.environ.update({f"{name}_FILE": "" for name in own})
    os.environ.update(own, JWT_SECRET_FILE=str(data / "jwt-secret"))
    os.environ.setdefault("DRAIN_SECONDS", "3")
    return data
