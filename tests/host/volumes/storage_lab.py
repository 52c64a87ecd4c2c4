"""A storage host for tests: its own state directory, its own tgtd on a port of loopback.

The backend is that of KUMO_TEST_STORAGE (JSON, of the document's settings.storage), else `file`.
"""

import contextlib
import json
import os
import socket
import subprocess
import time
import uuid
from pathlib import Path

GIB = 1 << 30
MIB = 1 << 20
STORAGE = json.loads(os.environ.get("KUMO_TEST_STORAGE", '{"backend": "file"}'))
PATIENCE_S = 400  # a whole kernel under emulation takes its time, on a busy machine a hundredfold


def build_id() -> str:
    return str(uuid.uuid4())


@contextlib.contextmanager
def running_tgtd():
    """(control port, "127.0.0.1:port") of a tgtd that ends with the block."""
    # Another one of this very process (a session's fixture, say) has a number of its own.
    numbers = range(1000 + os.getpid() % 30000, 40000)
    control = next(number for number in numbers if not Path(f"/var/run/tgtd/socket.{number}").exists())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        portal = f"127.0.0.1:{probe.getsockname()[1]}"
    command = ["tgtd", "-f", "-C", str(control), "--iscsi", f"portal={portal}"]
    Path("/var/run/tgtd").mkdir(exist_ok=True)
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while not (Path(f"/var/run/tgtd/socket.{control}").exists() and _answers(portal)) and time.monotonic() < until:
            time.sleep(0.02)
        yield control, portal
    finally:
        started.kill()
        started.wait()
        for name in (f"socket.{control}", f"socket.{control}.lock"):
            Path("/var/run/tgtd", name).unlink(missing_ok=True)


def _answers(portal: str) -> bool:
    address, port = portal.split(":")
    try:
        socket.create_connection((address, int(port)), 1).close()
    except OSError:
        return False
    return True


def build_document(state_dir, control: int, portal: str, **lists) -> dict:
    """A document of a host that keeps volumes and nothing else."""
    storage = {**STORAGE, "portal": portal, "control_port": control}
    settings = {"state_dir": str(state_dir), "hypervisor": False, "storage": storage}
    return {"version": 1, "host": "test", "settings": settings, **lists}


def build_export(attachment: str, **more) -> dict:
    return {
        "id": attachment,
        "username": attachment.replace("-", ""),
        "password": f"pw{uuid.uuid4().hex[:14]}",
        "read_only": False,
        **more,
    }


def build_volume(volume_id: str | None = None, size_gb: int = 1, exports=(), source=None, wanted="present") -> dict:
    return {
        "id": volume_id or build_id(),
        "project_id": "p",
        "wanted": wanted,
        "size_gb": size_gb,
        "source": source,
        "exports": list(exports),
    }


def apply(document: dict) -> dict:
    """Run the document's sections until nothing is under way; the last result."""
    from ansible.module_utils.kumo import core, volume_backend_lvm

    core.GROUP_DEADLINE_S = volume_backend_lvm.COMMAND_S = PATIENCE_S
    until = time.monotonic() + PATIENCE_S
    while True:
        result = core.run_sections(document)
        if not result["pending"] or time.monotonic() > until:
            return result
        time.sleep(0.1)


def qemu_io(tmp_path, portal: str, export: dict, *commands: str, password=None, user=None) -> tuple[int, str]:
    """What QEMU's own initiator says to commands of qemu-io on an export: (exit status, text)."""
    secret = tmp_path / "secret"
    secret.write_text(password or export["password"])
    options = (
        f"driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={portal},file.lun=1,"
        f"file.target=iqn.2026-11.cloud.kumo:{export['id']},file.user={user or export['username']},"
        f"file.password-secret=s"
    )
    reading = [] if any(command.startswith("write") for command in commands) else ["-r"]
    words = [word for command in commands for word in ("-c", command)]
    ended = subprocess.run(
        ["qemu-io", *reading, "--object", f"secret,id=s,file={secret}", "--image-opts", options, *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    return ended.returncode, ended.stdout + ended.stderr


def read_contents(document: dict) -> dict:
    """What the backend itself says it has."""
    from ansible.module_utils.kumo import volumes

    storage = volumes.parse_storage(document)
    return volumes.BACKENDS[storage["backend"]].read_contents(storage)


def open_volume(document: dict, volume_id: str) -> Path:
    """The file or device of a volume, for a test that writes to it as tgtd does."""
    from ansible.module_utils.kumo import volumes

    storage = volumes.parse_storage(document)
    return volumes.BACKENDS[storage["backend"]].apply_open(storage, "volume", volume_id)


def fill(path: Path, byte: int, size: int) -> None:
    """Write ``size`` bytes of one kind from the beginning, and wait until they are down."""
    block = bytes([byte]) * MIB
    with open(path, "r+b") as stream:
        for _ in range(size // MIB):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
