"""Security groups, chains and revocations as tables: document in, rules, faults and flows out."""

import copy

import pytest
from ansible.module_utils.kumo import chains, conntrack, core, firewall, security_groups
from ansible.module_utils.kumo.errors import KumoError
from ansible.module_utils.kumo.security_groups import Grant

NET = "11111111-1111-4111-8111-111111111111"
PORT = "22222222-2222-4222-8222-222222222222"
GROUP = "33333333-3333-4333-8333-333333333333"
BASE = {"id": "r", "direction": "ingress", "ethertype": "IPv4"}
I4, E6 = ("ingress", "IPv4"), ("egress", "IPv6")

GOOD_RULES = {
    "everything": ({}, Grant(*I4), ""),
    "any by name": ({"protocol": "any"}, Grant(*I4), ""),
    "tcp 22": ({"protocol": "tcp", "port_min": 22, "port_max": 22}, Grant(*I4, 6, 22, 22), "-p 6 -m tcp --dport 22"),
    "by number": ({"protocol": 17, "port_min": 1, "port_max": 9}, Grant(*I4, 17, 1, 9), "-p 17 -m udp --dport 1:9"),
    "sctp": (
        {"protocol": "sctp", "port_min": 5, "port_max": 6},
        Grant(*I4, 132, 5, 6),
        "-p 132 -m multiport --dports 5:6",
    ),
    "all ports": ({"protocol": "tcp", "port_min": 0, "port_max": 65535}, Grant(*I4, 6), "-p 6"),
    "port-less": ({"protocol": "VRRP"}, Grant(*I4, 112), "-p 112"),
    "icmp type": ({"protocol": "icmp", "port_min": 8}, Grant(*I4, 1, 8), "-p 1 -m icmp --icmp-type 8"),
    "icmp code": (
        {"protocol": "icmp", "port_min": 3, "port_max": 4},
        Grant(*I4, 1, 3, 4),
        "-p 1 -m icmp --icmp-type 3/4",
    ),
    "icmp for IPv6": (
        {"direction": "egress", "ethertype": "IPv6", "protocol": "icmp", "port_min": 128, "port_max": 0},
        Grant(*E6, 58, 128, 0),
        "-p 58 -m icmp6 --icmpv6-type 128/0",
    ),
    "cidr": ({"remote_cidr": "10.1.2.3/8"}, Grant(*I4, remote="10.0.0.0/8"), "-s 10.0.0.0/8"),
    "address": ({"remote_cidr": "10.1.2.3"}, Grant(*I4, remote="10.1.2.3/32"), "-s 10.1.2.3/32"),
    "whole world": ({"remote_cidr": "0.0.0.0/0"}, Grant(*I4), ""),
    "egress cidr": (
        {"direction": "egress", "ethertype": "IPv6", "remote_cidr": "2001:DB8::1/32"},
        Grant(*E6, remote="2001:db8::/32"),
        "-d 2001:db8::/32",
    ),
}


@pytest.mark.parametrize(("fields", "grant", "match"), GOOD_RULES.values(), ids=GOOD_RULES)
def test_parse_rule(fields, grant, match):
    """A rule of the document becomes one grant and one iptables match."""
    assert security_groups.parse_rule({**BASE, **fields}) == grant
    assert security_groups.build_match(grant) == match


BAD_RULES = {
    "ports of a port-less protocol": ({"protocol": "112", "port_min": 1, "port_max": 2}, "has no ports"),
    "ports of every protocol": ({"port_min": 1, "port_max": 2}, "has no ports"),
    "icmpv6 ports with IPv4": ({"protocol": "icmpv6", "port_min": 128, "port_max": 0}, "has no ports"),
    "reversed": ({"protocol": "tcp", "port_min": 9, "port_max": 2}, "no range"),
    "half a range": ({"protocol": "tcp", "port_min": 9}, "no range"),
    "port too large": ({"protocol": "tcp", "port_min": 1, "port_max": 65536}, "port_max 65536"),
    "port as text": ({"protocol": "tcp", "port_min": "1", "port_max": 2}, "port_min '1'"),
    "true as port": ({"protocol": "tcp", "port_min": True, "port_max": 2}, "port_min True"),
    "icmp code alone": ({"protocol": "icmp", "port_max": 2}, "without port_min"),
    "icmp 255 means any to iptables": ({"protocol": "icmp", "port_min": 255}, "cannot be matched"),
    "icmp type too large": ({"protocol": "icmp", "port_min": 256}, "port_min 256"),
    "protocol 0 means any to iptables": ({"protocol": "0"}, "protocol '0'"),
    "protocol 256": ({"protocol": 256}, "protocol 256"),
    "protocol with a newline": ({"protocol": "tcp\n-j ACCEPT"}, "not a protocol"),
    "protocol in other digits": ({"protocol": "٦"}, "not a protocol"),
    "cidr of the other family": ({"remote_cidr": "fd00::/8"}, "is not IPv4"),
    "cidr with an option": ({"remote_cidr": "10.0.0.0/8 -j ACCEPT"}, "not an address"),
    "cidr and group": ({"remote_cidr": "10.0.0.0/8", "remote_group": GROUP}, "both set"),
    "direction": ({"direction": "in"}, "neither ingress nor egress"),
    "ethertype": ({"ethertype": "ARP"}, "neither IPv4 nor IPv6"),
}


@pytest.mark.parametrize(("fields", "sentence"), BAD_RULES.values(), ids=BAD_RULES)
def test_s18_rule_that_iptables_cannot_hold_is_refused_here(fields, sentence):
    """OSSA-2019-001: such a rule never reaches the transaction; the sentence names what is wrong."""
    with pytest.raises(KumoError, match=sentence):
        security_groups.parse_rule({**BASE, **fields})


COVERS = {
    "all covers one": (Grant(*I4), Grant(*I4, 6, 22, 22, "10.0.0.1/32"), True),
    "range covers part": (Grant(*I4, 6, 20, 30), Grant(*I4, 6, 22, 23), True),
    "part does not cover range": (Grant(*I4, 6, 22, 22), Grant(*I4, 6, 22, 23), False),
    "port does not cover protocol": (Grant(*I4, 6, 22, 22), Grant(*I4, 6), False),
    "other protocol": (Grant(*I4, 17), Grant(*I4, 6), False),
    "other direction": (Grant("egress", "IPv4"), Grant(*I4), False),
    "network covers address": (Grant(*I4, remote="10.0.0.0/8"), Grant(*I4, 6, remote="10.0.0.1/32"), True),
    "network does not cover the world": (Grant(*I4, remote="10.0.0.0/8"), Grant(*I4), False),
    "icmp type covers its code": (Grant(*I4, 1, 8), Grant(*I4, 1, 8, 0), True),
    "icmp code does not cover its type": (Grant(*I4, 1, 8, 0), Grant(*I4, 1, 8), False),
    "icmp types are no range": (Grant(*I4, 1, 3, 10), Grant(*I4, 1, 8, 8), False),
}


@pytest.mark.parametrize(("wide", "narrow", "answer"), COVERS.values(), ids=COVERS)
def test_covers(wide, narrow, answer):
    """Whether one grant lets pass all that another does."""
    assert security_groups.covers(wide, narrow) is answer


def _granted(*grants, addresses=("10.0.0.5/32",), zone=7, **groups):
    port = {"zone": zone, "addresses": list(addresses), "grants": [list(grant) for grant in grants]}
    return {"groups": groups, "ports": {PORT: port}}


SSH = (*I4, 6, 22, 22, "", "")
FROM = ["-f", "ipv4", "-w", "7", "-s", "10.0.0.5/32"]
TO = ["-f", "ipv4", "-w", "7", "-d", "10.0.0.5/32"]
REVOCATIONS = {
    "nothing changed": (_granted(SSH), _granted(SSH), [], []),
    "a rule more": (_granted(), _granted(SSH), [], []),
    "a rule less": (_granted(SSH), _granted(), [[*TO, "-p", "6", "--dport", "22"]], [PORT]),
    "a range less": (_granted((*I4, 6, 1, 9, "", "")), _granted(), [[*TO, "-p", "6"]], [PORT]),
    "still covered": (_granted(SSH), _granted((*I4, 6, -1, -1, "", "")), [], []),
    "egress less": (_granted(("egress", "IPv4", 17, -1, -1, "", "")), _granted(), [[*FROM, "-p", "17"]], [PORT]),
    "narrowed": (
        _granted((*I4, -1, -1, -1, "10.0.0.0/8", "")),
        _granted((*I4, -1, -1, -1, "10.0.0.0/9", "")),
        [[*TO, "-s", "10.0.0.0/8"]],
        [PORT],
    ),
    "a member less": (
        _granted((*I4, -1, -1, -1, "", "g"), g={"IPv4": ["10.0.0.6/32", "10.0.0.7/32"]}),
        _granted((*I4, -1, -1, -1, "", "g"), g={"IPv4": ["10.0.0.7/32"]}),
        [[*TO, "-s", "10.0.0.6/32"]],
        [PORT],
    ),
    "an address less": (
        _granted(SSH, addresses=["10.0.0.5/32", "10.0.0.6/32"]),
        _granted(SSH, addresses=["10.0.0.6/32"]),
        [FROM, TO],
        [],
    ),
    "the port is gone": (_granted(SSH), {"groups": {}, "ports": {}}, [FROM, TO], []),
    "another zone": (_granted(SSH), _granted(SSH, zone=8), [FROM, TO], []),
    "IPv6 only": (_granted((*E6, -1, -1, -1, "", "")), _granted(), [], [PORT]),
}


@pytest.mark.parametrize(("old", "new", "filters", "shrunk"), REVOCATIONS.values(), ids=REVOCATIONS)
def test_s19_build_revocations(old, new, filters, shrunk):
    """What shrank loses exactly the flows it could have let in."""
    assert conntrack.build_revocations(old, new) == (filters, shrunk)


def test_many_lost_grants_become_one_sweep():
    """A port that lost very many grants loses all its flows by two calls."""
    many = [(*I4, 6, port, port, "", "") for port in range(1, 60)]
    assert conntrack.build_revocations(_granted(*many), _granted())[0] == [FROM, TO]


def test_link_local_address():
    """RFC 4291, appendix A."""
    assert chains.build_link_local("34:56:78:9a:bc:de") == "fe80::3656:78ff:fe9a:bcde"


TARGETS = {
    "fd00::5/128": '-m u32 --u32 "0x30=0xfd000000&&0x34=0x0&&0x38=0x0&&0x3c=0x5"',
    "fd00::/50": '-m u32 --u32 "0x30=0xfd000000&&0x34&0xffffc000=0x0"',
    "::/0": "",
}


@pytest.mark.parametrize(("cidr", "match"), TARGETS.items())
def test_target_match(cidr, match):
    """A neighbour advertisement's target as words of the packet."""
    assert chains.build_target_match(cidr) == match


def _document(**port):
    return core.parse_document(
        {
            "version": 1,
            "networks": [
                {
                    "id": NET, "segmentation": {"type": "local"}, "zone": 9, "home": {"kind": "network", "id": NET},
                    "subnets": [{"id": NET, "cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.1"}],
                }
            ],
            "security_groups": [{"id": GROUP, "rules": [BASE], "members": {"IPv4": [], "IPv6": []}}],
            "ports": [
                {
                    "id": PORT, "network": NET, "mac": "FA:16:3E:00:00:01", "addresses": ["10.0.0.5"],
                    "security_groups": [GROUP], **port,
                }
            ],
        }
    )  # fmt: skip


EMPTY = {
    "chains": {kind: {} for kind in firewall.KINDS},
    "sysctls": dict(firewall.SYSCTLS),
    "before": {},
    "granted": None,
}


def test_plan_is_one_action_and_none_when_done():
    """A new host: one action with all three families' texts; what it leaves behind asks for nothing more."""
    document = _document()
    actions = firewall.plan_firewall(document, {"host": EMPTY})
    assert [(action.object_id, action.verb) for action in actions] == [("host", "replace_chains")]
    assert set(actions[0].args["texts"]) == {"IPv4", "IPv6", "Ethernet"}
    ports, _ = chains.parse_ports(document)
    rulesets = chains.build_rulesets(document, ports, set(), "")
    settled = {**EMPTY, "chains": rulesets, "granted": actions[0].args["granted"]}
    assert firewall.plan_firewall(document, {"host": settled}) == []
    assert firewall.plan_firewall({**document, "ports": [], "networks": []}, {"host": EMPTY}) == []
    document["security_groups"][0]["rules"] = []
    (revoked,) = firewall.plan_firewall(document, {"host": settled})
    assert ["-f", "ipv4", "-w", "9", "-d", "10.0.0.5/32"] in revoked.args["flows"]
    assert any("! --tcp-flags" in line for line in revoked.args["texts"]["IPv4"].splitlines())


def test_another_sections_chains_are_left_alone():
    """Chains of NAT and physical networks in the same tables are neither changed nor removed."""
    others = {"filter": {"FORWARD": ["-j kumo-forward"], "kumo-forward": ["-i kbr+ ! -o kbr+ -j DROP"]}}
    seen = {**EMPTY, "chains": {**EMPTY["chains"], "IPv4": others}}
    (action,) = firewall.plan_firewall(_document(), {"host": copy.deepcopy(seen)})
    assert "kumo-forward" not in action.args["texts"]["IPv4"]
    bare = {**_document(), "ports": [], "networks": [], "security_groups": []}
    assert firewall.plan_firewall(bare, {"host": copy.deepcopy(seen)}) == []


FAULTS = {
    "mac": ({"mac": "fa:16:3e"}, "mac: 'fa:16:3e' is not a MAC address; the port stays closed"),
    "address": ({"addresses": ["10.0.0.5", "10.0.0.300"]}, "address '10.0.0.300'"),
    "pair": ({"allowed_address_pairs": [{"address": "x -j ACCEPT", "mac": None}]}, "address 'x -j ACCEPT'"),
    "group": ({"security_groups": [GROUP, PORT]}, f"security group {PORT} is not in the document"),
    "network": ({"network": GROUP}, f"network {GROUP} is not in the document"),
}


@pytest.mark.parametrize(("fields", "sentence"), FAULTS.values(), ids=FAULTS)
def test_a_ports_fault_is_its_own(fields, sentence):
    """The port's result carries the sentence; the host's chains are still planned, and hold nothing of it."""
    actions = firewall.plan_firewall(_document(**fields), {"host": EMPTY})
    assert [(action.object_id, action.verb) for action in actions] == [("host", "replace_chains"), (PORT, "refuse")]
    assert sentence in actions[1].args["error"]
    assert "-j ACCEPT -j" not in str(actions[0].args["texts"])
    with pytest.raises(KumoError, match=PORT):
        firewall.apply_firewall({}, actions[1])


def test_lost_record_ends_what_is_not_sure():
    """Chains are there but firewall.json is not: flows that the present rules do not cover are removed."""
    document = _document()
    ports, _ = chains.parse_ports(document)
    rulesets = chains.build_rulesets(document, ports, set(), "")
    (action,) = firewall.plan_firewall(document, {"host": {**EMPTY, "chains": rulesets}})
    assert ["-f", "ipv4", "-w", "9", "-s", "10.0.0.5/32"] in action.args["flows"]  # no egress rule
    assert ["-f", "ipv4", "-w", "9", "-d", "10.0.0.5/32"] not in action.args["flows"]  # ingress allows all


def test_external_network_keeps_the_hosts_zone_and_filters_what_the_host_routes():
    """A guest directly on an external network: no zone (the host translates there), its routed traffic filtered."""
    document = _document()
    document["networks"][0]["home"] = None
    ports, _ = chains.parse_ports(document)
    ruleset = chains.build_rulesets(document, ports, set(), "")["IPv4"]
    assert ruleset["raw"]["kumo-zones"] == []
    assert any("-d 10.0.0.5/32 -o kbr" in rule and "! --physdev-is-bridged" in rule
               for rule in ruleset["filter"]["kumo-bridged"])  # fmt: skip


def test_refused_grant_is_left_out_but_never_a_drop(monkeypatch):
    """A line that lets something pass and that iptables refuses is left out; a drop never is."""
    given = []

    def refuse(text, kind):
        given.append(text)
        for number, line in enumerate(text.splitlines(), 1):
            if "odd" in line:
                raise firewall.iptables.RefusedRule(f"refused {line}", number, line)

    monkeypatch.setattr(firewall.iptables, "apply_restore", refuse)
    odd = "-A kumo-i22222222222 -p odd -j ACCEPT"
    assert firewall._apply_text(f"*filter\n{odd}\n-A x -j DROP\nCOMMIT\n", "IPv4") == [f"refused {odd}"]
    assert given[-1] == "*filter\n-A x -j DROP\nCOMMIT\n"
    with pytest.raises(KumoError):
        firewall._apply_text("*filter\n-A kumo-i22222222222 -p odd -j DROP\nCOMMIT\n", "IPv4")
