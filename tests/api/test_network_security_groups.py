"""Security groups and their rules in the Network API: the default group, what a rule may say, what is in use."""

from __future__ import annotations

import pytest
from network_calls import Network


@pytest.fixture
def net(cloud):
    return Network(cloud)


@pytest.fixture
def group(net):
    return net.make("security-groups", name="web")["id"]


def test_the_default_group_is_there_when_asked_for(net):
    (default,) = net.list("security-groups")
    assert default["name"] == "default"
    rules = {(one["direction"], one["ethertype"], one["remote_group_id"]) for one in default["security_group_rules"]}
    assert rules == {
        ("egress", "IPv4", None),
        ("egress", "IPv6", None),
        ("ingress", "IPv4", default["id"]),
        ("ingress", "IPv6", default["id"]),
    }
    assert net.list("security-groups")[0]["id"] == default["id"]
    assert len(net.list("security-group-rules", f"security_group_id={default['id']}")) == 4
    path = f"/security-groups/{default['id']}"
    net.refuse(409, "SecurityGroupCannotRemoveDefault", "DELETE", path)
    net.refuse_change(409, "SecurityGroupCannotUpdateDefault", "security-groups", default["id"], name="mine")
    net.refuse_new(409, "SecurityGroupDefaultAlreadyExists", "security-groups", name="default")
    net.remove("security-groups", default["id"], user="admin")
    assert net.list("security-groups")[0]["id"] != default["id"]


def test_a_group_lives_and_dies(net):
    made = net.make("security-groups", name="web", description="d")
    assert made["stateful"] is True
    assert {one["direction"] for one in made["security_group_rules"]} == {"egress"}
    changed = net.change("security-groups", made["id"], name="www")
    assert (changed["name"], changed["revision_number"]) == ("www", 2)
    assert [one["id"] for one in net.list("security-groups", "name=www")] == [made["id"]]
    net.remove("security-groups", made["id"])
    net.refuse(404, "SecurityGroupNotFound", "GET", f"/security-groups/{made['id']}")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, {"protocol": None, "ethertype": "IPv4", "port_range_min": None, "remote_ip_prefix": None}),
        ({"protocol": "TCP", "port_range_min": 22, "port_range_max": 22}, {"protocol": "tcp", "port_range_max": 22}),
        ({"protocol": 6}, {"protocol": "tcp"}),
        ({"protocol": "any"}, {"protocol": None}),
        ({"protocol": "99"}, {"protocol": "99"}),
        ({"protocol": "icmp", "port_range_min": 8, "port_range_max": 0}, {"port_range_min": 8, "port_range_max": 0}),
        ({"protocol": "icmp", "port_range_min": 8}, {"port_range_min": 8, "port_range_max": None}),
        ({"protocol": "icmpv6", "ethertype": "IPv6"}, {"protocol": "ipv6-icmp"}),
        ({"protocol": "icmp", "ethertype": "ipv6"}, {"protocol": "ipv6-icmp", "ethertype": "IPv6"}),
        ({"remote_ip_prefix": "10.0.0.7/24"}, {"remote_ip_prefix": "10.0.0.7/24", "normalized_cidr": "10.0.0.0/24"}),
        ({"remote_ip_prefix": "10.0.0.7"}, {"remote_ip_prefix": "10.0.0.7/32"}),
        ({"protocol": "tcp", "port_range_min": -1, "port_range_max": -1}, {"port_range_min": None}),
        ({"direction": "egress", "protocol": "vrrp"}, {"direction": "egress", "protocol": "vrrp"}),
    ],
)
def test_rules(net, group, given, shown):
    made = net.make("security-group-rules", **{"security_group_id": group, "direction": "ingress", **given})
    assert {name: made[name] for name in shown} == shown
    assert made["id"] in [one["id"] for one in net.read("security-groups", group)["security_group_rules"]]
    net.refuse_new(
        409,
        "SecurityGroupRuleExists",
        "security-group-rules",
        **{"security_group_id": group, "direction": "ingress", **given},
    )
    net.remove("security-group-rules", made["id"])
    net.refuse(404, "SecurityGroupRuleNotFound", "GET", f"/security-group-rules/{made['id']}")


GONE = "a" * 8 + "-aaaa-aaaa-aaaa-" + "a" * 12


@pytest.mark.parametrize(
    ("status", "kind", "given"),
    [
        (400, "BadRequest", {"direction": "sideways"}),
        (400, "BadRequest", {"description": "d" * 256}),
        (400, "BadRequest", {"surprise": 1}),
        (400, "BadRequest", {"port_range_min": 70000}),
        (404, "SecurityGroupNotFound", {"security_group_id": GONE}),
        (404, "SecurityGroupNotFound", {"remote_group_id": GONE}),
        (400, "SecurityGroupRuleInvalidEtherType", {"ethertype": "IPX"}),
        (400, "SecurityGroupRuleInvalidProtocol", {"protocol": "moon"}),
        (400, "SecurityGroupRuleInvalidProtocol", {"protocol": "256"}),
        (400, "SecurityGroupEthertypeConflictWithProtocol", {"protocol": "ipv6-icmp"}),
        (400, "SecurityGroupProtocolRequiredWithPorts", {"port_range_min": 22, "port_range_max": 22}),
        (400, "SecurityGroupInvalidPortRange", {"protocol": "tcp", "port_range_min": 23, "port_range_max": 22}),
        (400, "SecurityGroupInvalidPortRange", {"protocol": "tcp", "port_range_min": 23}),
        (400, "SecurityGroupInvalidPortValue", {"protocol": "udp", "port_range_min": 0, "port_range_max": 22}),
        (400, "SecurityGroupInvalidICMPValue", {"protocol": "icmp", "port_range_min": 256}),
        (400, "SecurityGroupMissingICMPType", {"protocol": "icmp", "port_range_max": 3}),
        (400, "InvalidInput", {"remote_ip_prefix": "moon"}),
        (400, "InvalidInput", {"remote_ip_prefix": "10.0.0.0/33"}),
        (400, "SecurityGroupRuleParameterConflict", {"remote_ip_prefix": "::/0"}),
        (400, "SecurityGroupRemoteGroupAndRemoteIpPrefix", {"remote_ip_prefix": "0.0.0.0/0", "remote_group_id": GONE}),
    ],
)
def test_refused_rules(net, group, status, kind, given):
    net.refuse_new(
        status, kind, "security-group-rules", **{"security_group_id": group, "direction": "ingress", **given}
    )
    assert len(net.read("security-groups", group)["security_group_rules"]) == 2


@pytest.mark.parametrize("protocol", ["vrrp", "gre", "esp", "igmp", "112", "99"])
def test_s18_a_port_with_a_portless_protocol_is_refused(net, group, protocol):
    net.refuse_new(
        400,
        "SecurityGroupInvalidProtocolForPort",
        "security-group-rules",
        security_group_id=group,
        direction="ingress",
        protocol=protocol,
        port_range_min=22,
        port_range_max=22,
    )


def test_bulk_rules(net, group):
    one = {"security_group_id": group, "direction": "ingress", "protocol": "tcp"}
    rules = [{**one, "port_range_min": n, "port_range_max": n} for n in (22, 80)]
    answer = net.send("POST", "/security-group-rules", {"security_group_rules": rules})
    assert len(answer.json["security_group_rules"]) == 2
    net.refuse(409, "SecurityGroupRuleExists", "POST", "/security-group-rules", {"security_group_rules": rules})


def test_in_use(net, group):
    network = net.make("networks")["id"]
    port = net.make("ports", network_id=network, security_groups=[group])
    net.refuse(409, "SecurityGroupInUse", "DELETE", f"/security-groups/{group}")
    net.refuse_change(409, "SecurityGroupInUse", "security-groups", group, stateful=False)
    net.change("ports", port["id"], security_groups=[])
    other = net.make("security-groups", name="other")["id"]
    naming = net.make(
        "security-group-rules", security_group_id=other, direction="ingress", remote_group_id=group
    )  # fmt: skip
    net.remove("security-groups", group)
    net.refuse(404, "SecurityGroupRuleNotFound", "GET", f"/security-group-rules/{naming['id']}")


@pytest.mark.parametrize("given", [{"name": "n" * 256}, {"surprise": 1}, {"stateful": "perhaps"}])
def test_refused_groups(net, given):
    assert next(iter(given)) in net.refuse_new(400, "BadRequest", "security-groups", **given)


def test_quotas_and_other_projects(net, group):
    theirs = net.make("security-groups", user="other", name="theirs")
    for method, body in (("GET", None), ("PUT", {"security_group": {"name": "x"}}), ("DELETE", None)):
        net.refuse(404, "SecurityGroupNotFound", method, f"/security-groups/{theirs['id']}", body)
    rule = theirs["security_group_rules"][0]["id"]
    net.refuse(404, "SecurityGroupRuleNotFound", "DELETE", f"/security-group-rules/{rule}")
    net.refuse_new(
        404,
        "SecurityGroupNotFound",
        "security-group-rules",
        security_group_id=group,
        direction="ingress",
        remote_group_id=theirs["id"],
    )
    net.limit("security_group", 2)
    net.refuse_new(409, "OverQuota", "security-groups", name="third")
    net.limit("security_group_rule", 1)
    net.refuse_new(409, "OverQuota", "security-group-rules", security_group_id=group, direction="ingress")


def test_s17_a_rule_reaches_hosts_with_ports_of_the_group_and_of_those_that_name_it(net, group):
    network = net.make("networks")["id"]
    naming = net.make("security-groups", name="naming")["id"]
    net.make("security-group-rules", security_group_id=naming, direction="ingress", remote_group_id=group)
    port = net.make("ports", network_id=network, security_groups=[naming])
    unrelated = net.make("security-groups", name="unrelated")["id"]
    net.bind(port["id"])

    def reaches(group_id) -> bool:
        before = net.generation()
        made = net.make("security-group-rules", security_group_id=group_id, direction="ingress", protocol="tcp")
        after = net.generation()
        net.remove("security-group-rules", made["id"])
        assert (net.generation() > after) is (after > before)
        return after > before

    assert reaches(naming)
    assert reaches(group)
    assert not reaches(unrelated)
