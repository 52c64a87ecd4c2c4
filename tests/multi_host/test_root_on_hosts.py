"""Whoever holds the cloud's key on the controller is not root on its hosts: the account kumo may start one helper."""

from __future__ import annotations

import json
import shlex

import pytest
import yaml

HELPER = "/usr/local/lib/kumo/root/kumo_root.py"
KEY = "/etc/kumo/ssh/id_ed25519"


class HostVars(yaml.SafeLoader):
    """YAML as Ansible reads it, its `!unsafe` texts as plain ones."""


HostVars.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))


def as_worker(lab, host: str, command: str, **options) -> str:
    """A command on a host by the way that the worker goes: its key, its known_hosts, from the controller."""
    words = [
        "ssh", "-F", "/dev/null", "-i", KEY, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
        "-o", "LogLevel=ERROR", "-o", "UserKnownHostsFile=/etc/kumo/ssh/known_hosts",
        f"kumo@{lab.hosts[host].address}", command,
    ]  # fmt: skip
    return lab.run(lab.controller, shlex.join(words), user="kumo", **options)


@pytest.fixture(params=["hypervisors", "storage"])
def host(lab, request) -> str:
    return lab.groups[request.param][0]


def test_the_worker_comes_as_an_account_of_its_own(lab, host):
    assert as_worker(lab, host, "id -un; id -Gn").split() == ["kumo", "kumo"]


@pytest.mark.parametrize(
    "command",
    [
        "sudo -n true",
        "sudo -n /bin/sh -c id",
        "sudo -n python3 -c pass",
        "sudo -n -u admin true",
        "sudo -n virsh list",
        f"sudo -n SUDO_ASKPASS=/bin/true PYTHONPATH=/tmp {HELPER} probe",
        f"sudo -n python3 {HELPER} probe",
        f"sudo -n {HELPER}.bak",
        "su -c id root </dev/null",
        "cat /etc/shadow",
        "virsh -c qemu:///system list",
        "echo 'kumo ALL=(ALL) NOPASSWD: ALL' >>/etc/sudoers.d/kumo",
        f"echo pass >>{HELPER}",
        "mv /usr/local/lib/kumo/root /usr/local/lib/kumo/root.mine",
        "mv /etc/kumo/root.d /etc/kumo/mine",
        "echo 'commands = shell' >/etc/kumo/root.d/mine.conf",
        "echo ssh-ed25519 AAAA >>/etc/kumo/authorized_keys",
        "rm -rf /var/lib/kumo/host",
        "mv /var/lib/kumo/host /var/lib/kumo/mine",
    ],
)
def test_what_the_account_may_not(lab, host, command):
    look = (
        "sha256sum /etc/sudoers.d/* /etc/kumo/authorized_keys;"
        # Runs go on meanwhile, and write in the last: its time changes.
        " ls -lR /etc/kumo /usr/local/lib/kumo; stat -c '%n %F %U %G %a %i' /var/lib/kumo/host"
    )
    before = lab.run(host, look, root=True)
    as_worker(lab, host, f"if {command}; then echo DONE; exit 0; else exit 9; fi", code=9)
    assert lab.run(host, look, root=True) == before


def test_sudoers_has_one_line_for_the_account(lab, host):
    lines = lab.run(host, "sudo -l -U kumo", root=True).split("may run the following commands")[1].splitlines()[1:]
    assert [line.strip() for line in lines if line.strip()] == [f"(root) NOPASSWD: {HELPER}"]


def read_request(lab, host: str) -> dict:
    """What the worker hands over for a host: its document, and the digests of the modules that the helper has."""
    document = yaml.load(lab.kumo(f"show-document {host}"), HostVars)["kumo_document"]
    files = json.loads(lab.run(host, "cat /usr/local/lib/kumo/root/manifest.json"))
    return {"files": files, "document": document}


def test_the_helper_does_what_is_allowed(lab, host):
    """The request of the next test, unchanged: it is refused for what is changed there, and not for its form."""
    assert "result" in json.loads(
        as_worker(lab, host, f"sudo -n {HELPER} check", input=json.dumps(read_request(lab, host)))
    )


@pytest.mark.parametrize(
    ("words", "settings", "says"),
    [
        ("shell", {}, "command 'shell' is not allowed"),
        ("apply --sections=everything", {}, "section 'everything' is not allowed"),
        ("apply", {"state_dir": "/etc"}, "state_dir"),
        ("apply", {"state_dir": "/var/lib/kumo/host/../../../../etc"}, "state_dir"),
        ("apply", {"physical_networks": {"public": {"bridge": "eth0", "addresses": []}}}, "bridge"),
        ("check", {"storage": {"backend": "file", "directory": "/etc", "portal": "10.231.0.13:3260"}}, "directory"),
    ],
)
def test_what_the_helper_refuses(lab, host, words, settings, says):
    """With its exit status, in a sentence, and in the log of a place that the account cannot write to."""
    request = read_request(lab, host)
    request["document"]["settings"].update(settings)
    said = json.loads(as_worker(lab, host, f"sudo -n {HELPER} {words}", code=77, both=False, input=json.dumps(request)))
    assert "this host's allow-list refuses it" in said["failed"]
    assert says in said["failed"]
    last = lab.run(host, "tail -1 /var/log/kumo/root.log", root=True)
    assert "refused: " in last
    assert says in last
    assert "kumo(" in last


def test_no_terminal_and_no_forwarding_for_the_key(lab, host):
    """`restrict` in front of the key: nobody tunnels through a host into its networks."""
    lines = lab.run(host, "cat /etc/kumo/authorized_keys", root=True).splitlines()
    assert [line.split()[0] for line in lines] == ["restrict"]
    words = (
        f"timeout 10 ssh -F /dev/null -i {KEY} -o BatchMode=yes -o StrictHostKeyChecking=yes"
        " -o ExitOnForwardFailure=yes -o UserKnownHostsFile=/etc/kumo/ssh/known_hosts -W 127.0.0.1:22"
        f" kumo@{lab.hosts[host].address} </dev/null"
    )
    assert "open failed" in lab.run(lab.controller, words, user="kumo", code=None)
