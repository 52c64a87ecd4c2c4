"""What was built from what: the description beside the image, and whether it is still true.

Owns: kumo-guest.json, the hash over everything the image depends on, and the cheap test that apt's
lists have not moved since. May not: build or download. Next room: ../build_guest_image.py.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .packages import Package, read_sha256

APT_STATE = ("/etc/apt", "/var/lib/apt/lists")
PROBE_FILES = ("probe/vmlinuz", "probe/initrd")


def read_apt_state(places: tuple[str, ...] = APT_STATE) -> str:
    """A hash over names, sizes and times of apt's lists and settings: unchanged, apt would answer the same."""
    digest = hashlib.sha256()
    for place in places:
        for path in sorted(Path(place).rglob("*")):
            if path.is_file() and path.name != "lock":
                found = path.stat()
                digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def read_source_hash(source: Path, settings: dict) -> str:
    """One SHA-256 over the builder's own files and its settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in sorted(source.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(source)}\0{read_sha256(path)}\n".encode())
    return digest.hexdigest()


def build_input_hash(source_hash: str, resolved: list[Package]) -> str:
    """One SHA-256 over everything the image depends on: our files and settings, and the packages' checksums."""
    lines = [source_hash, *(f"{package.name} {package.sha256}" for package in resolved)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_description(output: Path, name: str) -> dict:
    """The description of the last whole build, or {}."""
    try:
        found = json.loads((output / f"{name}.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_complete(output: Path, description: dict) -> bool:
    """Whether all files the description speaks of are there, in their size."""
    if not all((output / place).is_file() for place in PROBE_FILES):
        return False
    if "file" not in description:
        return bool(description)
    image = output / description["file"]
    return image.is_file() and image.stat().st_size == description.get("size")


def store_description(output: Path, name: str, description: dict) -> None:
    """Write the description in one step."""
    partial = output / f".{name}.json.partial"
    partial.write_text(json.dumps(description, indent=2) + "\n")
    partial.chmod(0o644)
    partial.replace(output / f"{name}.json")
