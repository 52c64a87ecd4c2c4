"""The hosts of a cloud over ssh: all are seen, each runs guests, a disabled one gets none."""

from __future__ import annotations

import re

import pytest
from cloud_lab import wait_for


@pytest.mark.ci
def test_every_host_is_seen_over_ssh(lab):
    lines = [line.split() for line in lab.kumo("host list").splitlines()[1:]]
    seen = {words[0]: words for words in lines}
    wanted = set(lab.groups["hypervisors"]) | set(lab.groups["storage"])
    assert set(seen) >= wanted
    assert lab.controller not in seen, "a controller that runs no guests is no host of the cloud"
    for name in wanted:
        assert seen[name][3] == "enabled"
        observed, generation = seen[name][4].split("/")
        assert int(observed) > 0, f"{name} has never been seen"
        assert int(generation) >= int(observed)


@pytest.mark.ci
def test_hypervisors_and_services_are_listed(lab):
    rows = {row["Host"]: row for row in lab.ask("compute service list --service nova-compute")}
    names = {row["Hypervisor Hostname"] for row in lab.ask("hypervisor list")}
    spares = set(lab.groups.get("spares", []))  # a test makes them known
    assert set(rows) - spares == names - spares == set(lab.groups["hypervisors"])
    for name in lab.groups["hypervisors"]:
        assert (rows[name]["Status"], rows[name]["State"]) == ("enabled", "up")


@pytest.mark.ci
def test_services_run_under_systemd(lab):
    """By systemd's own word, on each host only what belongs there."""
    wanted = {
        "controllers": ["kumo-api", "kumo-worker", "kumo-console"],
        "hypervisors": ["libvirtd", "kumo-metadata"],
        "storage": ["kumo-tgtd"],
    }
    for group, units in wanted.items():
        for host in lab.groups[group]:
            assert lab.run(host, f"systemctl is-active {' '.join(units)}").split() == ["active"] * len(units)
            assert lab.run(host, "systemctl --failed --no-legend") == ""
    for host in set(lab.groups["storage"]) - set(lab.groups["hypervisors"]):
        assert (
            lab.run(host, "systemctl is-active kumo-api kumo-worker kumo-metadata", code=None).split()
            == ["inactive"] * 3
        )


def test_a_server_on_each_hypervisor(lab, tenant):
    """Each where it was asked for, by libvirt's and QEMU's word, with ssh from its hypervisor's own namespace."""
    servers = {host: tenant.create_server(f"on-{host}", host, wait=False) for host in lab.groups["hypervisors"]}
    for host, server in servers.items():
        wait_for(f"{server} to run", lambda s=server: lab.ask(f"server show {s}")["status"] == "ACTIVE", 240, pause=2)
        assert lab.find_host(server) == host
        number = lab.ask(f"server show {server}")["id"]
        for other in lab.groups["hypervisors"]:
            domains = lab.run(other, "virsh -c qemu:///system list --name", root=True).split()
            assert (f"kumo-{number}" in domains) == (other == host)
    for server in servers.values():
        lab.wait_for_guest(server, tenant.network, tenant.key)
        assert lab.guest(server, tenant.network, "hostname", tenant.key).strip() == server


def test_a_disabled_host_gets_no_new_server(lab, tenant):
    closed = lab.groups["hypervisors"][0]
    lab.kumo(f"host disable {closed} --reason 'to be repaired'")
    try:
        row = next(row for row in lab.ask("compute service list --long") if row["Host"] == closed)
        assert (row["Status"], row["Disabled Reason"]) == ("disabled", "to be repaired")
        servers = [tenant.create_server(f"elsewhere-{number}", wait=False) for number in range(3)]
        for server in servers:
            wait_for(
                f"{server} to run", lambda s=server: lab.ask(f"server show {s}")["status"] == "ACTIVE", 240, pause=2
            )
            assert lab.find_host(server) != closed
        lab.openstack(f"server delete --wait {' '.join(servers)}")
    finally:
        lab.kumo(f"host enable {closed}")
    row = next(row for row in lab.ask("compute service list") if row["Host"] == closed)
    assert row["Status"] == "enabled"


@pytest.mark.parametrize("words", ["host disable nowhere --reason x", "host prepare nowhere", "host show nowhere"])
def test_a_host_that_is_not_known(lab, words):
    said = lab.kumo(words, code=1)
    assert "no host 'nowhere'" in said
    assert all(name in said for name in lab.groups["hypervisors"]) or "host add nowhere" in said
    assert "Traceback" not in said


def test_run_folders_are_gone(lab):
    wait_for(
        "no run folder but those of runs under way",
        lambda: lab.run(lab.controller, "ls -A /var/lib/kumo/runs", user="kumo") == "",
        60,
    )


def test_the_log_of_root_names_what_was_done(lab):
    for host in lab.groups["hypervisors"]:
        log = lab.run(host, "cat /var/log/kumo/root.log", root=True)
        assert not re.search(r"refused", log, re.IGNORECASE) or "kumo(" in log
