"""A guest's config drive: what the metadata service would tell it, as an ISO 9660 file system labelled config-2.

Owns ``servers/<id>/disk.config`` and ``.config.sha256`` beside it. Written before a guest starts, and anew at a later
start where what it holds has changed; never while the guest runs. What is in it may be secret: the files are root's
(and, while the guest runs, QEMU's), and nothing of them is in an argument, a diff or an error. Next rooms:
``metadata_answers.py``, which says what a guest is told; ``guests.py``, which starts it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from . import device_tags, files, guest_hardware, metadata, metadata_answers
from .errors import KumoError

LABEL = "config-2"
ISO_DEADLINE_S = 30
EC2_FOLDERS = ("2009-04-04", "latest")


def build_content(document: dict, row: dict, places: dict | None = None) -> dict:
    """All that the drive of a server (its row of the document) says; KumoError names what of it is wrong."""
    injected = row.get("injected") or {}
    given = injected.get("files") or []
    content = metadata.build_content(document, row, places)
    content["files"] = [
        {"content_path": f"/content/{number:04}", "path": one["path"]} for number, one in enumerate(given)
    ]
    content["admin_pass"] = injected.get("admin_pass")
    content["contents"] = [one["contents"] for one in given]
    return content


def build_tree(content: dict) -> dict[str, bytes]:
    """{path on the drive: bytes}."""
    tree: dict[str, bytes] = {}
    for version in metadata_answers.build_openstack(content, []).split("\n"):
        for name in metadata_answers.build_openstack(content, [version]).split("\n"):
            tree[f"openstack/{version}/{name}"] = _encode(metadata_answers.build_openstack(content, [version, name]))
    for number, text in enumerate(content["contents"]):
        try:
            tree[f"openstack/content/{number:04}"] = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise KumoError(f"file {number} of the config drive is no base64") from None
    for folder in EC2_FOLDERS:
        tree[f"ec2/{folder}/meta-data.json"] = json.dumps(_build_ec2(content)).encode()
        if content["metadata"].get("user_data"):
            tree[f"ec2/{folder}/user-data"] = metadata_answers.decode_user_data(content)
    return tree


def _build_ec2(content: dict) -> dict:
    """EC2's tree, with the keys' names as this file format has them."""
    tree = metadata_answers.build_ec2_tree(content)
    for number, key in tree.get("public-keys", {}).items():
        key["_name"] = f"{number}={key.pop('')}"
    return tree


def _encode(body: str | bytes) -> bytes:
    return body if isinstance(body, bytes) else body.encode()


def apply_drive(document: dict, server: dict, directory: Path) -> None:
    """The drive of a server that is about to start, made where it is missing or says something old."""
    if not server["config_drive"]:
        return
    row = next(row for row in document["servers"] if row["id"] == server["id"])
    tagged = device_tags.list_tagged(document, row)
    content = build_content(document, row, device_tags.read_places_of(row["id"]) if tagged else None)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path, mark = directory / guest_hardware.CONFIG_DRIVE, directory / ".config.sha256"
    if path.exists() and files.read_text(mark).strip() == digest:
        return
    folder, part = directory / ".config-drive", directory / ".disk.config.part"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        for name, body in build_tree(content).items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(body)
        _run_mkisofs(folder, part)
        os.chmod(part, 0o600)
        mark.unlink(missing_ok=True)
        os.replace(part, path)
        files.apply_text(mark, digest + "\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        part.unlink(missing_ok=True)


def _run_mkisofs(folder: Path, target: Path) -> None:
    # Made for root alone from its first byte on.
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"):
        pass
    command = ["genisoimage", "-quiet", "-J", "-R", "-V", LABEL, "-o", str(target), str(folder)]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
            timeout=ISO_DEADLINE_S,
        )  # fmt: skip
    except FileNotFoundError:
        raise KumoError("genisoimage is not installed on this host; the role hypervisor installs it") from None
    except subprocess.TimeoutExpired:
        raise KumoError(f"genisoimage took longer than {ISO_DEADLINE_S} s") from None
    if ended.returncode:
        raise KumoError(f"genisoimage failed: {ended.stderr.strip()[:500]}")
