"""What a person would do in Kumo's place, on this machine: a guest by `virsh create`, a playbook with one module.

Needs root. Next room: `servers.py`, which holds Kumo's servers against it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
import uuid
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from .cloud import BEGUN, call, wait_for_line

VIRSH = ("virsh", "-q", "-c", "qemu:///system")
STATE = Path("/var/lib/kumo")
ANSIBLE = Path("/opt/kumo/venv/bin/ansible-playbook")


def build_twin(text: str, disk: Path, console: Path) -> str:
    """The XML of a transient copy of a guest: a name, UUID, address and disk of its own, on the same bridge."""
    tree = ElementTree.fromstring(text)
    tree.find("name").text = f"bench-{uuid.uuid4().hex[:8]}"
    tree.find("uuid").text = str(uuid.uuid4())
    metadata = tree.find("metadata")
    if metadata is not None:  # it says that the guest is Kumo's
        tree.remove(metadata)
    for interface in tree.iter("interface"):
        interface.find("mac").set("address", "52:54:00:00:be:0c")
        target = interface.find("target")
        if target is not None:
            interface.remove(target)
    place = next(tree.iter("disk"))
    place.find("source").set("file", str(disk))
    backing = place.find("backingStore")
    if backing is not None:  # libvirt looks itself
        place.remove(backing)
    for serial in [*tree.iter("serial"), *tree.iter("console")]:
        for part in serial.findall("log"):
            part.set("file", str(console))
    return ElementTree.tostring(tree, encoding="unicode")


class Model:
    """A server's guest, as libvirt has it, of which twins are made."""

    def __init__(self, server_id: str):
        self.text = call(*VIRSH, "dumpxml", "--inactive", f"kumo-{server_id}")
        source = next(ElementTree.fromstring(self.text).iter("disk")).find("source").get("file")
        seen = json.loads(call("qemu-img", "info", "-U", "-f", "qcow2", "--output", "json", source))
        self.backing, self.size = seen["backing-filename"], seen["virtual-size"]

    def measure(self) -> tuple[float, float]:
        """Seconds of `virsh create`, and from its start to the first word of the guest's own init; ended afterwards."""
        with tempfile.TemporaryDirectory(prefix="bench-", dir=STATE) as name:
            folder = Path(name)
            os.chmod(folder, 0o711)
            disk, console, xml = folder / "disk", folder / "console.log", folder / "twin.xml"
            call(
                "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", self.backing, str(disk), str(self.size)
            )
            os.chmod(disk, 0o666)
            xml.write_text(build_twin(self.text, disk, console))
            domain = ElementTree.parse(xml).getroot().find("name").text
            try:
                started = time.perf_counter()
                call(*VIRSH, "create", str(xml))
                created = time.perf_counter() - started
                wait_for_line(console, BEGUN)
                return created, time.perf_counter() - started
            finally:
                with contextlib.suppress(subprocess.CalledProcessError):
                    call(*VIRSH, "destroy", domain)


PLAY = "- hosts: all\n  gather_facts: false\n  become: true\n  tasks:\n    - ansible.builtin.ping:\n"


def run_playbook() -> None:
    """A playbook that calls one module on this machine, by the cloud's own Ansible."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        playbook = Path(folder) / "ping.yml"
        playbook.write_text(PLAY)
        interpreter = ("-e", "ansible_python_interpreter=/usr/bin/python3")
        call(str(ANSIBLE), "-i", "localhost,", "-c", "local", *interpreter, str(playbook), cwd=folder)
