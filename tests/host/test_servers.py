"""Guests on this machine, through the whole path of a call: every assertion looks with virsh, ip or a file."""

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from ansible.module_utils.kumo import core, libvirt_connection, names
from libvirt_lab import IMAGE, ROOT, Host, Serial, virsh, wait_for


@pytest.fixture
def host(libvirt_host, guest_image, state_dir, bridge):
    return Host(state_dir, bridge)


def verbs(result: dict) -> list[str]:
    return [action["verb"] for action in result["actions"]]


def test_create_twice_then_delete_twice(host):
    """Check mode says what apply does; the second run plans nothing; so does the second delete."""
    planned = host.try_call(check_mode=True)
    assert verbs(planned) == ["fetch", "create", "start"]
    assert not host.directory.exists()
    created = host.call()
    assert verbs(created) == ["fetch", "create", "start"]
    assert created["changed"]
    assert not created["pending"]
    assert host.state() == "running"
    again = host.call()
    assert verbs(again) == []
    assert not again["changed"]
    assert host.seen(again)["state"] == "running"
    assert again["observed"]["ports"] == {host.port: {"state": "active"}}
    tap = json.loads(subprocess.check_output(["ip", "-j", "-d", "link", "show", names.build_tap_name(host.port)]))[0]
    assert tap["master"] == names.build_bridge_name(host.document["networks"][0]["id"])
    assert tap["mtu"] == 1442
    assert "c2VjcmV0" not in json.dumps([created, again])
    assert oct((host.state_dir / "images" / IMAGE).stat().st_mode & 0o777) == "0o444"
    assert verbs(host.call(wanted="absent")) == ["remove"]
    assert virsh("domstate", host.name).returncode != 0
    assert not host.directory.exists()
    gone = host.call()
    assert verbs(gone) == []
    assert gone["observed"]["servers"] == {}


def test_life_of_a_guest_that_boots(host):
    """Console text, soft reboot, a guest that shuts itself down and stays down, start on request, graceful stop."""
    host.call()
    host.wait_for_login()
    assert "login:" in host.console()
    one = host.seen(host.call(console={"wanted": 8, "lines": 1}))["console"]
    assert one["seq"] == 8
    assert len(one["text"].splitlines()) == 1
    host.call(console=None)

    before = host.qemu_pid()
    rebooted = host.settle(reboot={"wanted": 1, "type": "SOFT"})
    assert host.seen(rebooted)["reboot_done"] == 1
    assert host.qemu_pid() != before
    assert verbs(host.call()) == []
    host.wait_for_login(count=2)

    _log_in_and_power_off(host)
    wait_for("the guest has shut itself down", lambda: host.state() == "shut off", seconds=60)
    seen = host.call()
    assert verbs(seen) == ["record"]
    assert (host.seen(seen)["state"], host.seen(seen)["reason"]) == ("shutoff", "shutdown")
    assert verbs(host.call()) == []
    assert host.state() == "shut off"

    assert verbs(host.call(start={"wanted": 1})) == ["start"]
    assert host.state() == "running"
    host.wait_for_login(count=3)
    stopped = host.settle(power="off")
    assert host.state() == "shut off"
    assert host.seen(stopped)["reason"] == "shutdown"
    assert verbs(host.call()) == []
    assert verbs(host.call(power="on")) == ["start"]
    assert verbs(host.call()) == []


def _log_in_and_power_off(host):
    """Type on the guest's serial console, as its user would."""
    with Serial(host.name) as stream:
        stream.write(b"\n")
        for prompt, line in (("login:", b"cirros\n"), ("assword:", b"gocubsgo\n"), ("$", b"sudo poweroff\n")):
            wait_for(f"the prompt {prompt}", lambda prompt=prompt: prompt in host.console().splitlines()[-1], 30)
            stream.write(line)


def test_qemu_killed_and_power_cut(host):
    """A guest whose QEMU died is started again; a hard reboot is a new QEMU; power off without grace is at once."""
    host.call()
    first = host.qemu_pid()
    os.kill(first, signal.SIGKILL)
    wait_for("libvirt has seen the death", lambda: host.state() == "shut off")
    assert verbs(host.call()) == ["start"]
    second = host.qemu_pid()
    assert second != first
    assert verbs(host.call(reboot={"wanted": 4, "type": "HARD"})) == ["reboot_hard"]
    assert host.qemu_pid() != second
    assert verbs(host.call()) == []
    assert verbs(host.call(power="off", stop={"graceful": False})) == ["destroy"]
    assert host.state() == "shut off"
    assert verbs(host.call()) == []


def test_a_deaf_guest_is_cut_off_after_the_deadline(host):
    """A guest that ignores the power button holds no call for long, and is off after stop_timeout_s."""
    host.document["settings"]["stop_timeout_s"] = 6
    host.call()  # still in its firmware: nobody there to hear the button
    first = host.call(power="off")
    assert first["pending"]
    assert host.seen(first)["stop_pending"]
    assert host.seen(host.settle(seconds=20))["state"] == "shutoff"
    assert verbs(host.call()) == []


def test_a_hung_guest_is_cut_off_and_holds_nobody_up(host):
    """A QEMU that answers nothing is read and stopped within the deadline that a call gives an object."""
    host.document["settings"]["stop_timeout_s"] = 2
    host.call()
    pid = host.qemu_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        for changes in ({}, {"power": "off"}):
            begun = time.monotonic()
            assert host.call(**changes)["pending"] == bool(changes)
            assert time.monotonic() - begun < core.GROUP_DEADLINE_S
        assert host.seen(host.settle())["state"] == "shutoff"
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)


def test_half_made_guests_are_finished_or_removed(host):
    """Whatever step a killed run stopped at, the next one goes on from there, and delete works from it too."""
    host.call(power="off")
    virsh("undefine", host.name)
    assert verbs(host.call()) == ["create"]
    (host.directory / "state.json").unlink()
    assert verbs(host.call()) == ["create"]
    assert verbs(host.call()) == []
    virsh("undefine", host.name)
    assert verbs(host.call(wanted="absent")) == ["remove"]
    assert not host.directory.exists()


def test_a_lost_disk_is_told_and_never_made_anew(host):
    """An empty disk in place of a lost one would hide the loss."""
    host.call(power="off")
    (host.directory / "disk").unlink()
    error = host.try_call(power="on")["objects"]["servers"][host.id]["error"]
    assert "disk" in error
    assert "gone" in error
    assert not (host.directory / "disk").exists()


def test_a_lost_folder_is_told_and_nothing_is_made_in_its_place(host):
    """As after a boot without the file system that it is on."""
    host.call(power="off")
    away = host.directory.with_name("away")
    host.directory.rename(away)
    for _ in range(2):
        assert "gone" in host.try_call(power="on")["objects"]["servers"][host.id]["error"]
        assert not (host.directory / "disk").exists()
    shutil.rmtree(host.directory, ignore_errors=True)
    away.rename(host.directory)
    assert "start" in verbs(host.call(power="on"))


def test_changes_are_taken_up_and_foreign_guests_left_alone(host):
    """More memory is a new definition; a domain the document does not know is reported, never touched."""
    host.call(power="off")
    changed = host.call(memory_mb=128)
    assert verbs(changed) == ["redefine"]
    assert "131072" in changed["diff"][0]["after"]
    assert "131072" in virsh("dumpxml", host.name).stdout
    assert verbs(host.call()) == []
    servers, host.document["servers"] = host.document["servers"], []
    orphaned = core.run_sections(host.document, ("servers",))
    assert orphaned["actions"] == []
    assert host.name.removeprefix(names.PREFIX) in orphaned["observed"]["orphans"]["domains"]
    assert orphaned["observed"]["orphans"]["disks"] == [host.id]
    assert virsh("domstate", host.name).returncode == 0
    host.document["servers"] = servers


def test_ports_come_and_go_on_a_running_guest(host):
    """A port added to the document is plugged in, its link follows admin_state_up, and it is let go again."""
    host.call()
    host.wait_for_login()
    host.call(console=None)
    second = str(uuid.uuid4())
    network = host.document["networks"][0]["id"]
    row = {"id": second, "network": network, "server": host.id, "mac": "fa:16:3e:00:00:77"}
    host.document["ports"].append(row)
    assert verbs(host.call(ports=[host.port, second])) == ["redefine", "attach_port"]
    assert verbs(host.call()) == []
    assert Path("/sys/class/net", names.build_tap_name(second)).exists()
    row["admin_state_up"] = False
    assert verbs(host.call()) == ["redefine", "update_port"]
    assert verbs(host.call()) == []
    assert verbs(host.call(ports=[host.port])) == ["redefine", "detach_port"]
    wait_for("the tap is gone", lambda: not Path("/sys/class/net", names.build_tap_name(second)).exists(), 30)
    assert verbs(host.call()) == []
    seen = host.call()["observed"]["ports"]  # the second is still among the document's, for its firewall
    assert {key: port["state"] for key, port in seen.items()} == {host.port: "active", second: "down"}


def test_one_bad_server_does_not_stop_another(host):
    """Beside a server with a bad field, and one on a network without a bridge, the good one starts."""
    bad, lost, port = str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4())
    host.document["networks"].append({"id": str(uuid.uuid4())})
    host.document["ports"].append(
        {"id": port, "network": host.document["networks"][1]["id"], "server": lost, "mac": "fa:16:3e:00:00:78"}
    )
    host.document["servers"] += [
        {**host.server, "id": bad, "memory_mb": -1, "ports": []},
        {**host.server, "id": lost, "ports": [port]},
    ]
    results = host.call()["objects"]["servers"]
    assert "memory_mb" in results[bad]["error"]
    assert "cannot be started" in results[lost]["error"]
    assert host.state() == "running"


def test_s07_image_larger_than_the_flavor(host):
    """Refused before a disk is made (OSSA-2013-012)."""
    raw = host.state_dir / "big.raw"
    with open(raw, "wb") as stream:
        stream.truncate(2 << 30)
    digest = subprocess.check_output(["sha256sum", raw], text=True).split()[0]
    other = str(uuid.uuid4())
    host.document["images"].append(
        {"id": other, "checksum": f"sha256:{digest}", "disk_format": "raw", "source": {"path": str(raw)}}
    )
    result = host.try_call(image=other)
    while result["pending"]:
        time.sleep(0.5)
        result = host.try_call()
    assert "allows 1 GiB" in result["objects"]["servers"][host.id]["error"]
    assert not (host.directory / "disk").exists()


def test_modules_run_by_ansible(host, tmp_path):
    """kumo_images and kumo_domains as an operator runs them: check and diff, then for real, then no change."""
    play = [
        {
            "name": "Guests of a document",
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {"document": host.document},
            "tasks": [
                {"name": "Fetch images", "kumo_images": {"document": "{{ document }}"}},
                {"name": "Bring about guests", "kumo_domains": {"document": "{{ document }}"}},
            ],
        }
    ]
    (tmp_path / "play.json").write_text(json.dumps(play))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    environment |= {"ANSIBLE_LIBRARY": str(ROOT / "library"), "ANSIBLE_MODULE_UTILS": str(ROOT / "module_utils")}
    command = [str(ROOT / ".venv/bin/ansible-playbook"), "-i", "localhost,", "-c", "local", "-vv"]
    command += ["-e", "ansible_python_interpreter=/usr/bin/python3", str(tmp_path / "play.json")]

    def run(*arguments):
        ended = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "c2VjcmV0" not in ended.stdout
        return ended.stdout

    assert "create" in run("--check", "--diff")
    assert not host.directory.exists()
    run()
    assert host.state() == "running"
    assert "changed=0" in run()


def test_a_guest_that_goes_while_it_is_looked_at(host, monkeypatch):
    """Two runs may look at once (`kumo plan` beside the worker's): what one of them deletes is gone for the other."""
    host.call()
    read = libvirt_connection.read_xml

    def read_and_lose(domain, inactive):
        text = read(domain, inactive)
        virsh("destroy", host.name)
        virsh("undefine", host.name)
        return text

    monkeypatch.setattr(libvirt_connection, "read_xml", read_and_lose)
    planned = host.call(check_mode=True)
    assert [action["verb"] for action in planned["actions"] if action["section"] == "servers"] != []
