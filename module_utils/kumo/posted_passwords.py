"""The password that a guest has posted to the metadata service, encrypted with its owner's public key.

The daemon ``kumo_metadata.py`` writes ``servers/<id>/posted_password.<number>``, the number being the document's
``posted_password.cleared``; here it is read, told as ``observed.posted_passwords`` until the document has it, and
removed once that number is higher. The text is in no diff and no message. ``plan_`` is pure. Next rooms:
``servers.py``, ``metadata.py``.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from .core import state_path
from .errors import KumoError
from .metadata_answers import PASSWORD_BYTES, PASSWORD_FILE, parse_password


def parse_wanted(row: dict) -> dict:
    """{cleared, text} of a server's row of the document; KumoError where it is something else."""
    wanted = row.get("posted_password") or {}
    cleared, text = wanted.get("cleared", 0), wanted.get("text", "")
    if type(cleared) is not int or cleared < 0 or not isinstance(text, str) or len(text) > PASSWORD_BYTES:
        raise KumoError(f"server {row['id']}: posted_password must be {{cleared: a number, text: a short text}}")
    return {"cleared": cleared, "text": text}


def build_path(document: dict, server_id: str, cleared: int) -> Path:
    """Where the daemon keeps what was posted after so many clearings."""
    return state_path(document, "servers", server_id, f"{PASSWORD_FILE}{cleared}")


def read_posted(document: dict, server_id: str) -> dict[str, str]:
    """{number of clearings, as text: what the guest posted after them}."""
    found = {}
    for path in state_path(document, "servers", server_id).glob(f"{PASSWORD_FILE}*"):
        number = path.name.removeprefix(PASSWORD_FILE)
        with contextlib.suppress(FileNotFoundError, ValueError):
            found[str(int(number))] = parse_password(path.read_bytes())
    return found


def plan_forget(server: dict, posted: dict[str, str]) -> list[tuple]:
    """The verb that removes what its user has cleared since."""
    old = sorted(int(number) for number in posted if int(number) < server["posted_password"]["cleared"])
    return [("forget_password", {"numbers": old}, "the password that the guest has posted\n", "")] if old else []


def apply_forget(document: dict, server: dict, numbers: list[int]) -> None:
    """Remove it; one that the guest has posted since is another file."""
    for number in numbers:
        build_path(document, server["id"], number).unlink(missing_ok=True)


def report_posted(row: dict, posted: dict[str, str]) -> dict | None:
    """{cleared, text} that the API does not have yet."""
    try:
        wanted = parse_wanted(row)
    except KumoError:
        return None
    text = posted.get(str(wanted["cleared"]))
    return {"cleared": wanted["cleared"], "text": text} if text and not wanted["text"] else None


VERBS = {"forget_password": apply_forget}
