"""Who may come in and how, as it stands in the file: TLS, tokens of an identity provider, rates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from raystore.access import Rates as Rates  # a key may have its own, so they are defined there
from raystore.access import Verb
from raystore.serve.spec.base import Strict

# Never 'none', and never HMAC: a public key would be its secret.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
Claim = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Tls(Strict):
    """PEM files; the private key is read by the service alone."""

    certificate: Path = Field(description="A PEM file, with the chain.")
    key: Path = Field(description="A PEM file.")

    @field_validator("certificate", "key")
    @classmethod
    def _is_absolute(cls, value: Path) -> Path:
        return value.absolute()  # replicas have another working folder


class Oidc(Strict):
    """Tokens (JWT) of an identity provider, beside the store's own keys. Only the algorithms named here are believed."""

    issuer: str = Field(min_length=1, description="What the tokens' iss has to be.")
    audience: str = Field(min_length=1, description="What the tokens' aud has to name.")
    jwks: str = Field(min_length=1, description="https:// address of its public keys, or a file.")
    algorithms: list[Algorithm] = Field(default=["RS256"], min_length=1, description="No other is believed.")
    # Claims inside of claims are named with dots: realm_access.roles. A claim whose own name has dots is found first.
    name: Claim = Field(default="sub", description="The claim that says who it is.")
    roles: Claim = Field(default="roles", description="The claim whose value, or values, are looked up in verbs.")
    verbs: dict[Claim, list[Verb]] = Field(min_length=1, description="What each role may do.")
    leeway_s: float = Field(default=30, ge=0, le=300, description="By how much clocks may differ.")

    @field_validator("jwks")
    @classmethod
    def _is_https_or_a_file(cls, value: str) -> str:
        if "://" in value and not value.startswith("https://"):
            raise ValueError("expected an https:// address or a file: who can change the keys on their way can make tokens")
        return value if "://" in value else str(Path(value).absolute())  # replicas have another working folder
