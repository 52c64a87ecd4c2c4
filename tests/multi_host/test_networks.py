"""One tenant's networks over both hypervisors, by API: guests reach each other, get out and are reached by their own
host's addresses; another tenant with the same range is apart."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import subprocess
import threading
from dataclasses import dataclass, field

import pytest
from cloud_lab import wait_for

GATEWAY = "172.24.4.1"  # the lab's own address on the external network


@dataclass
class Site:
    """A router with two networks; servers: (name, network, host)."""

    tenant: object
    router: str
    far: str
    servers: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def run(self, who: str, command: str, code: int | None = 0) -> str:
        name, network, _ = self.servers[who]
        return self.tenant.lab.guest(name, network, command, self.tenant.key, code=code)

    def address(self, who: str) -> str:
        name, network, _ = self.servers[who]
        addresses = self.tenant.lab.ask(f"server show {name}")["addresses"][network]
        return next(text for text in addresses if text.startswith("10."))

    def reaches(self, who: str, address: str, size: int = 56) -> bool:
        said = self.run(who, f"ping -c 3 -W 2 -s {size} {address} >/dev/null && echo yes", code=None)
        return said.strip() == "yes"


@pytest.fixture(scope="module")
def site(lab, tenant):
    """near-one and near-two on one network, one a host; far-two on a second network, on the second host."""
    one, two = lab.groups["hypervisors"][:2]
    made = Site(tenant, f"router-{tenant.tag}", f"far-{tenant.tag}")
    lab.openstack(f"network create {made.far}")
    lab.openstack(f"subnet create --network {made.far} --subnet-range 10.78.0.0/24 far-sub-{tenant.tag}")
    lab.openstack(f"router create --external-gateway public {made.router}")
    for subnet in (f"sub-{tenant.tag}", f"far-sub-{tenant.tag}"):
        lab.openstack(f"router add subnet {made.router} {subnet}")
    lab.openstack(f"security group rule create --protocol tcp --dst-port 9000:9100 {tenant.group}")
    wanted = (("near-one", tenant.network, one), ("near-two", tenant.network, two), ("far-two", made.far, two))
    for who, network, host in wanted:
        more = f"--network {network}" if network != tenant.network else ""
        name = create_server(lab, tenant, who, network, host) if more else tenant.create_server(who, host, wait=False)
        made.servers[who] = (name, network, host)
    for name, network, _ in made.servers.values():
        wait_for(f"{name} to run", lambda n=name: lab.ask(f"server show {n}")["status"] == "ACTIVE", 240, pause=2)
        lab.wait_for_guest(name, network, tenant.key)
    yield made
    lab.openstack(f"server delete --wait {' '.join(name for name, _, _ in made.servers.values())}")
    for subnet in (f"sub-{tenant.tag}", f"far-sub-{tenant.tag}"):
        lab.openstack(f"router remove subnet {made.router} {subnet}")
    lab.openstack(f"router delete {made.router}")
    lab.openstack(f"network delete {made.far}")


def create_server(lab, tenant, who: str, network: str, host: str) -> str:
    """As `Tenant.create_server`, on a network that is not the tenant's first."""
    name = f"{who}-{tenant.tag}"
    lab.openstack(
        f"server create --image kumo-guest --flavor m1.micro --network {network} --key-name key-{tenant.tag}"
        f" --security-group {tenant.group} --availability-zone nova:{host} {name}"
    )
    return name


@contextlib.contextmanager
def listening(port: int):
    """The lab listens on the external network; the addresses that connected, as a list that grows."""
    seen: list[str] = []
    over = threading.Event()
    with socket.create_server((GATEWAY, port)) as server:
        server.settimeout(0.5)

        def serve():
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    one, peer = server.accept()
                    seen.append(peer[0])
                    one.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            thread.join()


def get_out(site: Site, who: str) -> str:
    """The address that the lab sees a guest come from."""
    with listening(8091) as seen:
        site.run(who, f"echo | timeout 5 nc {GATEWAY} 8091", code=None)
        assert len(seen) == 1, f"{who} did not get out"
        return seen[0]


def ping(address: str) -> bool:
    return subprocess.run(["ping", "-c", "3", "-W", "2", address], capture_output=True, check=False).returncode == 0


def test_each_guest_is_where_it_was_asked_for(lab, site):
    hosts = {who: lab.find_host(name) for who, (name, _, _) in site.servers.items()}
    assert hosts == {who: host for who, (_, _, host) in site.servers.items()}
    assert lab.ask(f"network show {site.far}")["provider:network_type"] == "vxlan"
    for who in site.servers:
        assert site.run(who, "cat /sys/class/net/eth0/mtu").strip() == "1450"


@pytest.mark.parametrize(
    ("one", "other"),
    [("near-one", "near-two"), ("near-two", "near-one"), ("near-one", "far-two"), ("far-two", "near-one"),
     ("near-two", "far-two")],
)  # fmt: skip
def test_guests_reach_each_other(site, one, other):
    """From host to host, on one network and across the router, with packets of full size."""
    assert site.reaches(one, site.address(other))
    assert site.reaches(one, site.address(other), 1450 - 28)


def test_each_host_translates_with_its_own_address(lab, site):
    """Both are addresses of the router outside: ports of the external network, one for each host."""
    rows = lab.ask(f"port list --router {site.router} --network public --long")
    own = {row["ID"]: row["Fixed IP Addresses"][0]["ip_address"] for row in rows}
    by_host = {lab.ask(f"port show {number}")["binding_host_id"]: address for number, address in own.items()}
    assert set(by_host) == {host for _, _, host in site.servers.values()}
    for who in ("near-one", "near-two", "far-two"):
        assert get_out(site, who) == by_host[site.servers[who][2]]


def test_floating_addresses_on_both_hosts(lab, site):
    """The lab reaches a guest on each host, guests each other's from host to host; deleted, nobody answers."""
    found = {}
    for who in ("near-one", "near-two"):
        found[who] = lab.ask("floating ip create public")["floating_ip_address"]
        lab.openstack(f"server add floating ip {site.servers[who][0]} {found[who]}")
    try:
        for who, address in found.items():
            wait_for(f"{who} to answer at {address}", lambda a=address: ping(a), 60)
            assert get_out(site, who) == address
            listed = lab.ask("floating ip list")
            assert {row["Floating IP Address"] for row in listed} >= {address}
        assert site.reaches("near-one", found["near-two"])
        assert site.reaches("far-two", found["near-one"])
    finally:
        lab.openstack(f"floating ip delete {' '.join(found.values())}")
    for address in found.values():
        wait_for(f"nobody to answer at {address}", lambda a=address: not ping(a), 60)


def test_another_tenant_with_the_same_range(lab, site, tenant):
    """Another project's guest with addresses of the same range: it reaches its own, and neither the other's."""
    tag = f"other-{tenant.tag}"
    lab.openstack(f"keypair create --public-key {tenant.key}.pub key-{tag}", "kumo")
    lab.openstack(f"network create net-{tag}", "kumo")
    lab.openstack(f"subnet create --network net-{tag} --subnet-range 10.77.0.0/24 sub-{tag}", "kumo")
    lab.openstack(f"security group create sg-{tag}", "kumo")
    for family in ("IPv4", "IPv6"):
        lab.openstack(f"security group rule create --ethertype {family} sg-{tag}", "kumo")
    network = lab.ask(f"network show net-{tag}", "kumo")["id"]
    numbers = []
    for last in (200, 201):
        number = lab.ask(
            f"server create --image kumo-guest --flavor m1.micro --nic net-id={network},v4-fixed-ip=10.77.0.{last}"
            f" --key-name key-{tag} --security-group sg-{tag} {tag}-{last}", "kumo",
        )["id"]  # fmt: skip
        numbers.append(number)
    try:
        for number in numbers:
            wait_for("it to run", lambda n=number: lab.ask(f"server show {n}")["status"] == "ACTIVE", 240, pause=2)
            wait_for(
                "ssh to it",
                lambda n=number: lab.guest(n, f"net-{tag}", "echo ready", tenant.key, code=None).strip() == "ready",
                180, pause=2,
            )  # fmt: skip

        def reaches(address: str) -> bool:
            command = f"ping -c 3 -W 2 {address} >/dev/null && echo yes"
            return lab.guest(numbers[0], f"net-{tag}", command, tenant.key, code=None).strip() == "yes"

        assert reaches("10.77.0.201")
        for who in ("near-one", "near-two"):
            address = site.address(who)
            assert ipaddress.ip_address(address) in ipaddress.ip_network("10.77.0.0/24")
            assert not reaches(address)
            assert not site.reaches(who, "10.77.0.200")
    finally:
        lab.openstack(f"server delete --wait {' '.join(numbers)}", "kumo")
        for words in (f"network delete net-{tag}", f"security group delete sg-{tag}", f"keypair delete key-{tag}"):
            lab.openstack(words, "kumo")
