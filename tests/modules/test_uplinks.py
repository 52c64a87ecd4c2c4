"""The guard at uplinks as tables: what of a network's gateways stays on each host, and where the rules stand."""

import pytest
from ansible.module_utils.kumo import chains, links, names, physical, uplinks

NETWORK = "11111111-1111-4111-8111-111111111111"
ROUTER, PORT = "22222222-2222-4222-8222-222222222222", "33333333-3333-4333-8333-333333333333"
MAC = "fa:16:3e:00:00:01"
VXLAN, VLAN = names.build_vxlan_name(NETWORK), names.build_vlan_name(NETWORK)
BRIDGE, CHAIN = names.build_bridge_name(NETWORK), names.build_chain_name("u", NETWORK)
SEGMENTS = {
    "vxlan": {"type": "vxlan", "id": 7, "local": "192.0.2.1", "peers": ["192.0.2.2", "192.0.2.3"]},
    "vlan": {"type": "vlan", "physical_network": "trunk", "id": 5},
    "flat": {"type": "flat", "physical_network": "trunk"},
    "alone": {"type": "flat", "physical_network": "island"},
    "local": {"type": "local"},
}


def build_document(kind="vxlan", **more) -> dict:
    network = {
        "id": NETWORK,
        "segmentation": SEGMENTS[kind],
        "zone": 5,
        "home": {"kind": "router", "id": ROUTER},
        "subnets": [
            {"id": PORT, "cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.1", "dhcp_address": None, "ip_version": 4},
            {"id": PORT, "cidr": "10.5.0.0/24", "gateway_ip": None, "dhcp_address": "10.5.0.2", "ip_version": 4},
        ],
    } | more
    interface = {"port": PORT, "network": NETWORK, "mac": MAC.upper(), "addresses": ["10.0.0.1/24", "fd00::1/64"]}
    trunk = {"bridge": "kumo-trunk", "interface": "eth9"}
    settings = {"state_dir": "/s", "physical_networks": {"trunk": trunk, "island": {"bridge": "kumo-island"}}}
    return {
        "settings": settings, "networks": [network], "routers": [{"id": ROUTER, "interfaces": [interface]}],
        "ports": [], "security_groups": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "uplink"), [("vxlan", VXLAN), ("vlan", VLAN), ("flat", "eth9"), ("alone", None), ("local", None)]
)
def test_choose_uplink(kind, uplink):
    """The link to other hosts, by the network's type."""
    document = build_document(kind)
    assert uplinks.choose_uplink(document["networks"][0], document["settings"]) == uplink
    assert len(uplinks.build_guards(document)) == (uplink is not None)


def test_gateways_are_all_that_each_host_answers():
    """Routers' addresses, the gateway's and DHCP's, the link-local ones of their MACs, and metadata's."""
    document = build_document()
    macs, addresses = uplinks.find_gateways(document, document["networks"][0])
    assert macs == [MAC]
    assert addresses == sorted(
        ["10.0.0.1", "10.5.0.2", "169.254.169.254", "fd00::1", "fe80::a9fe:a9fe", str(links.build_link_local(MAC))]
    )
    document = build_document(home={"kind": "network", "id": NETWORK})
    document["routers"] = []
    assert uplinks.find_gateways(document, document["networks"][0])[0] == [names.build_mac(NETWORK)]


def test_rules():
    """ARP by MAC and address, DHCP of both families, router discovery, neighbour discovery by MAC and target."""
    (guard,) = uplinks.build_guards(build_document())
    assert guard["chain"] == CHAIN
    assert guard["IPv4"] == ["-p udp -m udp --dport 67:68 -j DROP"]
    assert f"-p ARP -s {MAC} -j DROP" in guard["Ethernet"]
    for address in ("10.0.0.1", "10.5.0.2", "169.254.169.254"):
        for end in ("src", "dst"):
            assert f"-p ARP --arp-ip-{end} {address} -j DROP" in guard["Ethernet"]
    six = guard["IPv6"]
    for kind in (133, 134, 137):
        assert f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j DROP" in six
    for kind in (135, 136):
        assert f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -m mac --mac-source {MAC} -j DROP" in six
        assert sum(f"--icmpv6-type {kind} -m u32" in rule for rule in six) == 3
    assert "-p udp -m udp --dport 546:547 -j DROP" in six
    assert all(rule.endswith("-j DROP") for family in ("IPv4", "IPv6", "Ethernet") for rule in guard[family])


@pytest.mark.parametrize(("kind", "uplink", "jump"), [("vxlan", VXLAN, "kvx+"), ("vlan", VLAN, "kvl+")])
def test_both_directions_come_first(kind, uplink, jump):
    """The guard stands before the ports' chains, for frames that come in by the uplink and that leave by it."""
    rulesets = chains.build_rulesets(build_document(kind), [], set(), "")
    for family in ("IPv4", "IPv6"):
        assert rulesets[family]["filter"]["kumo-bridged"][:2] == [
            f"-i {BRIDGE} -m physdev --physdev-in {uplink} -j {CHAIN}",
            f"-i {BRIDGE} -m physdev --physdev-out {uplink} --physdev-is-bridged -j {CHAIN}",
        ]
        assert CHAIN in rulesets[family]["filter"]
    frames = rulesets["Ethernet"]["nat"]
    assert f"-i {jump} -j kumo-uplinks" in frames["PREROUTING"]
    assert frames["POSTROUTING"] == [f"-o {jump} -j kumo-uplinksout"]
    assert frames["kumo-uplinks"] == [f"-i {uplink} -j {CHAIN}"]
    assert frames["kumo-uplinksout"] == [f"-o {uplink} -j {CHAIN}"]


@pytest.mark.parametrize("changes", [{"home": None}, {"segmentation": SEGMENTS["local"]}])
def test_no_guard(changes):
    """An external network's gateway is somebody else's; a local one has no way out: no rule stands there."""
    rulesets = chains.build_rulesets(build_document(**changes), [], set(), "")
    assert "kumo-u" not in str(rulesets)


def test_tunnels_are_the_hosts_alone():
    """VXLAN packets are taken from peers only, and forwarded for nobody; without VXLAN there is no such rule."""
    filters = physical.build_chains(build_document())["filter"]
    vxlan = "-p udp -m udp --dport 4789"
    assert filters["kumo-input"] == [
        "-i kbr+ -j DROP",
        f"-s 192.0.2.2/32 -d 192.0.2.1/32 {vxlan} -j RETURN",
        f"-s 192.0.2.3/32 -d 192.0.2.1/32 {vxlan} -j RETURN",
        f"-d 192.0.2.1/32 {vxlan} -j DROP",
    ]
    assert filters["kumo-forward"][1:4] == [f"-d 192.0.2.{n}/32 {vxlan} -j DROP" for n in (1, 2, 3)]
    assert "4789" not in str(physical.build_chains(build_document("vlan")))
