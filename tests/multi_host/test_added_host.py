"""`kumo host add` and `prepare`: a bare host becomes a hypervisor by two commands of the operator on the controller."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess

import pytest
from cloud_lab import KUMO, wait_for


@pytest.fixture
def spare(lab) -> str:
    """The host of the lab that site.yml has left alone; out of the choice again afterwards."""
    name = lab.groups["spares"][0]
    yield name
    lab.kumo(f"host disable {name} --reason 'only for a test'", code=None)


@pytest.fixture
def agent(lab, tmp_path):
    """The operator's ssh agent with his key: how he reaches hosts from the controller without leaving the key there."""
    socket = str(tmp_path / "agent")
    said = subprocess.run(["ssh-agent", "-a", socket, "-s"], capture_output=True, text=True, check=True).stdout
    subprocess.run(["ssh-add", "-q", lab.lab.key], env={**os.environ, "SSH_AUTH_SOCK": socket}, check=True)
    yield socket
    os.kill(int(re.search(r"SSH_AGENT_PID=(\d+)", said)[1]), signal.SIGTERM)


def as_operator(lab, agent: str, command: str, code: int = 0) -> str:
    """A command as root on the controller, the operator's agent at hand; both outputs."""
    words = lab.ssh(lab.controller, shared=False)
    done = subprocess.run(
        [*words[:1], "-A", *words[1:], f"sudo -n --preserve-env=SSH_AUTH_SOCK /bin/sh -c {shlex.quote(command)}"],
        env={**os.environ, "SSH_AUTH_SOCK": agent},
        capture_output=True, text=True, timeout=500, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def is_seen(lab, host: str) -> bool:
    """Whether the worker has applied a document on a host and read what it is."""
    lines = [line.split() for line in lab.kumo("host list").splitlines()[1:]]
    return any(words[0] == host and not words[4].startswith("0/") for words in lines)


def is_up(lab, host: str) -> bool:
    return any(row["Host"] == host and row["State"] == "up" for row in lab.ask("compute service list"))


def test_a_further_host(lab, tenant, agent, spare):
    address = lab.hosts[spare].address
    known = next(line for line in lab.lab.known_hosts.read_text().splitlines() if line.startswith(f"{address} "))
    settings = f"tunnel_address: {address}"
    said = lab.kumo(
        f"host add {spare} --role hypervisor --address {address} --settings /dev/stdin <<'END'\n{settings}\nEND"
    )
    assert re.search(rf"made host {spare}; next: kumo host prepare {spare}|host {spare} is unchanged|changed", said)

    # Without knowing the host's key nobody is connected to it, and the operator is told so.
    said = as_operator(lab, agent, f"rm -f /root/.ssh/known_hosts; {KUMO} host prepare {spare} --user admin", code=1)
    assert "Host key verification failed" in said
    assert f"host {spare} is not prepared" in said

    lab.run(lab.controller, f"install -d -m 0700 /root/.ssh; echo '{known}' >>/root/.ssh/known_hosts", root=True)
    said = as_operator(lab, agent, f"{KUMO} host prepare {spare} --user admin")
    assert f"host {spare} is prepared" in said
    lab.kumo(f"host enable {spare}")
    wait_for("the new host to be seen", lambda: is_seen(lab, spare), 120, pause=1)
    wait_for("its service to be up", lambda: is_up(lab, spare), 60)

    server = tenant.create_server("first-here", spare)
    assert lab.find_host(server) == spare
    lab.wait_for_guest(server, tenant.network, tenant.key)
    lab.openstack(f"server delete --wait {server}")

    said = as_operator(lab, agent, f"{KUMO} host prepare {spare} --user admin")
    assert re.search(rf"{spare} +: ok=\d+ +changed=0 ", said), "a second time changes nothing"
