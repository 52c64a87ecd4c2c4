"""Floating IPs of the Network API: where they come from, what they may lead to, how they come free."""

from __future__ import annotations

import pytest
from network_calls import Network


@pytest.fixture
def net(cloud):
    return Network(cloud)


@pytest.fixture
def site(net):
    return net.make_site()


def test_a_floating_ip_lives_and_dies(net, site):
    public = net.public()["id"]
    port = net.make("ports", network_id=site["network"])
    made = net.make("floatingips", floating_network_id=public, description="d")
    assert made["floating_ip_address"] == "172.24.4.3"
    assert (made["status"], made["port_id"], made["router_id"]) == ("DOWN", None, None)
    led = net.change("floatingips", made["id"], port_id=port["id"])
    assert (led["fixed_ip_address"], led["router_id"]) == ("10.0.0.2", site["router"])
    assert led["port_details"]["network_id"] == site["network"]
    assert net.list("floatingips", f"port_id={port['id']}&status=DOWN") == [led]
    (own,) = net.list("ports", "device_owner=network:floatingip", user="admin")
    assert own["status"] == "N/A"
    net.refuse(409, "ServicePortInUse", "DELETE", f"/ports/{own['id']}", user="admin")
    assert net.change("floatingips", made["id"], port_id=None)["fixed_ip_address"] is None
    net.remove("floatingips", made["id"])
    net.refuse(404, "FloatingIPNotFound", "GET", f"/floatingips/{made['id']}")
    assert net.make("floatingips", floating_network_id=public)["floating_ip_address"] == "172.24.4.3"


def test_active_once_a_host_has_seen_it(net, site):
    from web.models import FloatingIP

    port = net.make("ports", network_id=site["network"])
    made = net.make("floatingips", floating_network_id=net.public()["id"], port_id=port["id"])
    with net.cloud.database.write.begin() as session:
        session.get(FloatingIP, made["id"]).observed_state = "active"
    assert net.read("floatingips", made["id"])["status"] == "ACTIVE"
    assert len(net.list("floatingips", "status=ACTIVE")) == 1
    other = net.make("ports", network_id=site["network"])
    assert net.change("floatingips", made["id"], port_id=other["id"])["status"] == "DOWN"


@pytest.mark.parametrize(
    ("status", "kind", "given"),
    [
        (400, "BadRequest", {}),
        (400, "BadRequest", {"surprise": 1}),
        (400, "BadRequest", {"description": "d" * 256}),
        (400, "BadRequest", {"floating_network_id": "INSIDE"}),
        (404, "NetworkNotFound", {"floating_network_id": "a" * 8 + "-aaaa-aaaa-aaaa-" + "a" * 12}),
        (403, "PolicyNotAuthorized", {"floating_ip_address": "172.24.4.50"}),
        (400, "BadRequest", {"fixed_ip_address": "10.0.0.2"}),
        (404, "PortNotFound", {"port_id": "a" * 8 + "-aaaa-aaaa-aaaa-" + "a" * 12}),
        (400, "BadRequest", {"subnet_id": "SUBNET"}),
    ],
)
def test_refused_creations(net, site, status, kind, given):
    named = {"INSIDE": site["network"], "SUBNET": site["subnet"]}
    given = {name: named.get(value, value) for name, value in given.items()}
    if given:
        given.setdefault("floating_network_id", net.public()["id"])
    net.refuse_new(status, kind, "floatingips", **given)
    assert net.list("floatingips") == []
    assert net.list("ports", "device_owner=network:floatingip", user="admin") == []


def test_admin_chooses_the_address(net):
    public = net.public()["id"]
    made = net.make("floatingips", user="admin", floating_network_id=public, floating_ip_address="172.24.4.50")
    assert made["floating_ip_address"] == "172.24.4.50"
    net.refuse_new(
        409,
        "IpAddressInUse",
        "floatingips",
        user="admin",
        floating_network_id=public,
        floating_ip_address="172.24.4.50",
    )


def test_ports_it_cannot_lead_to(net, site):
    public = net.public()["id"]
    lonely = net.make("networks")["id"]
    net.make("subnets", network_id=lonely, ip_version=4, cidr="10.7.0.0/24")
    unreachable = net.make("ports", network_id=lonely)["id"]
    empty = net.make("ports", network_id=site["network"], fixed_ips=[])["id"]
    two = net.make(
        "ports", network_id=site["network"], fixed_ips=[{"ip_address": "10.0.0.8"}, {"ip_address": "10.0.0.9"}]
    )["id"]
    theirs = net.make("ports", user="other", network_id=net.make("networks", user="other")["id"])["id"]
    made = net.make("floatingips", floating_network_id=public)["id"]
    net.refuse_change(404, "ExternalGatewayForFloatingIPNotFound", "floatingips", made, port_id=unreachable)
    net.refuse_change(400, "BadRequest", "floatingips", made, port_id=empty)
    net.refuse_change(400, "BadRequest", "floatingips", made, port_id=two)
    net.refuse_change(400, "BadRequest", "floatingips", made, port_id=two, fixed_ip_address="10.0.0.7")
    net.refuse_change(404, "PortNotFound", "floatingips", made, port_id=theirs)
    led = net.change("floatingips", made, port_id=two, fixed_ip_address="10.0.0.9")
    assert led["fixed_ip_address"] == "10.0.0.9"
    again = net.make("floatingips", floating_network_id=public)["id"]
    net.refuse_change(
        409, "FloatingIPPortAlreadyAssociated", "floatingips", again, port_id=two, fixed_ip_address="10.0.0.9"
    )
    net.change("floatingips", again, port_id=two, fixed_ip_address="10.0.0.8")
    net.refuse_change(409, "PortInUse", "ports", two, fixed_ips=[{"ip_address": "10.0.0.8"}])


def test_router_and_interface_stay_while_needed(net, site):
    port = net.make("ports", network_id=site["network"])
    made = net.make("floatingips", floating_network_id=net.public()["id"], port_id=port["id"])
    path = f"/routers/{site['router']}"
    net.refuse_change(
        409, "RouterExternalGatewayInUseByFloatingIp", "routers", site["router"], external_gateway_info={}
    )
    body = {"subnet_id": site["subnet"]}
    net.refuse(409, "RouterInterfaceInUseByFloatingIP", "PUT", path + "/remove_router_interface", body)
    net.remove("ports", port["id"])  # the address stays with the project, and leads nowhere
    shown = net.read("floatingips", made["id"])
    assert (shown["port_id"], shown["fixed_ip_address"], shown["router_id"]) == (None, None, None)
    assert net.send("PUT", path + "/remove_router_interface", body).status_code == 200
    net.remove("routers", site["router"])


def test_quota_and_other_projects(net):
    public = net.public()["id"]
    theirs = net.make("floatingips", user="other", floating_network_id=public)["id"]
    for method, body in (("GET", None), ("PUT", {"floatingip": {"port_id": None}}), ("DELETE", None)):
        net.refuse(404, "FloatingIPNotFound", method, f"/floatingips/{theirs}", body)
    net.limit("floatingip", 0)
    net.refuse_new(409, "OverQuota", "floatingips", floating_network_id=public)
    assert len(net.list("ports", "device_owner=network:floatingip", user="admin")) == 1


def test_exhausted(net):
    network = net.make(
        "networks",
        user="admin",
        **{
            "router:external": True,
            "provider:network_type": "vlan",
            "provider:physical_network": "public",
            "provider:segmentation_id": 7,
        },
    )["id"]
    net.refuse_new(400, "BadRequest", "floatingips", floating_network_id=network)
    net.make("subnets", user="admin", network_id=network, ip_version=4, cidr="198.51.100.0/30", enable_dhcp=False)
    net.make("floatingips", floating_network_id=network)
    net.refuse_new(409, "IpAddressGenerationFailure", "floatingips", floating_network_id=network)


def test_an_association_reaches_the_hosts_of_its_router(net, site):
    port = net.make("ports", network_id=site["network"])
    net.bind(port["id"])
    made = net.make("floatingips", floating_network_id=net.public()["id"])["id"]
    for target in (port["id"], None):
        before = net.generation()
        net.change("floatingips", made, port_id=target)
        assert net.generation() > before
    before = net.generation()
    net.change("floatingips", made, port_id=None)
    assert net.generation() == before
