"""What users write is data: templates, markup and secrets go through the whole loop as they are, or not at all."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import openstack as sdk
import pytest
from client import find_remains, wait_for

TEMPLATE = "{{ 7*7 }}"
HOSTILE = TEMPLATE + " <b>&\"'; $(id) `id` 雲 {% raw %}"
CANARY = "canary-7f3a9c"


@pytest.fixture(scope="module")
def seen_in_proc():
    """Every command line and environment that held the canary while the tests ran."""
    found: set[str] = set()
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            for name in ("cmdline", "environ"):
                for path in Path("/proc").glob(f"[0-9]*/{name}"):
                    with contextlib.suppress(OSError):
                        if CANARY.encode() in path.read_bytes():
                            found.add(f"{path}: {path.parent.joinpath('comm').read_text().strip()}")
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    yield found
    stop.set()
    thread.join()


@pytest.fixture(scope="module")
def server(seen_in_proc):
    """A server whose every text is hostile and whose user data is a secret."""
    cloud = sdk.connect(cloud="kumo")
    made = cloud.compute.create_server(
        name=HOSTILE,
        image_id=cloud.image.find_image("kumo-guest", ignore_missing=False).id,
        flavor_id=cloud.compute.find_flavor("m1.nano", ignore_missing=False).id,
        networks=[{"uuid": cloud.network.find_network("private", ignore_missing=False).id}],
        metadata={"template": TEMPLATE, "lines": "a\nb", "long": "ü" * 127},
        user_data=base64.b64encode(f"#!/bin/sh\n# {CANARY}\n".encode()).decode(),
    )
    yield cloud.compute.wait_for_server(made, wait=90)
    ports = [port.id for port in cloud.network.ports(device_id=made.id)]
    cloud.compute.delete_server(made.id)
    wait_for("nothing left", lambda: not find_remains(made.id, ports), 60)


def read_metadata(server_id: str) -> str:
    """What the daemon serves the server: the same for each of its addresses."""
    texts = [path.read_text() for path in Path("/var/lib/kumo/host/metadata").rglob("*.json")]
    found = [text for text in texts if server_id in text]
    assert found
    return found[0]


def test_s35_s36_every_text_arrives_as_it_was_written(server):
    assert server.name == HOSTILE
    text = read_metadata(server.id)
    for value in (HOSTILE, TEMPLATE, "a\nb", "ü" * 127):
        assert value in text or json.dumps(value)[1:-1] in text or json.dumps(value, ensure_ascii=False)[1:-1] in text
    xml = subprocess.run(
        ["virsh", "-c", "qemu:///system", "dumpxml", f"kumo-{server.id}"], capture_output=True, text=True, check=True
    ).stdout
    ElementTree.fromstring(xml)
    for place in (xml, text):
        assert " 49" not in place


def test_s37_secrets_are_in_no_log_run_or_process(server, seen_in_proc):
    wait_for("no run under way", lambda: not list(Path("/var/lib/kumo/runs").glob("run-*")), 30)
    encoded = base64.b64encode(f"#!/bin/sh\n# {CANARY}\n".encode()).decode()
    for folder in ("/var/log/kumo", "/var/lib/kumo/runs", "/var/log/libvirt"):
        for path in Path(folder).rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert CANARY.encode() not in content, path
                assert encoded.encode() not in content, path
    assert not seen_in_proc
