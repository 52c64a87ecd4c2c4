"""One host that is everything, with systemd as PID 1: its services, a guest, and that all come back after a reboot."""

from __future__ import annotations

import pytest
from cloud_lab import CommandFailed, wait_for

UNITS = ["kumo-api", "kumo-worker", "kumo-console", "kumo-metadata", "kumo-tgtd", "libvirtd"]


@pytest.fixture(scope="module")
def host(lab) -> str:
    return lab.controller


@pytest.fixture(scope="module")
def server(lab, tenant) -> str:
    return tenant.create_server("only")


def read_boot(lab, host: str) -> str | None:
    """When a host's systemd was started (its PID 1's start, in ticks); None while it does not answer."""
    try:
        return lab.run(host, "cut -d ' ' -f 22 /proc/1/stat", timeout=15, shared=False).strip()
    except (CommandFailed, TimeoutError):
        return None


def test_services_run_under_systemd(lab, host):
    assert lab.run(host, f"systemctl is-active {' '.join(UNITS)}").split() == ["active"] * len(UNITS)
    assert lab.run(host, f"systemctl is-enabled {' '.join(UNITS)}").split() == ["enabled"] * len(UNITS)
    assert lab.run(host, "ls /run/kumo/supervisord.pid", code=2)
    assert lab.run(host, "systemctl show -P User kumo-api kumo-worker").split() == ["kumo", "kumo"]


def test_the_first_host_is_this_machine(lab, host):
    lines = [line.split() for line in lab.kumo("host list").splitlines()[1:]]
    assert [words[0] for words in lines] == [host]
    assert lines[0][1] == "hypervisor,storage"


def test_a_guest(lab, host, tenant, server):
    assert lab.find_host(server) == host
    lab.wait_for_guest(server, tenant.network, tenant.key)
    assert lab.guest(server, tenant.network, "hostname", tenant.key).strip() == server


def test_everything_comes_back_after_a_reboot(lab, host, tenant, server):
    lab.guest(server, tenant.network, "echo kept >kept && sync", tenant.key)
    before = read_boot(lab, host)
    lab.run(host, "systemctl reboot", root=True, code=None)
    wait_for("another boot", lambda: (now := read_boot(lab, host)) and now != before, 180, pause=1)
    wait_for("the API", lambda: lab.openstack("token issue", code=None).startswith("+"), 120, pause=2)
    assert lab.run(host, f"systemctl is-active {' '.join(UNITS)}").split() == ["active"] * len(UNITS)
    wait_for("the server to run", lambda: lab.ask(f"server show {server}")["status"] == "ACTIVE", 240, pause=2)
    lab.wait_for_guest(server, tenant.network, tenant.key, 240)
    assert lab.guest(server, tenant.network, "cat kept", tenant.key).strip() == "kept"
