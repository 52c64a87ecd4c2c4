"""`kumo serve` as a process: one address with prefixes, a subset, each service at its own port, TLS."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from web.models import now

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kumo test")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - timedelta(hours=1))
        .not_valid_after(now() + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def start(cloud, tmp_path):
    """A function that serves the cloud's database in a process of its own: (options, words, port to wait for)."""
    processes = []

    def run(api: dict, *words: str, port: int) -> None:
        config = tmp_path / "kumo.conf"
        lines = [f"{name} = {value}" for name, value in {"workers": 1, "threads": 2, **api}.items()]
        config.write_text(
            f"[kumo]\nstate_dir = {cloud.settings.kumo.state_dir}\nrun_dir = {tmp_path}\nlog_dir =\n"
            f"[database]\nurl = {cloud.settings.database.url}\n"
            f"[identity]\nkey_dir = {cloud.settings.identity.key_dir}\n[policy]\nfile =\n[api]\n"
            + "\n".join(lines)
            + "\n"
        )
        command = [sys.executable, "-m", "web.cli", "--config", str(config), "serve", *words]
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        processes.append(process)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.1)
        raise AssertionError(process.stderr.read().decode()[-2000:])

    yield run
    for process in processes:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def fetch(port: int, path: str, context: ssl.SSLContext | None = None, token: str | None = None) -> tuple[int, dict]:
    kind = http.client.HTTPSConnection if context else http.client.HTTPConnection
    options = {"context": context} if context else {}
    connection = kind("127.0.0.1", port, timeout=20, **options)
    connection.request("GET", path, headers={"X-Auth-Token": token} if token else {})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read() or b"{}")


def test_one_address_with_prefixes(start, cloud):
    port = free_port()
    start({"listen": f"127.0.0.1:{port}"}, port=port)
    assert fetch(port, "/identity/v3")[0] == 200
    status, body = fetch(port, "/compute/v2.1/flavors", token=cloud.login("demo"))
    assert status == 200
    assert body["flavors"][0]["links"][0]["href"].startswith(f"http://127.0.0.1:{port}/compute/")


def test_a_subset_serves_nothing_else(start, cloud):
    port = free_port()
    start({"listen": f"127.0.0.1:{port}"}, "--services", "identity,image", port=port)
    token = cloud.login("demo")
    assert fetch(port, "/image/v2/images", token=token)[0] == 200
    assert fetch(port, "/compute/v2.1/servers", token=token)[0] == 404


def test_each_service_at_its_own_port(start, cloud):
    start({"listen": "127.0.0.1:6780", "separate_ports": "true"}, "--services", "identity", port=5000)
    assert fetch(5000, "/v3")[0] == 200


def test_tls(start, tmp_path):
    certificate, key = make_certificate(tmp_path)
    port = free_port()
    start({"listen": f"127.0.0.1:{port}", "tls_cert": certificate, "tls_key": key}, port=port)
    status, body = fetch(port, "/identity/v3", ssl.create_default_context(cafile=str(certificate)))
    assert status == 200
    assert body["version"]["links"][0]["href"].startswith("https://")


def test_an_unknown_service_is_named(cloud, tmp_path):
    config = tmp_path / "kumo.conf"
    config.write_text(f"[identity]\nkey_dir = {cloud.settings.identity.key_dir}\n")
    done = subprocess.run(
        [sys.executable, "-m", "web.cli", "--config", str(config), "serve", "--services", "identity,nosuch"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "nosuch" in done.stderr
    assert "Traceback" not in done.stderr
