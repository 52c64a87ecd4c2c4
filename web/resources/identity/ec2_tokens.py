"""Tokens for signed AWS requests: a service shows what it got, and learns whose it is.

Only services may ask (OSSA-2025-002: whoever saw a signed request would have made a token of it), and signatures
expire (security case 29). Source: Identity API reference, "OS-EC2". Next room: `web/signatures.py`.
"""

from __future__ import annotations

import json

from ...auth import REFUSED, issue_token
from ...errors import BadRequest, Unauthorized
from ...fields import OBJECT, field, mapping, nullable, text
from ...http import Context
from ...models import Credential, now
from ...policy import rule
from ...routes import Reply, Route
from ...signatures import check_ec2, check_s3
from . import tokens
from .credentials import find_by_access

_ACCESS = {"access": text(255, 1), "signature": text(1024, 1)}
SIGNED = mapping(
    {
        **_ACCESS,
        "verb": text(16, 1),
        "host": text(512, 1),
        "path": text(4096, 1),
        "params": OBJECT,
        "headers": OBJECT,
        "body_hash": nullable(text(128)),
    },
    ("access", "signature", "verb", "host", "path"),
    extra=True,
)
FIELDS = {"credentials": field(SIGNED, secret=True), "ec2Credentials": field(SIGNED, secret=True)}
S3_FIELDS = {
    "credentials": field(
        mapping({**_ACCESS, "token": text(8192, 1)}, ("access", "signature", "token"), extra=True),
        secret=True,
        required=True,
    )
}


def _find_secret(ctx: Context, access: str) -> tuple[Credential | None, str]:
    """(the row, its secret); a secret that fits nothing where there is no such access key."""
    row = find_by_access(ctx.session, access)
    if row is None:
        return None, ""
    return row, json.loads(ctx.keys.open_text(row.sealed))["secret"]


def _issue(ctx: Context, row: Credential) -> tuple[str, dict]:
    lifetime_s = ctx.settings.identity.token_lifetime_s
    written, token = issue_token(
        ctx.session, ctx.keys, row.user_id, "project", row.project_id, ("ec2credential",), lifetime_s
    )
    return written, {"token": tokens.view(ctx, token)}


def create(ctx: Context) -> Reply:
    """A token of the access key's user for its project, in X-Subject-Token."""
    given = ctx.body.get("credentials") or ctx.body.get("ec2Credentials")
    if given is None:
        raise BadRequest("Invalid input in body: 'credentials' is a required property")
    row, secret = _find_secret(ctx, given["access"])
    if not check_ec2(secret, given, now()) or row is None:
        raise Unauthorized(REFUSED)
    written, body = _issue(ctx, row)
    return Reply(body, 200, {"X-Subject-Token": written, "Vary": "X-Auth-Token"})


def create_s3(ctx: Context) -> Reply:
    """Whose request it is; without a token to use, which an object store has no need of."""
    given = ctx.body["credentials"]
    row, secret = _find_secret(ctx, given["access"])
    if not check_s3(secret, given["token"], given["signature"], now()) or row is None:
        raise Unauthorized(REFUSED)
    return Reply(_issue(ctx, row)[1])


CREATE = rule("identity:ec2_tokens:create", "rule:service")
ROUTES = [
    Route("POST", "/ec2tokens", CREATE, FIELDS, create),
    Route("POST", "/s3tokens", CREATE, S3_FIELDS, create_s3),
]
