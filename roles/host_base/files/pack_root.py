#!/usr/bin/python3
"""Pack what runs as root on a host into one tar, the same bytes for the same files: pack_root.py PROJECT

Prints the tar's path and its SHA-256. In it: the helper (`kumo_root.py`, `policy.py`, `schema.py`),
`module_utils/kumo` as the package `kumo`, the document's schema, and `manifest.json`, by which helper and
modules know that they are of the same source. Next room: install_root.sh, which unpacks it.
"""

import hashlib
import importlib.util
import io
import json
import os
import sys
import tarfile
import tempfile
from pathlib import Path


def read_files(project: Path) -> dict:
    """{name in the tar: bytes}."""
    helper, package = project / "roles/host_base/files/root_helper", project / "module_utils/kumo"
    found = {path.name: path.read_bytes() for path in sorted(helper.glob("*.py"))}
    manifest = {}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        found[f"kumo/{name}"] = path.read_bytes()
        manifest[name] = hashlib.sha256(found[f"kumo/{name}"]).hexdigest()
    sys.dont_write_bytecode = True
    spec = importlib.util.spec_from_file_location("document", project / "web/desired/document.py")
    document = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(document)
    found["document.json"] = json.dumps(document.SCHEMA, sort_keys=True).encode()
    found["manifest.json"] = json.dumps(manifest, sort_keys=True).encode()
    return found


def build_tar(files: dict) -> bytes:
    """The tar of ``files``, root's, with uniform times."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o755 if name == "kumo_root.py" else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def choose_output(project: Path) -> Path:
    """Beside the checkout's other made files; in the operator's own cache where the checkout is not his."""
    if os.access(project, os.W_OK):
        return project / ".cache" / "root.tar"
    return Path.home() / ".cache" / "kumo" / "root.tar"


def main() -> None:
    """Write the tar only where its bytes differ from what is there."""
    project = Path(sys.argv[1]).resolve()
    output = Path(sys.argv[2]) if len(sys.argv) > 2 else choose_output(project)
    packed = build_tar(read_files(project))
    if not output.is_file() or output.read_bytes() != packed:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=output.parent, prefix=".root.", delete=False) as stream:
            stream.write(packed)
        os.replace(stream.name, output)
    print(output, hashlib.sha256(packed).hexdigest())


if __name__ == "__main__":
    main()
