"""Routers of the Network API: interfaces, gateways, routes, and what still needs them."""

from __future__ import annotations

import pytest
from network_calls import Network


@pytest.fixture
def net(cloud):
    return Network(cloud)


def _interface(net, router, verb="add", user="demo", **body):
    return net.send("PUT", f"/routers/{router}/{verb}_router_interface", body, user)


def _refuse_interface(net, status, kind, router, verb="add", user="demo", **body):
    return net.refuse(status, kind, "PUT", f"/routers/{router}/{verb}_router_interface", body, user)


def _make_subnet(net, cidr, user="demo", **more):
    network = net.make("networks", user=user)
    return net.make("subnets", user=user, network_id=network["id"], **{"ip_version": 4, "cidr": cidr, **more})


def test_a_router_lives_and_dies(net):
    made = net.make("routers", name="r")
    assert made["status"] == "ACTIVE"
    assert made["external_gateway_info"] is None
    public = net.public()
    changed = net.change("routers", made["id"], external_gateway_info={"network_id": public["id"]})
    (address,) = changed["external_gateway_info"]["external_fixed_ips"]
    assert address["ip_address"] == "172.24.4.2"
    assert changed["external_gateway_info"]["enable_snat"] is True
    assert [one["id"] for one in net.list("routers", "name=r")] == [made["id"]]
    assert net.list("ports", "device_owner=network:router_gateway") == []  # it is no project's
    (port,) = net.list("ports", "device_owner=network:router_gateway", user="admin")
    assert port["status"] == "ACTIVE"
    net.change("routers", made["id"], external_gateway_info={})
    assert net.list("ports", "device_owner=network:router_gateway", user="admin") == []
    net.change("routers", made["id"], external_gateway_info={"network_id": public["id"]})
    net.remove("routers", made["id"])
    assert net.list("ports", f"network_id={public['id']}", user="admin") == []
    net.refuse(404, "RouterNotFound", "GET", f"/routers/{made['id']}")


@pytest.mark.parametrize(
    ("status", "kind", "given"),
    [
        (400, "BadRequest", {"name": "n" * 256}),
        (400, "BadRequest", {"surprise": 1}),
        (400, "BadRequest", {"external_gateway_info": "public"}),
        (400, "InvalidInput", {"external_gateway_info": {"enable_snat": True}}),
        (404, "NetworkNotFound", {"external_gateway_info": {"network_id": "a" * 8 + "-aaaa-aaaa-aaaa-" + "a" * 12}}),
        (403, "PolicyNotAuthorized", {"external_gateway_info": {"network_id": "PUBLIC", "enable_snat": False}}),
        (
            403,
            "PolicyNotAuthorized",
            {"external_gateway_info": {"network_id": "PUBLIC", "external_fixed_ips": [{"ip_address": "172.24.4.9"}]}},
        ),
        (400, "BadRequest", {"external_gateway_info": {"network_id": "INSIDE"}}),
    ],
)
def test_refused_creations(net, status, kind, given):
    named = {"PUBLIC": net.public()["id"], "INSIDE": net.make("networks")["id"]}
    info = given.get("external_gateway_info")
    if isinstance(info, dict) and info.get("network_id") in named:
        given = {"external_gateway_info": {**info, "network_id": named[info["network_id"]]}}
    message = net.refuse_new(status, kind, "routers", **given)
    if "name" in given or "surprise" in given:
        assert next(iter(given)) in message
    assert net.list("routers") == []


def test_admin_chooses_address_and_snat(net):
    info = {
        "network_id": net.public()["id"],
        "enable_snat": False,
        "external_fixed_ips": [{"ip_address": "172.24.4.99"}],
    }
    made = net.make("routers", user="admin", external_gateway_info=info)
    assert made["external_gateway_info"]["enable_snat"] is False
    assert made["external_gateway_info"]["external_fixed_ips"][0]["ip_address"] == "172.24.4.99"
    net.refuse_new(409, "IpAddressInUse", "routers", user="admin", external_gateway_info=info)
    info["external_fixed_ips"] = [{"ip_address": "172.24.4.98"}]
    moved = net.change("routers", made["id"], user="admin", external_gateway_info=info)
    assert moved["external_gateway_info"]["external_fixed_ips"][0]["ip_address"] == "172.24.4.98"


def test_interface_by_subnet(net):
    router, subnet = net.make("routers"), _make_subnet(net, "10.0.0.0/24")
    answer = _interface(net, router["id"], subnet_id=subnet["id"]).json
    assert answer["id"] == router["id"]
    assert answer["subnet_ids"] == [subnet["id"]]
    (port,) = net.list("ports", f"device_id={router['id']}")
    assert port["id"] == answer["port_id"]
    assert port["device_owner"] == "network:router_interface"
    assert port["fixed_ips"] == [{"subnet_id": subnet["id"], "ip_address": "10.0.0.1"}]
    assert port["security_groups"] == []
    _refuse_interface(net, 400, "BadRequest", router["id"], subnet_id=subnet["id"])
    net.refuse(409, "ServicePortInUse", "DELETE", f"/ports/{port['id']}")
    net.refuse(409, "SubnetInUse", "DELETE", f"/subnets/{subnet['id']}")
    net.refuse(409, "NetworkInUse", "DELETE", f"/networks/{subnet['network_id']}")
    net.refuse(409, "RouterInUse", "DELETE", f"/routers/{router['id']}")
    net.refuse_change(409, "GatewayIpInUse", "subnets", subnet["id"], gateway_ip="10.0.0.254")
    _refuse_interface(net, 409, "IpAddressInUse", net.make("routers")["id"], subnet_id=subnet["id"])
    assert _interface(net, router["id"], "remove", subnet_id=subnet["id"]).status_code == 200
    _refuse_interface(
        net, 404, "RouterInterfaceNotFoundForSubnet", router["id"], "remove", subnet_id=subnet["id"]
    )  # fmt: skip
    net.remove("routers", router["id"])


def test_interface_by_port(net):
    router, subnet = net.make("routers"), _make_subnet(net, "10.0.0.0/24")
    port = net.make("ports", network_id=subnet["network_id"], name="uplink")
    assert _interface(net, router["id"], port_id=port["id"]).status_code == 200
    assert net.read("ports", port["id"])["device_id"] == router["id"]
    _refuse_interface(net, 409, "PortInUse", net.make("routers")["id"], port_id=port["id"])
    other = _make_subnet(net, "10.1.0.0/24")
    mismatch = {"port_id": port["id"], "subnet_id": other["id"]}
    _refuse_interface(net, 400, "SubnetMismatchForPort", router["id"], "remove", **mismatch)
    assert _interface(net, router["id"], "remove", port_id=port["id"]).status_code == 200
    net.refuse(404, "PortNotFound", "GET", f"/ports/{port['id']}")
    _refuse_interface(net, 404, "RouterInterfaceNotFound", router["id"], "remove", port_id=port["id"])


def test_interfaces_that_are_refused(net):
    router = net.make("routers")["id"]
    subnet = _make_subnet(net, "10.0.0.0/24")
    bare = _make_subnet(net, "10.5.0.0/24", gateway_ip=None)
    empty = net.make("ports", network_id=subnet["network_id"], fixed_ips=[])
    theirs = _make_subnet(net, "10.9.0.0/24", user="other")
    _refuse_interface(net, 400, "BadRequest", router)
    _refuse_interface(net, 400, "BadRequest", router, subnet_id=subnet["id"], port_id=empty["id"])
    _refuse_interface(net, 400, "BadRequest", router, subnet_id=bare["id"])
    _refuse_interface(net, 400, "BadRequest", router, port_id=empty["id"])
    _refuse_interface(net, 404, "SubnetNotFound", router, subnet_id=theirs["id"])
    _refuse_interface(net, 400, "BadRequest", router, surprise=1)
    _refuse_interface(net, 404, "RouterNotFound", router, user="other", subnet_id=theirs["id"])
    assert _interface(net, router, subnet_id=subnet["id"]).status_code == 200
    overlapping = _make_subnet(net, "10.0.0.128/25")
    assert "overlaps" in _refuse_interface(net, 400, "BadRequest", router, subnet_id=overlapping["id"])
    outside = _make_subnet(net, "172.24.4.0/25")
    net.change("routers", router, external_gateway_info={"network_id": net.public()["id"]})
    _refuse_interface(net, 400, "BadRequest", router, subnet_id=outside["id"])
    inside = net.make("routers")["id"]
    assert _interface(net, inside, subnet_id=outside["id"]).status_code == 200
    info = {"network_id": net.public()["id"]}
    net.refuse_change(400, "BadRequest", "routers", inside, external_gateway_info=info)
    assert net.read("routers", inside)["external_gateway_info"] is None


def test_routes(net):
    site = net.make_site()
    router = site["router"]
    hop = {"destination": "10.9.0.3/24", "nexthop": "10.0.0.9"}
    changed = net.change("routers", router, routes=[hop])
    assert changed["routes"] == [{"destination": "10.9.0.0/24", "nexthop": "10.0.0.9"}]
    for wrong in ({**hop, "nexthop": "10.7.0.1"}, {**hop, "nexthop": "10.0.0.1"}):
        net.refuse_change(400, "InvalidRoutes", "routers", router, routes=[wrong])
    net.refuse_change(400, "InvalidInput", "routers", router, routes=[hop, hop])
    _refuse_interface(net, 409, "RouterInterfaceInUseByRoute", router, "remove", subnet_id=site["subnet"])
    extra = {"router": {"routes": [{"destination": "10.8.0.0/24", "nexthop": "10.0.0.8"}]}}
    assert len(net.send("PUT", f"/routers/{router}/add_extraroutes", extra).json["router"]["routes"]) == 2
    assert len(net.send("PUT", f"/routers/{router}/remove_extraroutes", extra).json["router"]["routes"]) == 1
    assert net.change("routers", router, routes=None)["routes"] == []


def test_quota_and_other_projects(net):
    theirs = net.make("routers", user="other")["id"]
    for method, body in (("GET", None), ("PUT", {"router": {"name": "x"}}), ("DELETE", None)):
        net.refuse(404, "RouterNotFound", method, f"/routers/{theirs}", body)
    assert net.list("routers") == []
    net.limit("router", 0)
    net.refuse_new(409, "OverQuota", "routers")


def test_changes_reach_hosts_with_guests_behind_the_router(net):
    site = net.make_site()
    far = _make_subnet(net, "10.1.0.0/24")
    port = net.make("ports", network_id=site["network"])
    net.bind(port["id"])

    def reaches(act) -> bool:
        before = net.generation()
        act()
        return net.generation() > before

    assert not reaches(lambda: net.make("ports", network_id=far["network_id"], security_groups=[]))
    assert reaches(lambda: _interface(net, site["router"], subnet_id=far["id"]))
    assert reaches(lambda: net.make("ports", network_id=far["network_id"], security_groups=[]))
    assert reaches(lambda: net.change("routers", site["router"], admin_state_up=False))
    assert reaches(lambda: net.make("routers", external_gateway_info={"network_id": net.public()["id"]}))
    assert reaches(lambda: _interface(net, site["router"], "remove", subnet_id=far["id"]))
    assert not reaches(lambda: net.make("ports", network_id=far["network_id"], security_groups=[]))
