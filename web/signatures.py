"""Signatures of AWS requests, checked: versions 2 and 4, and S3's; one-time passwords (RFC 6238).

Pure. Sources: AWS General Reference, "Signature Version 4 signing process" and "Signature Version 2"; Amazon S3,
"REST authentication"; RFC 4226 and 6238. Next room: `resources/identity/ec2_tokens.py`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import quote

TOLERANCE = timedelta(minutes=15)
ALGORITHM = "AWS4-HMAC-SHA256"
STEP_S = 30  # of one-time passwords


def _sign(key: bytes, text: str, digest=hashlib.sha256) -> bytes:
    return hmac.new(key, text.encode(), digest).digest()


def _same(one: str, other: object) -> bool:
    return isinstance(other, str) and hmac.compare_digest(one.encode(), other.encode())


def _build_query(params: dict, but: str) -> str:
    def escape(value) -> str:
        return quote(str(value), safe="-_.~")

    pairs = sorted((escape(name), escape(value)) for name, value in params.items() if name != but)
    return "&".join(f"{name}={value}" for name, value in pairs)


def _parse_moment(text: str) -> datetime | None:
    """ISO 8601 in both of its forms, or a date as HTTP has it; None where it is neither."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = parse(text)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, TypeError):
            continue
    return None


def _is_fresh(text: str | None, at: datetime) -> bool:
    moment = _parse_moment(text or "")
    return moment is not None and abs(at - moment) <= TOLERANCE


def _build_hosts(host: str) -> list[str]:
    """The host as given and, for clients that sign it so, without its port."""
    return list(dict.fromkeys((host, re.sub(r":\d+$", "", host))))


def check_ec2(secret: str, given: dict, at: datetime) -> bool:
    """Whether the request that ``given`` describes was signed with the secret, lately.

    ``given`` has access, signature, verb, host, path, params, and for version 4 headers and body_hash.
    """
    params, headers = given.get("params") or {}, {k.lower(): v for k, v in (given.get("headers") or {}).items()}
    authorization = str(headers.get("authorization", ""))
    if params.get("X-Amz-Algorithm") == ALGORITHM or authorization.startswith(ALGORITHM):
        return _check_v4(secret, given, params, headers, authorization, at)
    return _check_v2(secret, given, params, at)


def _check_v2(secret: str, given: dict, params: dict, at: datetime) -> bool:
    digest = {"HmacSHA256": hashlib.sha256, "HmacSHA1": hashlib.sha1}.get(params.get("SignatureMethod"))
    if str(params.get("SignatureVersion")) != "2" or digest is None or params.get("AWSAccessKeyId") != given["access"]:
        return False
    if "Expires" in params:
        moment = _parse_moment(str(params["Expires"]))
        if moment is None or moment < at:
            return False
    elif not _is_fresh(params.get("Timestamp"), at):
        return False
    query = _build_query(params, but="Signature")
    texts = [f"{given['verb']}\n{host.lower()}\n{given['path']}\n{query}" for host in _build_hosts(given["host"])]
    signatures = [base64.b64encode(_sign(secret.encode(), text, digest)).decode() for text in texts]
    return any(_same(one, given["signature"]) for one in signatures)


def _check_v4(secret: str, given: dict, params: dict, headers: dict, authorization: str, at: datetime) -> bool:
    said = dict(re.findall(r"(Credential|SignedHeaders)=([^,\s]+)", authorization))
    scope = str(params.get("X-Amz-Credential") or said.get("Credential", "")).split("/")
    names = str(params.get("X-Amz-SignedHeaders") or said.get("SignedHeaders", "")).lower()
    date = str(params.get("X-Amz-Date") or headers.get("x-amz-date", ""))
    if len(scope) != 5 or scope[0] != given["access"] or not date.startswith(scope[1]) or len(scope[1]) != 8:
        return False
    if "host" not in names.split(";"):
        return False
    expires = str(params.get("X-Amz-Expires", ""))
    if expires.isdigit() and len(expires) < 8:
        moment = _parse_moment(date)
        if moment is None or not moment - TOLERANCE <= at <= moment + timedelta(seconds=int(expires)):
            return False
    elif not _is_fresh(date, at):
        return False
    query = "" if given["verb"].upper() == "POST" else _build_query(params, but="X-Amz-Signature")
    key = b"AWS4" + secret.encode()
    for part in scope[1:]:
        key = _sign(key, part)
    found = []
    for host in _build_hosts(str(headers.get("host") or given["host"])):
        values = {**headers, "host": host}
        told = "".join(f"{name}:{' '.join(str(values.get(name, '')).split())}\n" for name in names.split(";"))
        request = "\n".join([given["verb"], given["path"], query, told, names, given.get("body_hash") or ""])
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = "\n".join([ALGORITHM, date, "/".join(scope[1:]), digest])
        found.append(_sign(key, text).hex())
    return any(_same(one, given["signature"]) for one in found)


def check_s3(secret: str, text: str, signature: str, at: datetime) -> bool:
    """Whether an S3 request's string to sign (as base64) was signed with the secret, lately."""
    try:
        plain = base64.urlsafe_b64decode(text.replace("+", "-").replace("/", "_")).decode()
    except (binascii.Error, ValueError):
        return False
    lines = plain.split("\n")
    if lines[0] == ALGORITHM:
        if len(lines) != 4 or not _is_fresh(lines[1], at):
            return False
        scope = lines[2].split("/")
        if len(scope) != 4 or not lines[1].startswith(scope[0]):
            return False
        key = b"AWS4" + secret.encode()
        for part in scope:
            key = _sign(key, part)
        return _same(_sign(key, plain).hex(), signature)
    named = [line.partition(":")[2] for line in lines if line.startswith("x-amz-date:")]
    date = (named or lines[3:4] or [""])[0]
    fresh = int(date) >= at.timestamp() if date.isdigit() and len(date) < 12 else _is_fresh(date, at)
    return _same(base64.b64encode(_sign(secret.encode(), plain, hashlib.sha1)).decode(), signature) and fresh


def find_counter(seed: str, passcode: str, at: datetime) -> int | None:
    """The time step, this one or the one before, whose one-time password it is; None where it is neither's."""
    try:
        key = base64.b32decode(seed.strip().upper() + "=" * (-len(seed.strip()) % 8))
    except (binascii.Error, ValueError):
        return None
    newest = int(at.timestamp()) // STEP_S
    fitting = [counter for counter in (newest - 1, newest) if _same(_build_passcode(key, counter), passcode)]
    return fitting[-1] if fitting else None


def _build_passcode(key: bytes, counter: int) -> str:
    digest = hmac.new(key, counter.to_bytes(8, "big"), hashlib.sha1).digest()
    offset = digest[-1] & 15
    return f"{(int.from_bytes(digest[offset : offset + 4], 'big') & 0x7FFFFFFF) % 1000000:06d}"
