"""Ports of the Network API: addresses, MACs, groups, what belongs to others, races for the last address."""

from __future__ import annotations

import threading

import pytest
from network_calls import Network


@pytest.fixture
def net(cloud):
    return Network(cloud)


@pytest.fixture
def network(net):
    made = net.make("networks")["id"]
    net.make("subnets", network_id=made, ip_version=4, cidr="10.0.0.0/24")
    return made


def _addresses(port):
    return [fixed["ip_address"] for fixed in port["fixed_ips"]]


def test_a_port_lives_and_dies(net, network):
    made = net.make("ports", network_id=network, name="p", dns_name="Web1")
    assert _addresses(made) == ["10.0.0.2"]
    assert made["mac_address"].startswith("fa:16:3e:")
    assert made["status"] == "DOWN"
    assert made["dns_assignment"] == [
        {"ip_address": "10.0.0.2", "hostname": "web1", "fqdn": "web1.kumo.internal."},
    ]
    (default,) = net.list("security-groups")
    assert made["security_groups"] == [default["id"]]
    assert "binding:host_id" not in made
    assert net.read("ports", made["id"], user="admin")["binding:vif_type"] == "unbound"
    assert net.change("ports", made["id"], name="q", admin_state_up=False)["name"] == "q"
    net.remove("ports", made["id"])
    assert _addresses(net.make("ports", network_id=network)) == ["10.0.0.2"]


@pytest.mark.parametrize(
    ("status", "kind", "given"),
    [
        (400, "BadRequest", {"name": "n" * 256}),
        (400, "BadRequest", {"surprise": 1}),
        (400, "BadRequest", {"mac_address": "moon"}),
        (400, "BadRequest", {"fixed_ips": [{"ip_address": "10.0.0.300"}]}),
        (400, "InvalidIpForNetwork", {"fixed_ips": [{"ip_address": "10.1.0.3"}]}),
        (400, "InvalidIpForNetwork", {"fixed_ips": [{"ip_address": "10.0.0.255"}]}),
        (400, "InvalidInput", {"fixed_ips": [{"subnet_id": "a" * 8 + "-aaaa-aaaa-aaaa-" + "a" * 12}]}),
        (400, "InvalidInput", {"fixed_ips": [{}]}),
        (400, "InvalidInput", {"fixed_ips": [{"ip_address": f"10.0.0.{n}"} for n in range(10, 16)]}),
        (400, "InvalidInput", {"fixed_ips": [{"ip_address": "10.0.0.9"}, {"ip_address": "10.0.0.9"}]}),
        (404, "SecurityGroupNotFound", {"security_groups": ["a" * 8 + "-aaaa-aaaa-aaaa-" + "a" * 12]}),
        (400, "InvalidInput", {"device_owner": "network:router_interface"}),
        (400, "InvalidInput", {"device_owner": "compute:nova"}),
        (403, "PolicyNotAuthorized", {"binding:host_id": "x"}),
        (400, "InvalidInput", {"allowed_address_pairs": [{"ip_address": "moon"}]}),
        (
            400,
            "DuplicateAddressPairInRequest",
            {"allowed_address_pairs": [{"ip_address": "10.0.0.9"}, {"ip_address": "10.0.0.9"}]},
        ),
        (
            409,
            "AddressPairAndPortSecurityRequired",
            {"port_security_enabled": False, "allowed_address_pairs": [{"ip_address": "10.0.0.9"}]},
        ),
        (400, "BadRequest", {"dns_name": "a_b"}),
        (400, "BadRequest", {"extra_dhcp_opts": [{"opt_name": "tftp-server", "opt_value": "a\nb"}]}),
        (400, "BadRequest", {"extra_dhcp_opts": [{"opt_name": "a,b", "opt_value": "a"}]}),
    ],
)
def test_refused_creations(net, network, status, kind, given):
    message = net.refuse_new(status, kind, "ports", network_id=network, **given)
    if kind == "BadRequest":
        assert next(iter(given)) in message


def test_chosen_addresses(net, network):
    (subnet,) = net.list("subnets")
    a = net.make("ports", network_id=network, fixed_ips=[{"ip_address": "10.0.0.9"}], mac_address="FA:16:3E:00:00:01")
    assert _addresses(a) == ["10.0.0.9"]
    assert a["mac_address"] == "fa:16:3e:00:00:01"
    net.refuse_new(409, "IpAddressInUse", "ports", network_id=network, fixed_ips=[{"ip_address": "10.0.0.9"}])
    net.refuse_new(409, "MacAddressInUse", "ports", network_id=network, mac_address="fa:16:3e:00:00:01")
    two = net.make("ports", network_id=network, fixed_ips=[{"subnet_id": subnet["id"]}, {"ip_address": "10.0.0.2"}])
    assert sorted(_addresses(two)) == ["10.0.0.2", "10.0.0.3"]
    assert _addresses(net.make("ports", network_id=network, fixed_ips=[])) == []
    moved = net.change("ports", a["id"], fixed_ips=[{"subnet_id": subnet["id"]}, {"ip_address": "10.0.0.50"}])
    assert sorted(_addresses(moved)) == ["10.0.0.50", "10.0.0.9"]
    assert _addresses(net.change("ports", a["id"], fixed_ips=[])) == []


def test_exhausted(net):
    network = net.make("networks")["id"]
    net.make("subnets", network_id=network, ip_version=4, cidr="10.0.0.0/30")
    net.make("ports", network_id=network)
    net.refuse_new(409, "IpAddressGenerationFailure", "ports", network_id=network)
    net.make("subnets", network_id=network, ip_version=4, cidr="10.0.1.0/24")
    assert _addresses(net.make("ports", network_id=network)) == ["10.0.1.2"]


def test_s21_port_quota(net, network):
    net.limit("port", 1)
    made = net.make("ports", network_id=network)
    net.refuse_new(409, "OverQuota", "ports", network_id=network)
    assert len(net.list("ports")) == 1
    net.remove("ports", made["id"])
    net.make("ports", network_id=network)


def test_another_projects_port_is_not_there(net, network):
    theirs = net.make("ports", user="other", network_id=net.make("networks", user="other")["id"])
    for method, body in (("GET", None), ("PUT", {"port": {"name": "x"}}), ("DELETE", None)):
        net.refuse(404, "PortNotFound", method, f"/ports/{theirs['id']}", body)
    net.refuse_new(404, "NetworkNotFound", "ports", network_id=theirs["network_id"])
    assert net.list("ports") == []


def test_on_a_shared_network_nobody_takes_what_is_not_theirs(net):
    network = net.make("networks", user="admin", shared=True)["id"]
    net.make("subnets", user="admin", network_id=network, ip_version=4, cidr="10.0.0.0/24")
    for given in (
        {"fixed_ips": [{"ip_address": "10.0.0.9"}]},
        {"mac_address": "fa:16:3e:00:00:01"},
        {"port_security_enabled": False},
        {"allowed_address_pairs": [{"ip_address": "10.0.0.1"}]},
    ):
        net.refuse_new(403, "PolicyNotAuthorized", "ports", network_id=network, **given)
    mine = net.make("ports", network_id=network)
    net.refuse_change(403, "PolicyNotAuthorized", "ports", mine["id"], fixed_ips=[{"ip_address": "10.0.0.1"}])
    assert mine["id"] in [one["id"] for one in net.list("ports", user="admin")]


def test_nobody_ties_a_port_to_anothers_router_or_server(net, network):
    router = net.make("routers", user="other")["id"]
    net.refuse_new(400, "InvalidInput", "ports", network_id=network, device_id=router)
    free = net.make("ports", network_id=network, device_id="my appliance", device_owner="appliance")
    assert free["device_id"] == "my appliance"
    net.refuse_change(400, "InvalidInput", "ports", free["id"], device_id=router)
    net.refuse_change(400, "InvalidInput", "ports", free["id"], device_owner="network:router_gateway", user="admin")


def test_port_security(net, network):
    secured = net.make("ports", network_id=network)
    net.refuse_change(409, "PortSecurityPortHasSecurityGroup", "ports", secured["id"], port_security_enabled=False)
    open_ = net.change("ports", secured["id"], port_security_enabled=False, security_groups=[])
    assert open_["security_groups"] == []
    (default,) = net.list("security-groups")
    kind = "PortSecurityAndIPRequiredForSecurityGroups"
    net.refuse_change(400, kind, "ports", secured["id"], security_groups=[default["id"]])
    net.refuse_new(400, kind, "ports", network_id=network, port_security_enabled=False, security_groups=[default["id"]])
    assert net.make("ports", network_id=network, port_security_enabled=False)["security_groups"] == []
    back = net.change("ports", secured["id"], port_security_enabled=True, security_groups=[default["id"]])
    assert back["security_groups"] == [default["id"]]


def test_dhcp_options_are_merged(net, network):
    made = net.make("ports", network_id=network, extra_dhcp_opts=[{"opt_name": "mtu", "opt_value": "1400"}])
    changed = net.change("ports", made["id"], extra_dhcp_opts=[{"opt_name": "router", "opt_value": "10.0.0.9"}])
    assert [one["opt_name"] for one in changed["extra_dhcp_opts"]] == ["mtu", "router"]
    changed = net.change("ports", made["id"], extra_dhcp_opts=[{"opt_name": "mtu", "opt_value": None}])
    assert [one["opt_name"] for one in changed["extra_dhcp_opts"]] == ["router"]


def test_bound_ports(net, network):
    made = net.make("ports", network_id=network)
    net.bind(made["id"])
    shown = net.read("ports", made["id"], user="admin")
    assert shown["binding:host_id"]
    assert shown["binding:vif_type"] == "bridge"
    net.refuse_change(409, "PortBound", "ports", made["id"], mac_address="fa:16:3e:00:00:09")
    net.refuse_change(409, "PortBound", "ports", made["id"], user="admin", **{"binding:host_id": ""})
    net.refuse_change(409, "PortInUse", "ports", made["id"], device_id="x")
    before = net.generation()
    net.change("ports", made["id"], allowed_address_pairs=[{"ip_address": "10.0.0.0/28"}])
    assert net.generation() > before
    net.remove("ports", made["id"])  # its server is not there


def test_a_servers_port_stays_with_it(net, network):
    from web.models import Port, Server

    made = net.make("ports", network_id=network)
    with net.cloud.database.write.begin() as session:
        server = Server(
            project_id=net.project("demo"), user_id="u", reservation_id="r", name="s", hostname="s",
            flavor_id="1", flavor={},
        )  # fmt: skip
        session.add(server)
        session.flush()
        port = session.get(Port, made["id"])
        port.device_id, port.device_owner = server.id, "compute:nova"
    net.refuse(409, "PortInUse", "DELETE", f"/ports/{made['id']}")


def test_filters(net, network):
    (subnet,) = net.list("subnets")
    a = net.make("ports", network_id=network, name="a", device_id="d")
    b = net.make("ports", network_id=network, name="b")

    def found(query):
        return {one["id"] for one in net.list("ports", query)}

    assert found("device_id=d") == found(f"mac_address={a['mac_address'].upper()}") == {a["id"]}
    assert found("fixed_ips=ip_address=10.0.0.3") == {b["id"]}
    assert found(f"fixed_ips=subnet_id={subnet['id']}") == {a["id"], b["id"]}
    assert found(f"fixed_ips=subnet_id={subnet['id']}&fixed_ips=ip_address=10.0.0.2") == {a["id"]}
    assert found("fixed_ips=ip_address_substr=0.3") == {b["id"]}
    assert found(f"security_groups={a['security_groups'][0]}") == {a["id"], b["id"]}
    assert found("status=DOWN") == {a["id"], b["id"]}
    assert found("status=ACTIVE") == set()
    assert found("device_id=") == {b["id"]}
    assert found("binding:host_id=nowhere") == set()
    net.refuse(400, "InvalidInput", "GET", "/ports?fixed_ips=moon")


def test_bulk(net, network):
    answer = net.send("POST", "/ports", {"ports": [{"network_id": network, "name": str(n)} for n in range(5)]})
    assert sorted(_addresses(one)[0] for one in answer.json["ports"]) == [f"10.0.0.{n}" for n in range(2, 7)]


def test_many_at_once_never_get_one_address_twice(net):
    """Eight ask for the last address and for the five before it: each is given once, the rest are told so."""
    network = net.make("networks")["id"]
    net.make("subnets", network_id=network, ip_version=4, cidr="10.0.0.0/29")
    net.cloud.login("demo")
    answers = []

    def ask():
        with net.cloud.app.test_client() as client:
            headers = {"X-Auth-Token": net.cloud.login("demo")}
            body = {"port": {"network_id": network}}
            answers.append(client.post("/networking/v2.0/ports", json=body, headers=headers))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    given = [_addresses(one.json["port"])[0] for one in answers if one.status_code == 201]
    assert sorted(given) == [f"10.0.0.{n}" for n in range(2, 7)]
    refused = [one.json["NeutronError"]["type"] for one in answers if one.status_code != 201]
    assert refused == ["IpAddressGenerationFailure"] * 3


def test_two_at_once_for_one_chosen_address(net, network):
    net.cloud.login("demo")
    answers = []

    def ask():
        with net.cloud.app.test_client() as client:
            headers = {"X-Auth-Token": net.cloud.login("demo")}
            body = {"port": {"network_id": network, "fixed_ips": [{"ip_address": "10.0.0.77"}]}}
            answers.append(client.post("/networking/v2.0/ports", json=body, headers=headers).status_code)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == [201, 409]
