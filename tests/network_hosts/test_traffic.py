"""Two tenants' networks over two hosts: real guests, by what reaches them and what does not."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading

import pytest

LAB = "172.24.4.1"


@contextlib.contextmanager
def listening(port: int):
    """The lab listens on the external network; the addresses that connected, as a list that grows."""
    seen: list[str] = []
    with socket.create_server((LAB, port)) as server:
        server.settimeout(0.5)
        over = threading.Event()

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


def ping(address: str) -> bool:
    """Whether the lab, as a machine on the external network, is answered."""
    return subprocess.run(["ping", "-c", "3", "-W", "2", address], capture_output=True, check=False).returncode == 0


def test_guests_have_what_their_own_host_gave(hosts, guests):
    """The address of the document by DHCP, the network's MTU, the name by metadata; the lease is their own host's."""
    for guest in guests.values():
        assert f"{guest.four}/24" in guest.run("ip -4 addr show eth0")
        assert f"{guest.six}/64" in guest.run("ip -6 addr show eth0")
        leases = {name: hosts.run(name, "cat /var/lib/kumo/host/networks/*/leases") for name in hosts.lab.hosts}
        mac = guest.run("cat /sys/class/net/eth0/address").strip()
        assert {name for name, text in leases.items() if mac in text} == {guest.host}
    mtus = {guest.run("cat /sys/class/net/eth0/mtu").strip() for guest in guests.values()}
    assert mtus in ({"1450"}, {"1500"})


@pytest.mark.parametrize(
    ("one", "other"),
    [("a-one", "a-two"), ("a-two", "a-one"), ("a-one", "a-far"), ("a-far", "a-one"), ("b-one", "b-two")],
)
def test_guests_reach_each_other(guests, one, other):
    """On one network and across the router, from host to host, on both families, with packets of full size."""
    full = int(guests[one].run("cat /sys/class/net/eth0/mtu")) - 28
    assert guests[one].reaches(guests[other].four)
    assert guests[one].reaches(guests[other].four, full)
    assert guests[one].reaches(guests[other].six)


def test_bytes_arrive_whole(guests):
    """A megabyte by TCP from host to host, routed."""
    source, target = guests["a-one"], guests["a-far"]
    source.run("dd if=/dev/urandom of=/tmp/big bs=1024 count=1024 2>/dev/null")
    wanted = source.run("sha256sum </tmp/big").split()[0]
    # Something on standard input: with none it would close its side at once, and the other would stop.
    target.run(f"(sleep 90 | busybox nc -l -p 9000 >/tmp/{target.name}) </dev/null >/dev/null 2>&1 &")
    source.run(f"sleep 1; timeout 40 busybox nc {target.four} 9000 </tmp/big", code=None)
    seen = target.run(f"sha256sum </tmp/{target.name}")
    assert seen.split()[:1] == [wanted]


def test_each_host_translates_with_its_own_address(guests):
    """Guests get out by their own host's leg of their own router; those with a floating address by that."""
    wanted = {"a-one": "172.24.4.101", "a-two": "172.24.4.102", "a-far": "172.24.4.12", "b-one": "172.24.4.21"}
    with listening(8090) as seen:
        for name, address in wanted.items():
            guests[name].run(f"echo | timeout 5 busybox nc {LAB} 8090", code=None)
            assert seen[-1:] == [address], name


def test_floating_addresses_on_both_hosts(guests):
    """The lab reaches a guest on each host; guests reach each other's floating address from host to host."""
    assert ping("172.24.4.101")
    assert ping("172.24.4.102")
    assert guests["a-one"].reaches("172.24.4.102")
    assert guests["b-two"].reaches("172.24.4.101")


def test_tenants_with_one_range_are_apart(guests):
    """An address that only the other tenant has is nobody's; one that both have is each one's own."""
    for name in ("a-one", "a-two"):
        assert not guests[name].reaches(guests["b-one"].four)
        assert not guests[name].reaches(guests["b-one"].six)
    assert guests["b-two"].reaches(guests["b-one"].four)
    for name in ("a-two", "b-two"):
        guests[name].run(f"(echo {name} | timeout 40 busybox nc -l -p 9100) </dev/null >/dev/null 2>&1 &")
    for caller, answer in (("b-one", "b-two"), ("a-one", "a-two")):
        said = guests[caller].run("sleep 1; sleep 3 | timeout 5 busybox nc 10.1.0.6 9100", code=None)
        assert said.strip() == answer


def test_gateways_stay_on_their_hosts(hosts):
    """By the bridges' own word: a gateway's MAC is at its namespace's port and nowhere else, on each host."""
    for name in hosts.lab.hosts:
        rows = json.loads(hosts.run(name, "bridge -j fdb show"))
        for number in (11, 12, 21):
            mac = f"fa:16:3e:01:00:{number}"
            at = {row["ifname"] for row in rows if row["mac"] == mac and row.get("master", "").startswith("kbr")}
            assert at == {f"kvo{4000 + number:08d}000"}
