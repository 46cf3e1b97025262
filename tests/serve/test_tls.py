from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from raystore.serve.run.deploy import deploy
from raystore.serve.run.proxy import free_port
from raystore.serve.spec.app import AppSpec
from tests.serve.conftest import Served


def self_signed(folder: Path) -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return {"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem")}


@pytest.mark.ray
def test_with_a_certificate_the_service_answers_by_tls_alone(served: Served, ray_session: object, tmp_path: Path) -> None:
    tls = self_signed(tmp_path)
    spec = AppSpec.model_validate({"port": free_port(), "tls": tls, "deployments": {"behind-tls": {"head": "refunds@1"}}})
    running = deploy(served.root, spec, threads=1)
    try:
        assert running.url == f"https://127.0.0.1:{spec.port}"
        trusted = ssl.create_default_context(cafile=tls["certificate"])
        with httpx.Client(base_url=running.url, verify=trusted, timeout=30) as client:
            answer = client.post("/v1/predict/behind-tls", json={"text": "the card never arrived"})
            assert answer.status_code == 200, answer.text
            assert answer.headers["strict-transport-security"].startswith("max-age=")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{running.url}/healthz")  # not by who does not trust it
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{spec.port}/healthz").raise_for_status()
    finally:
        running.stop()
