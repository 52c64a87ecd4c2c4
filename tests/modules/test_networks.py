"""The section networks as tables: what is there and what is wanted in, actions out."""

import copy

import pytest
from ansible.module_utils.kumo import bridges, legs, links, names, networks, physical

NETWORK = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
STATE_DIR = "/var/lib/kumo/test"
TAG = f"kumo:{STATE_DIR}"
BRIDGE = names.build_bridge_name(NETWORK)
OUTER, INNER = names.build_outer_veth_name(NETWORK), names.build_inner_veth_name(NETWORK)
SPACE = names.build_namespace_name("network", NETWORK)
ON_LINK = "fe80::a9fe:a9fe/64"


def build_document(**more) -> dict:
    network = {
        "id": NETWORK,
        "mtu": 1450,
        "segmentation": {"type": "local"},
        "home": {"kind": "network", "id": NETWORK},
        "subnets": [{"id": OTHER, "cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.1", "ip_version": 4, "dhcp": True}],
        "reservations": [],
    } | more
    settings = {"state_dir": STATE_DIR, "physical_networks": {}}
    return {"settings": settings, "networks": [network], "routers": []}


def build_link(**more) -> dict:
    row = {"index": 2, "kind": "veth", "mac": "02:00:00:00:00:01", "mtu": 1450, "up": True, "bridge": None}
    return row | {"alias": TAG, "parent": None, "data": {}, "addresses": []} | more


def build_observed(document) -> dict:
    """A host on which ``build_document`` is already so."""
    leg = legs.build_network_leg(document, document["networks"][0])
    return {
        "links": {
            "lo": build_link(kind="", alias=""),
            BRIDGE: build_link(kind="bridge"),
            OUTER: build_link(bridge=BRIDGE),
        },
        "namespaces": {
            SPACE: {
                "lo": build_link(kind="", addresses=sorted(legs.METADATA_ADDRESSES)),
                INNER: build_link(mac=leg["mac"], addresses=leg["addresses"]),
            }
        },
        "flooding": {},
        "sysctls": bridges.build_sysctls(BRIDGE),
        "physical": {"created": {}, "before": {}, "sysctls": {}, "chains": physical.build_chains(document)},
    }


def list_verbs(document, observed) -> list:
    return [(action.object_id, action.verb) for action in networks.plan_networks(document, observed)]


def test_nothing_to_do():
    """A host that is as wanted gives no action."""
    document = build_document()
    assert networks.plan_networks(document, build_observed(document)) == []


def test_new_network():
    """On an empty host: rules, bridge, namespace and leg, in that order."""
    document = build_document()
    observed = {"links": {}, "namespaces": {}, "flooding": {}, "sysctls": {}}
    observed["physical"] = {"created": {}, "before": {}, "sysctls": {}, "chains": {}}
    assert list_verbs(document, observed) == [
        ("host", "filter"),
        (NETWORK, "create_bridge"),
        (NETWORK, "create_namespace"),
        (NETWORK, "connect"),
    ]


@pytest.mark.parametrize(
    ("damage", "verb", "line"),
    [
        (lambda o: o["links"][BRIDGE].update(mtu=1500), "adjust_bridge", f"link set dev {BRIDGE} mtu 1450"),
        (lambda o: o["links"][BRIDGE].update(up=False), "adjust_bridge", f"link set dev {BRIDGE} up"),
        (
            lambda o: o["links"][BRIDGE].update(addresses=["10.9.9.9/24"]),
            "adjust_bridge",
            f"addr del 10.9.9.9/24 dev {BRIDGE}",
        ),
        (
            lambda o: o["links"][OUTER].update(bridge=None),
            "adjust",
            f"link set dev {OUTER} addrgenmode none master {BRIDGE} up",
        ),
        (
            lambda o: o["namespaces"][SPACE][INNER].update(addresses=[ON_LINK]),
            "adjust",
            f"addr replace 10.0.0.1/24 dev {INNER}",
        ),
        (
            lambda o: o["namespaces"][SPACE][INNER].update(addresses=["10.0.0.1/24", "10.0.0.2/24", ON_LINK]),
            "adjust",
            f"addr del 10.0.0.2/24 dev {INNER}",
        ),
        (
            lambda o: o["namespaces"][SPACE][INNER].update(addresses=["10.0.0.1/24"]),
            "adjust",
            f"addr replace {ON_LINK} dev {INNER} nodad",
        ),
        (
            lambda o: o["namespaces"][SPACE].update(kvi00000000000=build_link()),
            "disconnect",
            "link del dev kvi00000000000",
        ),
    ],
)
def test_repair(damage, verb, line):
    """One thing that is off is one action with the line that mends it."""
    document = build_document()
    observed = build_observed(document)
    damage(observed)
    (action,) = networks.plan_networks(document, observed)
    change = action.args.get("change", action.args)
    assert action.verb == verb
    assert [*change.get("ip", []), *change.get("host", []), *change.get("inside", [])] == [line]
    assert action.before != action.after


@pytest.mark.parametrize(
    ("link", "removed"),
    [
        ({"kbr22222222222": build_link(kind="bridge")}, ["kbr22222222222"]),
        ({"kvo22222222222": build_link()}, []),
        ({"kbr22222222222": build_link(kind="bridge", alias="kumo:/elsewhere")}, []),
        ({"kbr22222222222": build_link(kind="bridge", alias="")}, []),
        ({"kbridge": build_link(kind="bridge")}, []),
        ({"ktp22222222222": build_link(kind="tun")}, []),
        (
            {
                "kbr22222222222": build_link(kind="bridge"),
                "ktp22222222222": build_link(kind="tun", bridge="kbr22222222222"),
            },
            [],
        ),
    ],
)
def test_removal(link, removed):
    """Only what carries prefix and tag goes, and never a bridge that a tap hangs on."""
    document = build_document()
    observed = build_observed(document)
    observed["links"].update(link)
    assert list_verbs(document, observed) == [(name, "remove_link") for name in removed]


def test_kept_bridge_is_an_orphan():
    """A bridge under a guest is reported; without the guest it is work still to do."""
    document = build_document()
    observed = build_observed(document)
    observed["links"]["kbr22222222222"] = build_link(kind="bridge")
    observed["links"]["ktp22222222222"] = build_link(kind="tun", bridge="kbr22222222222")
    report = networks.report_networks(document, observed)
    assert report["orphans"] == {"bridges": ["kbr22222222222"]}
    assert not report["pending"]
    del observed["links"]["ktp22222222222"]
    assert networks.report_networks(document, observed)["pending"]
    assert report["networks"] == {NETWORK: {"state": "active"}}


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ({"type": "flat", "physical_network": "x"}, "segmentation.physical_network 'x'"),
        ({"type": "vlan", "physical_network": "x", "id": 5}, "physical network 'x' has no interface"),
        ({"type": "vxlan", "id": 0, "local": "192.0.2.1", "peers": []}, "segmentation.id 0"),
        ({"type": "vxlan", "id": 7, "local": None, "peers": []}, "this host has no settings.tunnel_address"),
        ({"type": "vxlan", "id": 7, "local": "fd00::1", "peers": []}, "'fd00::1' is not an IPv4 address"),
        ({"type": "vxlan", "id": 7, "local": "192.0.2.1", "peers": ["x y"]}, "'x y' is not an IPv4 address"),
        ({"type": "gre"}, "segmentation.type 'gre'"),
        ({}, "'type' is missing"),
    ],
)
def test_bad_segmentation(segmentation, words):
    """A network that cannot be made is refused by a sentence that names the field, alone."""
    document = build_document(segmentation=segmentation)
    observed = build_observed(build_document())
    refused = [a for a in networks.plan_networks(document, observed) if a.verb == "refuse"]
    assert len(refused) == 1
    assert words in refused[0].args["refuse"]


@pytest.mark.parametrize(
    ("segmentation", "ip", "fdb"),
    [
        (
            {"type": "vxlan", "id": 7, "local": "192.0.2.1", "peers": ["192.0.2.3", "192.0.2.2"]},
            "link add name {x} type vxlan id 7 local 192.0.2.1 dstport 4789 nolearning",
            ["192.0.2.2", "192.0.2.3"],
        ),
        ({"type": "vlan", "physical_network": "trunk", "id": 12}, "link add link eth9 name {v} type vlan id 12", []),
    ],
)
def test_uplink(segmentation, ip, fdb):
    """VLAN and VXLAN links as iproute2 makes them, peers sorted."""
    document = build_document(segmentation=segmentation, home=None)
    document["settings"]["physical_networks"] = {"trunk": {"bridge": "kumo-trunk", "interface": "eth9"}}
    change = bridges.plan_bridge(document, document["networks"][0], {}, {}, {})
    name = {"x": names.build_vxlan_name(NETWORK), "v": names.build_vlan_name(NETWORK)}
    assert ip.format(**name) in change["ip"]
    entry = "fdb append 00:00:00:00:00:00 dev {x} dst "
    assert change["bridge"] == [entry.format(**name) + peer for peer in fdb]


@pytest.mark.parametrize(
    ("segmentation", "seen", "again"),
    [
        ({"type": "vxlan", "id": 7, "local": "192.0.2.1", "peers": []}, {"id": 7, "local": "192.0.2.1"}, False),
        ({"type": "vxlan", "id": 7, "local": "192.0.2.1", "peers": []}, {"id": 7, "local": "192.0.2.9"}, True),
        ({"type": "vxlan", "id": 7, "local": "192.0.2.1", "peers": []}, {"id": 8, "local": "192.0.2.1"}, True),
        ({"type": "vlan", "physical_network": "trunk", "id": 12}, {"id": 12}, False),
        ({"type": "vlan", "physical_network": "trunk", "id": 12}, {"id": 13}, True),
    ],
)
def test_uplink_is_made_again(segmentation, seen, again):
    """What cannot be changed of an uplink (its number, its own address) makes a new one of it; the rest stays."""
    document = build_document(segmentation=segmentation, home=None)
    document["settings"]["physical_networks"] = {"trunk": {"bridge": "kumo-trunk", "interface": "eth9"}}
    name = names.build_vxlan_name(NETWORK) if segmentation["type"] == "vxlan" else names.build_vlan_name(NETWORK)
    found = {
        BRIDGE: build_link(kind="bridge"),
        name: build_link(kind=segmentation["type"], bridge=BRIDGE, data=seen, parent="eth9"),
    }
    change = bridges.plan_bridge(document, document["networks"][0], found, {}, bridges.build_sysctls(BRIDGE))
    assert (change is not None) is again
    if change:
        assert change["ip"][0] == f"link del dev {name}"
        assert change["before"] != change["after"]


def test_masquerade():
    """A masqueraded physical network: its bridge, address, rules and forwarding; without it all is undone."""
    document = build_document()
    row = {"bridge": "kumo-public", "addresses": ["172.24.4.1/24"], "masquerade": True, "interface": None}
    observed = build_observed(document)
    observed["physical"]["sysctls"] = {physical.FORWARDING: "0"}
    with_public = copy.deepcopy(document)
    with_public["settings"]["physical_networks"] = {"public": row}
    planned = networks.plan_networks(with_public, observed)
    assert [(a.object_id, a.verb) for a in planned] == [
        ("public", "create_physical"),
        ("host", "filter"),
        ("host", "forward"),
    ]
    assert "-s 172.24.4.0/24 ! -o kumo-public -j MASQUERADE" in planned[1].after
    observed["physical"] |= {"created": {"kumo-public": "public"}, "before": {physical.FORWARDING: "0"}}
    observed["links"]["kumo-public"] = build_link(kind="bridge")
    observed["physical"]["chains"] = physical.build_chains(with_public)
    assert list_verbs(document, observed) == [
        ("public", "remove_physical"),
        ("host", "filter"),
        ("host", "restore"),
    ]


@pytest.mark.parametrize("name", ["eth0; reboot", "a\nb", "", "..", None, "sixteen-letters-"])
def test_bridge_names_are_checked(name):
    """A physical network's bridge must be the name of an interface."""
    document = build_document()
    document["settings"]["physical_networks"] = {"public": {"bridge": name, "addresses": [], "masquerade": True}}
    observed = build_observed(build_document())
    assert ("host", "refuse") in list_verbs(document, observed)


def test_interface_with_addresses_is_not_enslaved():
    """An interface that the host itself is reached by is left alone, in words."""
    document = build_document()
    document["settings"]["physical_networks"] = {"lan": {"bridge": "kumo-lan", "addresses": [], "interface": "eth9"}}
    observed = build_observed(build_document())
    observed["links"]["eth9"] = build_link(kind="", alias="", addresses=["192.0.2.2/24"])
    (action,) = [a for a in networks.plan_networks(document, observed) if a.object_id == "lan"]
    assert "eth9 has addresses of its own" in action.args["physical"]["refuse"]


def test_addresses_of_the_kernel_are_not_seen():
    """The link-local address that the kernel derives from a MAC is nobody's to remove."""
    row = {
        "ifname": "kvi1",
        "ifindex": 3,
        "mtu": 1450,
        "flags": ["UP"],
        "address": "fa:16:3e:00:00:01",
        "linkinfo": {"info_kind": "veth"},
        "addr_info": [
            {"family": "inet", "local": "10.0.0.1", "prefixlen": 24},
            {"family": "inet6", "local": "fe80::f816:3eff:fe00:1", "prefixlen": 64},
            {"family": "inet6", "local": "fe80::1", "prefixlen": 64},
        ],
    }
    assert links.parse_links([row, {}])["kvi1"]["addresses"] == ["10.0.0.1/24", "fe80::1/64"]
