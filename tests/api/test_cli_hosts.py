"""`kumo host add|prepare|enable|disable`: hosts made known and changed, each as often as one likes."""

from __future__ import annotations

import pytest
import yaml
from sqlalchemy import select

from web.cli import build_parser
from web.commands.host_changes import build_inventory, plan_host
from web.models import Host
from web.reconcile.run import build_connection


@pytest.fixture
def kumo(cloud, tmp_path, capsys):
    """A function: the words of a command → (exit status, standard output, standard error)."""
    from web.cli import main

    config = tmp_path / "kumo.conf"
    config.write_text(
        f"[kumo]\nstate_dir = {cloud.settings.kumo.state_dir}\nrun_dir = {tmp_path}\nlog_dir =\n"
        f"[database]\nurl = {cloud.settings.database.url}\n[identity]\nkey_dir = {cloud.settings.identity.key_dir}\n"
        f"[worker]\nansible_playbook = {tmp_path}/playbook\n[policy]\nfile =\n"
    )

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["--config", str(config), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def read(cloud, name) -> Host:
    with cloud.database.read() as session:
        return session.scalar(select(Host).where(Host.name == name))


def test_a_host_is_added_once_and_changed_by_saying_so_again(cloud, kumo, tmp_path):
    own = tmp_path / "own.yml"
    own.write_text("tunnel_address: 10.1.0.2\nstorage: {backend: file, portal: '10.1.0.2:3260'}\n")
    words = ["host", "add", "node2", "--role", "storage", "--role", "hypervisor", "--address", "192.0.2.12"]
    code, out, err = kumo(*words, "--settings", str(own), "--zone", "z1")
    assert (code, err) == (0, "")
    assert "next: kumo host prepare node2" in out
    host = read(cloud, "node2")
    assert host.roles == ["hypervisor", "storage"]
    assert host.zone == "z1"
    assert host.settings["storage"]["portal"] == "10.1.0.2:3260"
    assert host.connection == {
        "ansible_host": "192.0.2.12",
        "ansible_user": "kumo",
        "ansible_ssh_private_key_file": "/etc/kumo/ssh/id_ed25519",
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    # What is not said again stays.
    assert kumo(*words)[1] == "host node2 is unchanged\n"
    assert read(cloud, "node2").generation == host.generation
    assert kumo(*words[:-1], "192.0.2.13")[1] == "changed connection of host node2\n"
    changed = read(cloud, "node2")
    assert changed.connection["ansible_host"] == "192.0.2.13"
    assert (changed.zone, changed.settings) == (host.zone, host.settings)
    assert changed.generation == host.generation + 1
    assert "hypervisor,storage" in kumo("host", "list")[1]


def test_disable_and_enable_say_what_they_did(cloud, kumo):
    kumo("host", "add", "node3", "--role", "hypervisor", "--address", "192.0.2.14")
    assert kumo("host", "disable", "node3", "--reason", "new disks")[1] == "host node3 is disabled\n"
    assert (read(cloud, "node3").enabled, read(cloud, "node3").disabled_reason) == (False, "new disks")
    assert kumo("host", "disable", "node3", "--reason", "new disks")[1] == "host node3 is disabled already\n"
    assert yaml.safe_load(kumo("host", "show", "node3")[1])["disabled_reason"] == "new disks"
    assert kumo("host", "enable", "node3")[1] == "host node3 is enabled\n"
    assert (read(cloud, "node3").enabled, read(cloud, "node3").disabled_reason) == (True, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "x", "--role", "storage"], "--address ADDRESS, or --local"),
        (["add", "x", "--role", "storage", "--local", "--address", "a"], "--address ADDRESS, or --local"),
        (["enable", "nosuch"], "`kumo host add` makes one known"),
        (["disable", "nosuch", "--reason", "r"], "no host 'nosuch'"),
        (["prepare", "nosuch"], "kumo host add nosuch"),
    ],
)
def test_mistakes_say_what_to_do(kumo, words, said):
    code, _, err = kumo("host", *words)
    assert code == 1
    assert said in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("storage: {backend: ceph, portal: x}", "storage"),
        ("shell: id", "shell"),
        ("a: [", "no YAML"),
        ("[]", "settings"),
    ],
)
def test_wrong_settings_name_the_field_and_change_nothing(cloud, kumo, tmp_path, text, said):
    (tmp_path / "own.yml").write_text(text)
    code, _, err = kumo(
        "host", "add", "x", "--role", "storage", "--address", "a", "--settings", str(tmp_path / "own.yml")
    )
    assert code == 1
    assert said in err
    assert read(cloud, "x") is None


def test_prepare_runs_the_play_as_the_operator_and_dirties_the_host(cloud, kumo, tmp_path):
    """A stand-in for ansible-playbook keeps what it was given: its words and its inventory."""
    (tmp_path / "playbook").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/words\ncp "$2" {tmp_path}/seen.yml\n')
    (tmp_path / "playbook").chmod(0o755)
    kumo("host", "add", "node4", "--role", "hypervisor", "--address", "192.0.2.15")
    before = read(cloud, "node4").generation
    code, out, _ = kumo("host", "prepare", "node4", "--user", "admin", "--ask-become-pass")
    assert code == 0
    assert "preparing node4 as admin" in out
    words = (tmp_path / "words").read_text()
    assert "--limit node4 --ask-become-pass" in words
    assert words.strip().endswith("playbooks/prepare_host.yml")
    seen = yaml.safe_load((tmp_path / "seen.yml").read_text())["all"]
    assert seen["hosts"]["node4"]["ansible_user"] == "admin"  # not the account kumo, which may do nothing here
    assert seen["hosts"]["node4"]["ansible_host"] == "192.0.2.15"
    assert seen["hosts"]["node4"]["kumo_settings"]["physical_networks"]["public"]["bridge"] == "kumo-public"
    places = seen["children"]["controllers"]["vars"]["controller_settings"]
    assert places["api"] == {"hosts_url": cloud.settings.api.hosts_url}
    assert seen["children"]["hypervisors"] == {"hosts": {"node4": {}}}
    assert read(cloud, "node4").generation == before + 1
    (tmp_path / "playbook").write_text("#!/bin/sh\nexit 2\n")
    code, _, err = kumo("host", "prepare", "node4")
    assert code == 1
    assert "not prepared" in err


def test_each_action_has_help(capsys):
    for action in ("add", "prepare", "list", "show", "enable", "disable"):
        with pytest.raises(SystemExit) as ended:
            build_parser().parse_args(["host", action, "--help"])
        assert ended.value.code == 0
        assert f"usage: kumo host {action}" in capsys.readouterr().out


def test_hosts_over_ssh_are_known_by_collected_keys_only(cloud):
    arguments = build_connection(cloud.settings, {"ansible_host": "192.0.2.1"})["ansible_ssh_common_args"]
    assert "StrictHostKeyChecking=yes" in arguments
    assert "UserKnownHostsFile=/etc/kumo/ssh/known_hosts" in arguments
    local = {"ansible_connection": "local"}
    assert build_connection(cloud.settings, local) == local
    own = {"ansible_host": "a", "ansible_ssh_common_args": "-o ProxyJump=b"}
    assert build_connection(cloud.settings, own) == {**own, "ansible_host_key_checking": True}


def test_plan_host_leaves_what_is_not_said():
    assert plan_host({"zone": "a", "settings": {"x": 1}}, {"zone": "b", "settings": None}) == {"zone": "b"}


def test_this_machine_is_its_own_controller():
    made = build_inventory("here", ["hypervisor"], {"ansible_connection": "local"}, {}, None)["all"]
    assert made["children"]["controllers"] == {"hosts": {"here": {}}}
