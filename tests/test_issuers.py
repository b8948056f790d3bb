"""docs/tokens.md: with the block for an issuer, the gateway takes that issuer's tokens, and not its other ones."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import jwt
import pytest
from django.contrib.auth.models import Group, User
from dotenv import dotenv_values

from gatewaysite.env import read
from relay.identity.errors import InvalidToken
from relay.identity.tokens import Verifier
from relay.settings import RelaySettings
from tests.identity_helpers import private_key, public_pem

DOCUMENT = (Path(__file__).resolve().parent.parent / "docs" / "tokens.md").read_text()
PARTS = re.split(r"^## (.+)\n", DOCUMENT, flags=re.M)
SECTIONS = dict(zip(PARTS[1::2], PARTS[2::2], strict=True))
JWKS_ISSUERS = ["Auth0", "Keycloak", "Amazon Cognito"]


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[title], re.M | re.S)


def settings_of(title: str, directory: Path) -> RelaySettings:
    """What the gateway reads from the section's block."""
    (block,) = blocks(title, "ini")
    variables = {name: value or "" for name, value in dotenv_values(stream=StringIO(block)).items()}
    variables |= {"SECRET_KEY": "0" * 50, "ALLOWED_HOSTS": "app.example.com"}
    return read(variables, directory)[1]


def issuers(title: str, directory: Path) -> tuple[Verifier, dict[str, Any]]:
    """A gateway that has the issuer's key, and the claims of the section's token."""
    settings = settings_of(title, directory)
    assert settings.jwt_jwks_url.startswith(settings.jwt_issuer)
    verifier = Verifier(replace(settings, jwt_jwks_url="", jwt_public_key=public_pem(private_key("RSA"))))
    (claims,) = blocks(title, "json")
    now = int(time.time())
    return verifier, json.loads(claims) | {"iat": now, "exp": now + 60}


def signed(claims: dict[str, Any]) -> str:
    return jwt.encode(claims, private_key("RSA"), algorithm="RS256")


@pytest.mark.parametrize("title", JWKS_ISSUERS)
def test_an_issuers_token_is_good(title: str, tmp_path: Path) -> None:
    """Its user id, email and roles are found where the block says."""
    verifier, claims = issuers(title, tmp_path)
    found = verifier.verify(signed(claims))
    assert (found.user_id, found.email, found.roles) == (claims["sub"], "ada@example.com", ("user", "admin"))


@pytest.mark.parametrize("title", JWKS_ISSUERS)
@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"aud": "another-service"}, id="for another service"),
        pytest.param({"aud": ...}, id="for nobody in particular"),
        pytest.param({"iss": "https://login.example.org/"}, id="of another issuer"),
    ],
)
def test_its_other_tokens_are_not(title: str, other: dict[str, Any], tmp_path: Path) -> None:
    """One key signs for many: the audience tells them apart."""
    verifier, claims = issuers(title, tmp_path)
    with pytest.raises(InvalidToken, match=r"JWT_AUDIENCE|JWT_ISSUER|aud"):
        verifier.verify(signed({name: value for name, value in (claims | other).items() if value is not ...}))


@pytest.mark.django_db
def test_a_token_of_simplejwt_is_good(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the document's serializer and settings, both as they are written; its refresh token is not."""
    relay = settings_of("Django with simplejwt", tmp_path)
    monkeypatch.setenv("JWT_SECRET", relay.jwt_secret)
    serializer, configuration = blocks("Django with simplejwt", "python")
    chosen: dict[str, Any] = {}
    exec("import os\n" + configuration, chosen)
    settings.SIMPLE_JWT = chosen["SIMPLE_JWT"]
    tokens = ModuleType("tokens")
    exec(serializer, tokens.__dict__)

    ada = User.objects.create_user("ada", "ada@example.com")
    ada.groups.add(*[Group.objects.create(name=name) for name in ("admin", "user")])
    refresh = tokens.GatewayTokenSerializer.get_token(ada)
    found = Verifier(relay).verify(str(refresh.access_token))
    assert (found.user_id, found.email, set(found.roles)) == (str(ada.pk), "ada@example.com", {"admin", "user"})
    with pytest.raises(InvalidToken, match="refresh token"):
        Verifier(relay).verify(str(refresh))
