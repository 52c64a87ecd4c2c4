"""What users ask of a real guest once: its figures, and a new password by the agent in it; and tagged devices' places.

Every assertion looks with virsh, a file, or the guest's own console.
"""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import pytest
from ansible.module_utils.kumo import device_tags, guest_password
from libvirt_lab import Host, Serial, virsh, wait_for
from test_power_states import BOOT_S, Terminal
from test_servers import verbs

OLD, NEW = "gocubsgo", "Canary-77 \"$'\\/é"


@pytest.fixture
def host(libvirt_host, guest_image, state_dir, bridge):
    host = Host(state_dir, bridge)
    host.server |= {"hardware": {"guest_agent": True}, "ephemeral_gb": [1]}
    host.server["disk_tags"] = {"root": "system", "ephemeral0": "scratch"}
    host.document["ports"][0]["tag"] = "lan"
    yield host
    virsh("managedsave-remove", host.name)


def ask_password(host, number: int, password: str = NEW, user: str = "cirros") -> dict | None:
    """The answer to an order for a new password."""
    result = host.call(password={"wanted": number, "user": user, "password": password})
    assert password not in json.dumps(result)
    return host.seen(result)["password"]


def is_agent_connected(host) -> bool:
    shown = virsh("dumpxml", host.name).stdout
    return bool(re.search(r"<target type='virtio' name='org.qemu.guest_agent.0' state='connected'", shown))


def try_login(terminal: Terminal, password: str) -> str:
    """The first words that a console says to user and password: a prompt, or that they are wrong."""
    since = len(terminal.read())
    terminal.type(b"cirros\n")
    terminal.expect("assword:", since)
    since = len(terminal.read())
    terminal.type(password.encode() + b"\n")
    return terminal.expect(r"\$ |incorrect", since)[0]


def test_figures_of_a_guest(host):
    """As virsh has them; no answer's figures where it is off; asked once more they have grown."""
    host.call()
    host.wait_for_login()
    first = host.seen(host.call(diagnostics={"wanted": 1}))["diagnostics"]
    assert first["seq"] == 1
    figures = first["figures"]
    assert (figures["hypervisor"], figures["num_cpus"], figures["memory_mb"]) == ("qemu", 1, 96)
    assert figures["uptime_s"] > 0
    assert figures["memory"]["rss"] > 0
    assert [disk["device"] for disk in figures["disks"]] == ["vda", "vdb"]
    assert figures["disks"][0]["read_bytes"] > 1 << 20
    told = dict(re.findall(r"vda (\w+) (\d+)", virsh("domblkstat", host.name, "vda").stdout))
    assert int(told["rd_bytes"]) >= figures["disks"][0]["read_bytes"]
    [nic] = figures["nics"]
    assert nic["mac"] == host.document["ports"][0]["mac"]
    assert nic["tx_packets"] >= 0
    [cpu] = figures["cpus"]
    assert (cpu["id"], 0 <= cpu["utilisation"] <= 100) == (0, True)
    second = host.seen(host.call(diagnostics={"wanted": 2}))["diagnostics"]
    assert second["seq"] == 2
    assert second["figures"]["cpus"][0]["time_ns"] > cpu["time_ns"]
    host.server["diagnostics"] = None
    assert host.seen(host.call())["diagnostics"] is None
    off = host.settle(power="off", stop={"graceful": False}, diagnostics={"wanted": 3})
    assert host.seen(off)["diagnostics"] == {"seq": 3, "figures": None}


def test_a_guest_that_boots_is_waited_for(host, monkeypatch):
    """No answer, and nothing done, until its agent listens; then the order is carried out. Later none is waited for."""
    host.call()
    result = host.call(password={"wanted": 1, "user": "cirros", "password": NEW})
    assert not is_agent_connected(host)
    assert (result["pending"], host.seen(result)["password"], verbs(result)) == (True, None, [])
    settled = host.settle(guest_password.BOOT_S)
    assert host.seen(settled)["password"] == {"seq": 1, "error": None}
    assert is_agent_connected(host)
    host.wait_for_login()
    host.server |= {"console": None, "password": None}
    host.settle(power="off", stop={"graceful": False})
    monkeypatch.setattr(guest_password, "BOOT_S", 0)
    host.call(power="on", start={"wanted": 1})
    answer = ask_password(host, 2)
    assert answer["seq"] == 2
    assert "agent does not answer" in answer["error"], "it has not booted"
    assert host.state() == "running"
    assert verbs(host.call()) == [], "told once"


def test_the_agent_sets_a_password(host):
    """By the console; the old one is none any more. It is in no file of the host."""
    host.call()
    wait_for("the agent to listen", lambda: is_agent_connected(host), BOOT_S)
    host.wait_for_login()
    host.server["console"] = None
    assert ask_password(host, 2) == {"seq": 2, "error": None}
    assert verbs(host.call()) == []
    refused = ask_password(host, 3, user="nobody-here")
    assert "refused" in refused["error"]
    assert "no such user" in refused["error"]
    terminal = Terminal(host)
    terminal.stream = Serial(host.name)
    try:
        terminal.type(b"\n")
        assert try_login(terminal, OLD) == "incorrect"
        terminal.expect("login:", len(terminal.read()) - 20)
        assert try_login(terminal, NEW) == "$ "
    finally:
        terminal.close()
    for path in [*host.state_dir.rglob("*.json"), *Path("/var/log/libvirt/qemu").glob(f"{host.name}*")]:
        assert NEW not in path.read_text(errors="replace"), path
    host.server["password"] = None
    off = host.settle(power="off", stop={"graceful": False})
    assert host.seen(off)["password"] is None
    assert ask_password(host, 4) == {"seq": 4, "error": "the guest does not run"}


def test_what_a_guest_posted_is_told_and_forgotten(host):
    """As the metadata daemon leaves it; the document has it then, and once it is cleared no file has it any more."""
    host.server["power"] = "off"
    host.call()
    path = host.directory / "posted_password.0"
    path.write_text("Canary-c2VjcmV0")
    result = host.call()
    assert result["observed"]["posted_passwords"] == {host.id: {"cleared": 0, "text": "Canary-c2VjcmV0"}}
    assert verbs(result) == []
    known = host.call(posted_password={"cleared": 0, "text": "Canary-c2VjcmV0"})
    assert (known["observed"]["posted_passwords"], verbs(known), path.exists()) == ({}, [], True)
    cleared = {"cleared": 1, "text": ""}
    plan = host.call(check_mode=True, posted_password=cleared)
    assert (verbs(plan), path.exists()) == (["forget_password"], True)
    assert "Canary" not in str(plan)
    result = host.call(posted_password=cleared)
    assert (verbs(result), path.exists()) == (["forget_password"], False)
    assert result["observed"]["posted_passwords"] == {}
    assert verbs(host.call()) == []


def test_a_guest_without_a_channel_says_so(host):
    host.server["hardware"] = {}
    host.call()
    answer = ask_password(host, 1, password=str(uuid.uuid4()))
    assert "hw_qemu_guest_agent" in answer["error"]
    assert host.state() == "running"


def test_places_of_tagged_devices(host):
    """A PCI address each, as the guest's own kernel has it."""
    host.call()
    document = host.document
    places = device_tags.read_places(document)
    devices = device_tags.build_devices(document, host.server, places[host.id])
    assert [(one["type"], one["tags"]) for one in devices] == [
        ("nic", ["lan"]),
        ("disk", ["scratch"]),
        ("disk", ["system"]),
    ]
    assert {one["bus"] for one in devices} == {"pci"}
    assert len({one["address"] for one in devices}) == 3
    terminal = Terminal(host)
    terminal.log_in(0)
    try:
        for device, path in ((devices[2], "/sys/block/vda"), (devices[0], "/sys/class/net/eth0/device")):
            assert device["address"] in terminal.run(f"readlink -f {path}")
        assert devices[0]["mac"] in terminal.run("cat /sys/class/net/eth0/address")
    finally:
        terminal.close()
