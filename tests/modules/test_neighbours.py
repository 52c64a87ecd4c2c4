"""The section neighbours as tables: entries of bridges, tunnels and namespaces for ports on other hosts."""

import copy

import pytest
from ansible.module_utils.kumo import legs, links, names, neighbours

NETWORK = "11111111-1111-4111-8111-111111111111"
ROUTER = "22222222-2222-4222-8222-222222222222"
PORT, FAR = "33333333-3333-4333-8333-333333333333", "44444444-4444-4444-8444-444444444444"
STATE_DIR = "/var/lib/kumo/test"
GATEWAY, MAC = "fa:16:3e:00:00:01", "fa:16:3e:00:00:09"
VXLAN = names.build_vxlan_name(NETWORK)
OUTER, INNER = names.build_outer_veth_name(PORT), names.build_inner_veth_name(PORT)
SPACE = names.build_namespace_name("router", ROUTER)


def build_document(**more) -> dict:
    network = {
        "id": NETWORK,
        "mtu": 1450,
        "segmentation": {"type": "vxlan", "id": 7, "local": "192.0.2.1", "peers": ["192.0.2.2"]},
        "home": {"kind": "router", "id": ROUTER},
        "subnets": [{"id": FAR, "cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.1", "ip_version": 4, "dhcp": True}],
        "elsewhere": [{"port": FAR, "mac": MAC, "addresses": ["10.0.0.9", "fd00::9"], "tunnel": "192.0.2.2"}],
    } | more
    interface = {"port": PORT, "network": NETWORK, "mac": GATEWAY, "addresses": ["10.0.0.1/24"]}
    settings = {"state_dir": STATE_DIR, "physical_networks": {"trunk": {"bridge": "kumo-trunk", "interface": "eth9"}}}
    return {"settings": settings, "networks": [network], "routers": [{"id": ROUTER, "interfaces": [interface]}]}


def build_observed() -> dict:
    """A host on which ``build_document`` is already so."""
    return {
        "forwarding": {
            OUTER: {"flooding": [], "tunnels": {}, "static": {GATEWAY: True}},
            VXLAN: {"flooding": ["192.0.2.2"], "tunnels": {MAC: "192.0.2.2"}, "static": {MAC: False}},
        },
        "neighbours": {SPACE: {INNER: {"10.0.0.9": MAC, "fd00::9": MAC}}},
    }


def test_nothing_to_do():
    """A host that is as wanted gives no action."""
    assert neighbours.plan_neighbours(build_document(), build_observed()) == []


def test_all_at_once():
    """On a host that knows nothing: the gateway's place, the far port's place and tunnel, and its addresses."""
    (action,) = neighbours.plan_neighbours(build_document(), {"forwarding": {}, "neighbours": {}})
    assert (action.object_id, action.verb) == (NETWORK, "learn")
    assert action.args["bridge"] == [
        f"fdb replace {GATEWAY} dev {OUTER} master sticky static",
        f"fdb replace {MAC} dev {VXLAN} master static",
        f"fdb replace {MAC} dev {VXLAN} dst 192.0.2.2 self",
    ]
    assert action.args["inside"] == {
        SPACE: [f"neigh replace {a} lladdr {MAC} dev {INNER} nud permanent" for a in ("10.0.0.9", "fd00::9")]
    }
    assert action.requires == (("networks", NETWORK), ("routers", ROUTER))
    assert action.before == ""
    assert f"{MAC} by {VXLAN} to 192.0.2.2" in action.after


@pytest.mark.parametrize(
    ("damage", "bridge", "inside"),
    [
        (
            lambda o: o["forwarding"][OUTER]["static"].clear(),
            [f"fdb replace {GATEWAY} dev {OUTER} master sticky static"],
            [],
        ),
        (
            lambda o: o["forwarding"][OUTER]["static"].update({GATEWAY: False}),
            [f"fdb replace {GATEWAY} dev {OUTER} master sticky static"],
            [],
        ),
        (
            lambda o: o["forwarding"][OUTER]["static"].update({"fa:16:3e:00:00:77": True}),
            [f"fdb del fa:16:3e:00:00:77 dev {OUTER} master"],
            [],
        ),
        (
            lambda o: o["forwarding"][VXLAN]["tunnels"].update({MAC: "192.0.2.9"}),
            [f"fdb replace {MAC} dev {VXLAN} dst 192.0.2.2 self"],
            [],
        ),
        (
            lambda o: o["forwarding"][VXLAN]["tunnels"].update({"fa:16:3e:00:00:77": "192.0.2.2"}),
            [f"fdb del fa:16:3e:00:00:77 dev {VXLAN} dst 192.0.2.2 self"],
            [],
        ),
        (
            lambda o: o["neighbours"][SPACE][INNER].pop("fd00::9"),
            [],
            [f"neigh replace fd00::9 lladdr {MAC} dev {INNER} nud permanent"],
        ),
        (
            lambda o: o["neighbours"][SPACE][INNER].update({"10.0.0.8": MAC}),
            [],
            [f"neigh del 10.0.0.8 dev {INNER}"],
        ),
    ],
)
def test_repair(damage, bridge, inside):
    """One entry that is off is the one line that mends it."""
    observed = build_observed()
    damage(observed)
    (action,) = neighbours.plan_neighbours(build_document(), observed)
    assert action.args["bridge"] == bridge
    assert action.args["inside"] == ({SPACE: inside} if inside else {})
    assert action.before != action.after


def test_a_port_that_moves_has_no_tunnel():
    """Its frames go to all hosts; its addresses stay known."""
    document = build_document()
    document["networks"][0]["elsewhere"][0]["tunnel"] = None
    (action,) = neighbours.plan_neighbours(document, build_observed())
    assert action.args == {
        "bridge": [f"fdb del {MAC} dev {VXLAN} master", f"fdb del {MAC} dev {VXLAN} dst 192.0.2.2 self"],
        "inside": {},
    }


def test_every_router_on_the_network_knows():
    """A second router that is not its home has a leg there too, and needs the same neighbours."""
    document = build_document()
    second, leg = "55555555-5555-4555-8555-555555555555", "66666666-6666-4666-8666-666666666666"
    interface = {"port": leg, "network": NETWORK, "mac": "fa:16:3e:00:00:02", "addresses": ["10.0.0.254/24"]}
    document["routers"].append({"id": second, "interfaces": [interface]})
    (action,) = neighbours.plan_neighbours(document, build_observed())
    assert list(action.args["inside"]) == [names.build_namespace_name("router", second)]
    assert action.args["bridge"] == [
        f"fdb replace fa:16:3e:00:00:02 dev {names.build_outer_veth_name(leg)} master sticky static"
    ]


def test_a_network_of_its_own():
    """Without a router its own namespace knows the far ports."""
    document = build_document(home={"kind": "network", "id": NETWORK})
    document["routers"] = []
    (action,) = neighbours.plan_neighbours(document, {"forwarding": {}, "neighbours": {}})
    space = names.build_namespace_name("network", NETWORK)
    assert list(action.args["inside"]) == [space]
    assert action.args["bridge"][0].startswith(f"fdb replace {legs.build_mac(NETWORK)} dev kvo")
    assert action.requires == (("networks", NETWORK),)


@pytest.mark.parametrize(
    "changes",
    [
        {"home": None},
        {"segmentation": {"type": "local"}, "elsewhere": []},
        {"segmentation": {"type": "vxlan", "id": 7, "local": None, "peers": []}},
    ],
    ids=["external", "local", "no tunnel address: told by networks"],
)
def test_networks_that_need_nothing(changes):
    """External ones, those of one host, and those that the section networks refuses."""
    assert neighbours.plan_neighbours(build_document(**changes), {"forwarding": {}, "neighbours": {}}) == []


def test_vlan_needs_no_tunnel():
    """On a trunk a bridge learns by itself: only the gateway's place and the neighbours are written."""
    document = build_document(segmentation={"type": "vlan", "physical_network": "trunk", "id": 5})
    document["networks"][0]["elsewhere"][0]["tunnel"] = None
    (action,) = neighbours.plan_neighbours(document, {"forwarding": {}, "neighbours": {}})
    assert action.args["bridge"] == [f"fdb replace {GATEWAY} dev {OUTER} master sticky static"]
    assert len(action.args["inside"][SPACE]) == 2


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("mac", "x", "is not a MAC address"),
        ("addresses", ["10.0.0.9 dev lo"], "10.0.0.9 dev lo"),
        ("tunnel", "fd00::1", "fd00::1"),
    ],
)
def test_a_wrong_port_is_refused_by_name(field, value, words):
    """What is no MAC or address becomes no line; the sentence names the port."""
    document = build_document()
    document["networks"][0]["elsewhere"][0][field] = value
    other = copy.deepcopy(document["networks"][0]) | {"id": PORT, "elsewhere": []}
    document["networks"].append(other)
    actions = neighbours.plan_neighbours(document, build_observed())
    (refused,) = [action for action in actions if action.verb == "refuse"]
    assert refused.object_id == NETWORK
    assert FAR in refused.args["refuse"]
    assert words in refused.args["refuse"]


def test_what_bridge_and_ip_print():
    """Their JSON, as iproute2 6.1 has it."""
    rows = [
        {"mac": "33:33:00:00:00:01", "ifname": "br0", "flags": ["self"], "state": "permanent"},
        {"mac": GATEWAY, "ifname": OUTER, "flags": ["sticky"], "master": "br0", "state": "static"},
        {"mac": "86:53:db:3a:da:75", "ifname": OUTER, "flags": [], "master": "br0", "state": "permanent"},
        {"mac": "fa:16:3e:00:00:05", "ifname": OUTER, "flags": [], "master": "br0", "state": ""},
        {"mac": MAC, "ifname": VXLAN, "flags": [], "master": "br0", "state": "static"},
        {"mac": "00:00:00:00:00:00", "ifname": VXLAN, "dst": "192.0.2.3", "flags": ["self"], "state": "permanent"},
        {"mac": "00:00:00:00:00:00", "ifname": VXLAN, "dst": "192.0.2.2", "flags": ["self"], "state": "permanent"},
        {"mac": MAC, "ifname": VXLAN, "dst": "192.0.2.2", "flags": ["self"], "state": "permanent"},
    ]
    found = links.parse_forwarding(rows)
    assert found[OUTER] == {"flooding": [], "tunnels": {}, "static": {GATEWAY: True}}
    assert found[VXLAN]["flooding"] == ["192.0.2.2", "192.0.2.3"]
    assert found[VXLAN]["tunnels"] == {MAC: "192.0.2.2"}
    assert found[VXLAN]["static"] == {MAC: False}
    known = [
        {"dst": "10.0.0.9", "dev": INNER, "lladdr": MAC, "state": ["PERMANENT"]},
        {"dst": "10.0.0.5", "dev": INNER, "lladdr": MAC, "state": ["REACHABLE"]},
    ]
    assert links.parse_neighbours(known) == {INNER: {"10.0.0.9": MAC}}
