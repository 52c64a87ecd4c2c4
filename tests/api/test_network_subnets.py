"""Subnets of the Network API: ranges, gateways, pools, IPv6 modes, the DHCP port of those without a gateway."""

from __future__ import annotations

import pytest
from network_calls import Network


@pytest.fixture
def net(cloud):
    return Network(cloud)


@pytest.fixture
def network(net):
    return net.make("networks")["id"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"cidr": "10.0.0.0/24"}, ("10.0.0.0/24", "10.0.0.1", [("10.0.0.2", "10.0.0.254")])),
        ({"cidr": "10.0.0.7/24"}, ("10.0.0.0/24", "10.0.0.1", [("10.0.0.2", "10.0.0.254")])),
        ({"cidr": "10.0.0.0/24", "gateway_ip": None}, ("10.0.0.0/24", None, [("10.0.0.1", "10.0.0.254")])),
        (
            {"cidr": "10.0.0.0/29", "gateway_ip": "10.0.0.3"},
            ("10.0.0.0/29", "10.0.0.3", [("10.0.0.1", "10.0.0.2"), ("10.0.0.4", "10.0.0.6")]),
        ),
        ({"cidr": "10.0.0.0/31"}, ("10.0.0.0/31", "10.0.0.0", [("10.0.0.1", "10.0.0.1")])),
        ({"cidr": "10.0.0.9/32", "enable_dhcp": False}, ("10.0.0.9/32", None, [("10.0.0.9", "10.0.0.9")])),
        (
            {"cidr": "fd00::/64", "ip_version": 6},
            ("fd00::/64", "fd00::1", [("fd00::2", "fd00::ffff:ffff:ffff:ffff")]),
        ),
        (
            {"cidr": "FD00:0::/64", "ip_version": 6, "gateway_ip": "FD00:0:0:0:0::A", "allocation_pools": []},
            ("fd00::/64", "fd00::a", [("fd00::1", "fd00::9"), ("fd00::b", "fd00::ffff:ffff:ffff:ffff")]),
        ),
        (
            {"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.9", "end": "10.0.0.10"}]},
            ("10.0.0.0/24", "10.0.0.1", [("10.0.0.9", "10.0.0.10")]),
        ),
    ],
)
def test_ranges(net, network, given, shown):
    made = net.make("subnets", network_id=network, **{"ip_version": 4, **given})
    pools = [(pool["start"], pool["end"]) for pool in made["allocation_pools"]]
    assert (made["cidr"], made["gateway_ip"], pools) == shown
    assert net.read("networks", network)["subnets"] == [made["id"]]


POOLS = [("10.0.0.10", "10.0.0.20")]


def _pools(*spans):
    return [{"start": start, "end": end} for start, end in spans]


@pytest.mark.parametrize(
    ("status", "kind", "given"),
    [
        (400, "BadRequest", {"cidr": "10.0.0.0"}),
        (400, "BadRequest", {"cidr": "10.0.0.0/33"}),
        (400, "InvalidInput", {"cidr": "0.0.0.0/0"}),
        (400, "InvalidInput", {"cidr": "224.0.0.0/24"}),
        (400, "InvalidInput", {"cidr": "127.0.0.0/24"}),
        (400, "InvalidInput", {"cidr": "fd00::/64"}),
        (400, "InvalidInput", {"ip_version": 5}),
        (400, "InvalidInput", {"gateway_ip": "10.1.0.1"}),
        (400, "InvalidInput", {"gateway_ip": "10.0.0.0"}),
        (400, "InvalidInput", {"gateway_ip": "10.0.0.255"}),
        (400, "InvalidInput", {"gateway_ip": "fd00::1"}),
        (409, "GatewayConflictWithAllocationPools", {"allocation_pools": _pools(("10.0.0.1", "10.0.0.5"))}),
        (400, "OutOfBoundsAllocationPool", {"allocation_pools": _pools(("10.0.0.9", "10.0.1.5"))}),
        (400, "InvalidAllocationPool", {"allocation_pools": _pools(("10.0.0.9", "10.0.0.5"))}),
        (
            409,
            "OverlappingAllocationPools",
            {"allocation_pools": _pools(("10.0.0.9", "10.0.0.20"), ("10.0.0.15", "10.0.0.30"))},
        ),
        (400, "InvalidInput", {"ipv6_ra_mode": "slaac"}),
        (400, "InvalidInput", {"dns_nameservers": ["fd00::1"]}),
        (400, "InvalidInput", {"dns_nameservers": ["9.9.9.9", "9.9.9.9"]}),
        (400, "DNSNameServersExhausted", {"dns_nameservers": [f"9.9.9.{n}" for n in range(1, 7)]}),
        (400, "BadRequest", {"dns_nameservers": ["nine"]}),
        (400, "InvalidInput", {"host_routes": [{"destination": "10.5.0.0/24", "nexthop": "fd00::1"}]}),
        (400, "BadRequest", {"host_routes": [{"destination": "10.5.0.0/24"}]}),
        (400, "BadRequest", {"name": "n" * 256}),
        (400, "BadRequest", {"surprise": 1}),
        (400, "BadRequest", {"subnetpool_id": "a" * 8 + "-aaaa-aaaa-aaaa-" + "a" * 12}),
    ],
)
def test_refused_creations(net, network, status, kind, given):
    message = net.refuse_new(
        status, kind, "subnets", **{"network_id": network, "ip_version": 4, "cidr": "10.0.0.0/24", **given}
    )
    if kind == "BadRequest":
        assert next(iter(given)) in message


@pytest.mark.parametrize(
    "given",
    [
        {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "dhcpv6-stateful"},
        {"ipv6_address_mode": "slaac", "enable_dhcp": False},
        {"ipv6_address_mode": "slaac", "cidr": "fd00::/80"},
    ],
)
def test_modes_that_do_not_fit(net, network, given):
    net.refuse_new(
        400, "InvalidInput", "subnets", **{"network_id": network, "ip_version": 6, "cidr": "fd00::/64", **given}
    )


def test_ranges_of_one_network_do_not_overlap(net, network):
    net.make("subnets", network_id=network, ip_version=4, cidr="10.0.0.0/24")
    net.refuse_new(400, "InvalidInput", "subnets", network_id=network, ip_version=4, cidr="10.0.0.128/25")
    other = net.make("networks")["id"]
    net.make("subnets", network_id=other, ip_version=4, cidr="10.0.0.0/24")


def test_update(net, network):
    made = net.make("subnets", network_id=network, ip_version=4, cidr="10.0.0.0/24", allocation_pools=_pools(*POOLS))
    changed = net.change(
        "subnets",
        made["id"],
        name="s",
        gateway_ip="10.0.0.2",
        dns_nameservers=["9.9.9.9"],
        host_routes=[{"destination": "10.5.0.1/24", "nexthop": "10.0.0.5"}],
        allocation_pools=_pools(("10.0.0.30", "10.0.0.40")),
    )
    assert changed["gateway_ip"] == "10.0.0.2"
    assert changed["host_routes"] == [{"destination": "10.5.0.0/24", "nexthop": "10.0.0.5"}]
    assert changed["allocation_pools"] == _pools(("10.0.0.30", "10.0.0.40"))
    net.refuse_change(409, "GatewayConflictWithAllocationPools", "subnets", made["id"], gateway_ip="10.0.0.35")
    net.refuse_change(400, "BadRequest", "subnets", made["id"], cidr="10.0.0.0/23")
    assert net.read("subnets", made["id"])["gateway_ip"] == "10.0.0.2"


def test_without_a_gateway_a_port_holds_the_dhcp_address(net, network):
    made = net.make("subnets", network_id=network, ip_version=4, cidr="10.0.0.0/24", gateway_ip=None)

    def held():
        return [port["fixed_ips"][0]["ip_address"] for port in net.list("ports", "device_owner=network:dhcp")]

    assert held() == ["10.0.0.1"]
    net.change("subnets", made["id"], enable_dhcp=False)
    assert held() == []
    net.change("subnets", made["id"], enable_dhcp=True)
    assert held() == ["10.0.0.1"]
    port = net.list("ports", "device_owner=network:dhcp")[0]
    net.refuse(409, "ServicePortInUse", "DELETE", f"/ports/{port['id']}")
    net.change("subnets", made["id"], gateway_ip="10.0.0.1", allocation_pools=_pools(*POOLS))
    assert held() == []
    net.change("subnets", made["id"], gateway_ip=None)
    assert held() == ["10.0.0.10"]
    net.remove("subnets", made["id"])
    assert held() == []


def test_guests_form_their_addresses(net, network):
    net.make("subnets", network_id=network, ip_version=4, cidr="10.0.0.0/24")
    port = net.make("ports", network_id=network, mac_address="fa:16:3e:00:00:01")
    modes = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    made = net.make("subnets", network_id=network, ip_version=6, cidr="fd00::/64", **modes)

    def addresses():
        return {fixed["ip_address"] for fixed in net.read("ports", port["id"])["fixed_ips"]}

    assert addresses() == {"10.0.0.2", "fd00::f816:3eff:fe00:1"}
    net.remove("subnets", made["id"])
    assert addresses() == {"10.0.0.2"}


def test_in_use(net, network):
    made = net.make("subnets", network_id=network, ip_version=4, cidr="10.0.0.0/24")
    port = net.make("ports", network_id=network)
    net.refuse(409, "SubnetInUse", "DELETE", f"/subnets/{made['id']}")
    net.refuse(409, "NetworkInUse", "DELETE", f"/networks/{network}")
    net.remove("ports", port["id"])
    net.remove("networks", network)
    net.refuse(404, "SubnetNotFound", "GET", f"/subnets/{made['id']}")


def test_quota_and_other_projects(net, network):
    other = net.make("networks", user="other")["id"]
    net.refuse_new(404, "NetworkNotFound", "subnets", network_id=other, ip_version=4, cidr="10.0.0.0/24")
    theirs = net.make("subnets", user="other", network_id=other, ip_version=4, cidr="10.0.0.0/24")
    for method, body in (("GET", None), ("PUT", {"subnet": {"name": "x"}}), ("DELETE", None)):
        net.refuse(404, "SubnetNotFound", method, f"/subnets/{theirs['id']}", body)
    net.limit("subnet", 0)
    net.refuse_new(409, "OverQuota", "subnets", network_id=network, ip_version=4, cidr="10.0.0.0/24")


def test_filters(net, network):
    four = net.make("subnets", network_id=network, ip_version=4, cidr="10.0.0.0/24", name="four")
    net.make("subnets", network_id=network, ip_version=6, cidr="fd00::/64", enable_dhcp=False)

    def found(query):
        return [one["id"] for one in net.list("subnets", query)]

    assert found("ip_version=4") == found("cidr=10.0.0.0/24") == found("enable_dhcp=true") == [four["id"]]
    assert len(found(f"network_id={network}")) == 2
    net.refuse(400, "InvalidInput", "GET", "/subnets?ip_version=four")
