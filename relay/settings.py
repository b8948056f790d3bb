"""The relay's settings, read once from the environment (`gatewaysite.env`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from relay.routing.snapshot import Rate


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """The relay's settings. Times are in seconds; each default is the value of a variable that is not set."""

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
    traces: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)  # OTEL_… as the SDK reads them

    @property
    def token_names(self) -> tuple[str, str]:
        """The cookie and the query parameter that may carry a token; empty where that place is off."""
        return self.jwt_cookie, self.jwt_query_param
