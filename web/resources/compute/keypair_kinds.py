"""Kinds of key pairs: ssh keys, and certificates (x509) by which one logs in to Windows guests. Pure.

Source: Compute API reference, "Create Or Import Keypair" (``type``, since 2.2). Next room: `keypairs.py`.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from ...errors import BadRequest

USER_PRINCIPAL_NAME = ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
VALID_DAYS = 3650
UTF8_STRING = 12  # ASN.1's tag


def build_fingerprint(kind: str, public_key: str) -> str:
    """In colons: MD5 of an ssh key's bytes, SHA-1 of a certificate; BadRequest where it is none of the kind."""
    try:
        if kind == "x509":
            digest = x509.load_pem_x509_certificate(public_key.strip().encode()).fingerprint(hashes.SHA1()).hex()
        else:
            serialization.load_ssh_public_key(public_key.strip().encode())
            digest = hashlib.md5(base64.b64decode(public_key.split()[1]), usedforsecurity=False).hexdigest()
    except (ValueError, UnsupportedAlgorithm, IndexError) as error:
        raise BadRequest(f"Invalid input for field/attribute public_key: Keypair data is invalid: {error}") from None
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def generate(kind: str, user_id: str) -> tuple[str, str]:
    """(private PEM, public half) of a new RSA key: an ssh key's line, or a certificate of the user's own in PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    layout = serialization.PrivateFormat.PKCS8 if kind == "x509" else serialization.PrivateFormat.TraditionalOpenSSL
    private = key.private_bytes(serialization.Encoding.PEM, layout, serialization.NoEncryption()).decode()
    if kind == "x509":
        return private, _certify(key, user_id)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, f"{public.decode()} Generated-by-Kumo"


def _certify(key: rsa.RSAPrivateKey, user_id: str) -> str:
    """A certificate for the login of a client, as WinRM wants it: with the user's principal name."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user_id[:64])])
    principal = f"{user_id[:64]}@localhost".encode()
    other = x509.OtherName(USER_PRINCIPAL_NAME, bytes([UTF8_STRING, len(principal)]) + principal)
    begin = datetime.now(UTC) - timedelta(minutes=5)  # clocks differ
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=VALID_DAYS))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([other]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()
