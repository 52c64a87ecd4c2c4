"""A cold move's disks over NBD with TLS, both sides on this machine: what is offered is what comes, byte for byte.

The guest boots from an ISO, so that its root disk lies over nothing, as its ephemeral disk does: the two sides may have
state directories of their own. A root disk over an image is what tests/multi_host moves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import uuid

import pytest
from ansible.module_utils.kumo import backups, disks, extra_disks, incoming, moves, outgoing, tasks
from ansible.module_utils.kumo.server_rows import parse_server
from libvirt_lab import wait_for

ADDRESS = "127.0.0.1"


@pytest.fixture
def certificates(tmp_path, monkeypatch):
    """A CA and one certificate of it, for either end."""
    folder = tmp_path / "pki"
    folder.mkdir()

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl("req", "-x509", *curve, "-subj", "/CN=test", "-keyout", "ca.key", "-out", "ca-cert.pem")
    ends = ["-addext", f"subjectAltName=IP:{ADDRESS}", "-addext", "extendedKeyUsage=serverAuth,clientAuth"]
    request = ["-CA", "ca-cert.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE"]
    openssl("req", "-x509", *curve, *request, *ends, "-subj", "/CN=host", "-keyout", "server-key.pem", "-out",
            "server-cert.pem")  # fmt: skip
    for name in ("key", "cert"):
        (folder / f"client-{name}.pem").write_bytes((folder / f"server-{name}.pem").read_bytes())
    monkeypatch.setattr(outgoing, "CERTIFICATES", str(folder))
    return folder


class Side:
    """One host's state directory with the server's folder, and its part of the move."""

    def __init__(self, directory, server: str, image: str):
        self.document = {"settings": {"state_dir": str(directory), "tunnel_address": ADDRESS, "stop_timeout_s": 1}}
        self.folder = directory / "servers" / server
        self.folder.mkdir(parents=True)
        self.row = {"id": server, "wanted": "present", "image": image, "root_gb": 1, "iso": True,
                    "ephemeral_gb": [1], "swap_mb": 64, "memory_mb": 64}  # fmt: skip

    def parse(self, **order) -> dict:
        return parse_server({**self.row, **order})

    def keep(self, move: dict) -> None:
        kept = {"disk": {"image": self.row["image"], "driver": "raw"}, "move": move}
        (self.folder / "state.json").write_text(json.dumps(kept))

    def read_sums(self) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.folder.glob("disk*")}


@pytest.fixture
def sides(tmp_path, certificates):
    """Where the guest was, with what it wrote, and where it comes to."""
    server, image = str(uuid.uuid4()), str(uuid.uuid4())
    source, dest = (Side(tmp_path / name, server, image) for name in ("source", "dest"))
    disks.run_qemu_img("create", "-q", "-f", "qcow2", str(source.folder / "disk"), "1G")
    extra_disks.apply_extra(source.parse(), source.folder)
    for number, name in enumerate(("disk", "disk.eph0", "disk.swap")):
        write = f"write -P {number + 1} 40M 1M"
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", write, source.folder / name], check=True, capture_output=True)
    yield source, dest
    for side in (source, dest):
        for kind in moves.KINDS:
            with contextlib.suppress(ProcessLookupError):
                tasks.apply_end(side.document, kind, server)


def test_every_disk_of_the_guest_comes_whole(sides):
    source, dest = sides
    migration = str(uuid.uuid4())
    leaving = source.parse(outgoing={"migration": migration, "kind": "cold"})
    source.keep({})
    outgoing.apply_offer(source.document, leaving)
    port = json.loads((source.folder / "state.json").read_text())["move"]["port"]
    offer = {"address": ADDRESS, "port": port, "name": migration}
    coming = dest.parse(incoming={"migration": migration, "kind": "cold", "offer": offer})
    dest.keep(moves.build_move(coming, "in"))
    incoming.apply_receive(dest.document, coming)
    assert tasks.wait(dest.document, moves.RECEIVE, coming["id"], float("inf")) is None
    assert json.loads((dest.folder / "state.json").read_text())["move"]["state"] == "received"
    sent, come = source.read_sums(), dest.read_sums()
    assert set(come) == {"disk", "disk.eph0", "disk.swap"}
    assert {name for name, digest in come.items() if digest == sent[name]} == {"disk", "disk.eph0"}
    made = backups.read_size(dest.folder / "disk.swap")
    assert made == 64 << 20, "swap is made anew"
    assert not list(dest.folder.glob(".*"))

    with pytest.raises(Exception, match="qemu-img info failed"):
        incoming._read_offered_size({**offer, "name": str(uuid.uuid4())}, "disk")
    record = next(iter(tasks.read_tasks(source.document, moves.OFFER).values()))
    tasks.apply_end(source.document, moves.OFFER, leaving["id"])
    wait_for("its process to be gone", lambda: tasks.read_start_ticks(record["pid"]) is None, 10)
    with pytest.raises(Exception, match="qemu-img info failed"):
        incoming._read_offered_size(offer, "disk")


def test_a_disk_of_another_size_is_not_kept(sides):
    source, dest = sides
    source.keep({})
    migration = str(uuid.uuid4())
    leaving = source.parse(outgoing={"migration": migration, "kind": "cold"})
    outgoing.apply_offer(source.document, leaving)
    port = json.loads((source.folder / "state.json").read_text())["move"]["port"]
    dest.row["ephemeral_gb"] = [2]
    offer = {"address": ADDRESS, "port": port, "name": migration}
    coming = dest.parse(incoming={"migration": migration, "kind": "cold", "offer": offer})
    dest.keep(moves.build_move(coming, "in"))
    incoming.apply_receive(dest.document, coming)
    record = tasks.wait(dest.document, moves.RECEIVE, coming["id"], float("inf"))
    assert "the disk.eph0 that came is one of 1073741824 bytes; it has 2147483648" in record["error"]
    assert not (dest.folder / "disk.eph0").exists()


def test_room_for_a_guest_that_comes_alive_is_empty_files_of_its_sizes(sides):
    _, dest = sides
    extra_disks.apply_blank(dest.parse(), dest.folder)
    assert {path.name: backups.read_size(path) for path in dest.folder.glob("disk*")} == {
        "disk.eph0": 1 << 30, "disk.swap": 64 << 20,
    }  # fmt: skip
    assert extra_disks.find_lost(dest.parse(), dest.folder) == []
