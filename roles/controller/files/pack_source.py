#!/usr/bin/python3
"""Pack the checkout into one tar, the same bytes for the same files, and print its SHA-256.

    pack_source.py PROJECT OUTPUT [NAME ...]

What is named, by default what services need and nothing else: no tests, no history; and nothing that Python or
an editor left. Owners, modes and times are made uniform. Next room: install_source.sh, which unpacks it.
"""

import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path

WANTED = (
    "LICENSE",
    "README.md",
    "ansible.cfg",
    "inventories",
    "library",
    "module_utils",
    "playbooks",
    "plugins",
    "pyproject.toml",
    "requirements-client.txt",
    "requirements.txt",
    "roles",
    "scripts",
    "setup.cfg",
    "web",
)
UNWANTED_SUFFIXES = (".pyc", ".pyo", ".swp", ".orig", ".retry", "~")


def read_files(project: Path, wanted: tuple[str, ...] = WANTED) -> list[Path]:
    """Paths of files below the wanted names, relative to ``project``, sorted."""
    found = []
    for name in wanted:
        top = project / name
        if top.is_file():
            found.append(Path(name))
        for folder, folders, files in os.walk(top):
            folders[:] = [f for f in folders if not f.startswith(".") and f != "__pycache__" and "egg-info" not in f]
            found += [
                Path(folder, f).relative_to(project)
                for f in files
                if not f.startswith(".") and not f.endswith(UNWANTED_SUFFIXES)
            ]
    return sorted(found)


def build_tar(project: Path, files: list[Path]) -> bytes:
    """The tar of ``files``; a symbolic link that leads out of the project is refused."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in files:
            source = project / path
            if not source.resolve().is_relative_to(project):
                sys.exit(f"{source} leads out of {project}; it is not packed")
            data = source.read_bytes()
            entry = tarfile.TarInfo(str(path))
            entry.size = len(data)
            entry.mode = 0o755 if os.access(source, os.X_OK) and data[:2] == b"#!" else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def main() -> None:
    """Write the tar only where its bytes differ from what is there."""
    project, output = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    packed = build_tar(project, read_files(project, tuple(sys.argv[3:]) or WANTED))
    if not output.is_file() or output.read_bytes() != packed:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_name(f"{output.name}.{os.getpid()}")
        partial.write_bytes(packed)
        partial.replace(output)
    print(hashlib.sha256(packed).hexdigest())


if __name__ == "__main__":
    main()
