"""`Idempotency-Key`: a request that is sent again is answered as it was the first time, and done once.

The answer is stored by the transaction that does the work, so there is never one without the other; of two at the
same time one waits for the other's end. A refused request stores nothing, and may be tried again under its key. Keys
are a user's own in a project. Source of the header: IETF draft-ietf-httpapi-idempotency-key-header; another request
under a used key is a 409 here. Next room: `http.py`, which calls this.
"""

from __future__ import annotations

import hashlib
import json
import re

from cryptography.fernet import InvalidToken

from .errors import BadRequest, Conflict
from .models import IdempotentAnswer
from .routes import Reply

HEADER = "Idempotency-Key"
KEY = re.compile(r"[\x21-\x7e]{1,255}")
KEPT_HEADERS = ("Content-Type", "Location")
SEALED = b"answer:"  # never to be taken for a token, which the same keys seal


def read_key(headers) -> str | None:
    """The request's key, also where it stands in quotes; None where it has none. BadRequest where it is none."""
    given = headers.get(HEADER)
    if given is None:
        return None
    key = given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given
    if not KEY.fullmatch(key):
        raise BadRequest(f"Invalid input in header {HEADER}: 1 to 255 printable characters without blanks are needed")
    return key


def build_digest(method: str, path: str, query: bytes, version, body) -> str:
    """What makes two requests the same: all that the answer depends on; the body by its meaning, not its spelling."""
    asked = [method, path, query.decode("latin-1"), str(version), body]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _build_id(context, key: str) -> tuple[str, str, str]:
    return context.token.user_id, context.token.project_id or "", key


def find_answer(context, key: str, digest: str) -> Reply | None:
    """The answer that was given under the key; None where there was none, Conflict where it was another request's."""
    row = context.session.get(IdempotentAnswer, _build_id(context, key))
    if row is None:
        return None
    if row.digest != digest:
        raise Conflict(f"{HEADER} {key} was used for another request ({row.request}); use a new key for this one.")
    try:
        body = context.keys.fernet.decrypt(row.body.encode()).removeprefix(SEALED)
    except InvalidToken:
        raise Conflict(f"What was answered under {HEADER} {key} can no longer be read; use a new key.") from None
    headers = {name: value for name, value in row.headers if name != "Content-Type"}
    kind = next((value for name, value in row.headers if name == "Content-Type"), "application/json")
    return Reply(body or None, row.status, {**headers, "Idempotency-Replayed": "true"}, kind)


def store_answer(context, key: str, digest: str, method: str, response) -> None:
    """Keep a response in the request's own transaction."""
    user_id, project_id, _ = _build_id(context, key)
    headers = [[name, response.headers[name]] for name in KEPT_HEADERS if name in response.headers]
    body = context.keys.fernet.encrypt(SEALED + response.get_data()).decode()
    context.session.add(
        IdempotentAnswer(
            user_id=user_id,
            project_id=project_id,
            key=key,
            digest=digest,
            request=f"{method} {context.path[:2000]}",
            status=response.status_code,
            headers=headers,
            body=body,
        )
    )
