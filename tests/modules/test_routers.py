"""The section routers as tables: rules, routes and the order of a plan."""

import copy

import pytest
from ansible.module_utils.kumo import bridges, following, legs, names, nat, routers

ROUTER = "11111111-1111-4111-8111-111111111111"
INSIDE, OUTSIDE = "22222222-2222-4222-8222-222222222222", "33333333-3333-4333-8333-333333333333"
PORT_IN, PORT_OUT = "44444444-4444-4444-8444-444444444444", "55555555-5555-4555-8555-555555555555"
FLOATING = "66666666-6666-4666-8666-666666666666"
STATE_DIR = "/var/lib/kumo/test"
SPACE = names.build_namespace_name("router", ROUTER)
OUT, IN = names.build_inner_veth_name(PORT_OUT), names.build_inner_veth_name(PORT_IN)


def build_router(**more) -> dict:
    row = {"id": ROUTER, "enabled": True, "routes": [], "floating_ips": []}
    row["interfaces"] = [
        {"port": PORT_IN, "network": INSIDE, "mac": "fa:16:3e:00:00:01", "addresses": ["10.0.0.1/24", "fd00::1/64"]}
    ]
    row["external"] = {"port": PORT_OUT, "network": OUTSIDE, "mac": "fa:16:3e:00:00:02", "snat": True}
    row["external"] |= {"addresses": ["172.24.4.10/24"], "gateways": ["172.24.4.1"]}
    return row | more


def build_floating(address="172.24.4.20", fixed="10.0.0.5") -> dict:
    return {"id": FLOATING, "port": PORT_IN, "floating_address": address, "fixed_address": fixed}


def build_document(*rows) -> dict:
    physical = {"public": {"bridge": "kumo-public", "addresses": [], "masquerade": True, "interface": None}}
    home = {"kind": "router", "id": ROUTER}
    subnet = {"id": INSIDE, "cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.1", "ip_version": 4, "dhcp": True}
    networks = [
        {"id": INSIDE, "mtu": 1450, "segmentation": {"type": "local"}, "home": home, "subnets": [subnet]},
        {"id": OUTSIDE, "mtu": 1500, "home": None, "subnets": []},
    ]
    networks[1]["segmentation"] = {"type": "flat", "physical_network": "public"}
    settings = {"state_dir": STATE_DIR, "physical_networks": physical}
    return {"settings": settings, "networks": networks, "routers": list(rows)}


def build_link(**more) -> dict:
    row = {"index": 2, "kind": "veth", "mac": "", "mtu": 1450, "up": True, "bridge": None, "alias": f"kumo:{STATE_DIR}"}
    return row | {"parent": None, "data": {}, "addresses": []} | more


def build_observed(document) -> dict:
    """A host on which the document's one router is already so."""
    router = document["routers"][0]
    outside, inside = {}, {"lo": build_link(kind="", addresses=sorted(legs.METADATA_ADDRESSES))}
    for leg in routers.build_legs(document, router):
        outside[leg["outer"]] = build_link(bridge=leg["bridge"], mtu=leg["mtu"])
        held = sorted([*leg["addresses"], *leg["floating"]])
        inside[leg["inner"]] = build_link(mac=leg["mac"], mtu=leg["mtu"], addresses=held)
    value = "1" if router["enabled"] else "0"
    row = {"links": inside, "routes": routers.build_routes(router), "chains": nat.build_rulesets(router)}
    row["sysctls"] = dict.fromkeys(routers.FORWARDING, value)
    return {"links": outside, "namespaces": {SPACE: row}, "forget": {}, "notes": {}, "running": None}


def list_verbs(document, observed) -> list[str]:
    return [action.verb for action in routers.plan_routers(document, observed)]


@pytest.mark.parametrize(
    "router", [build_router(), build_router(floating_ips=[build_floating()]), build_router(enabled=False)]
)
def test_nothing_to_do(router):
    """A router that is as wanted gives no action."""
    document = build_document(router)
    assert list_verbs(document, build_observed(document)) == []


def test_new_router_has_rules_before_addresses():
    """The namespace, then its rules, then the legs, forwarding and routes last."""
    document = build_document(build_router(floating_ips=[build_floating()]))
    verbs = list_verbs(document, {"links": {}, "namespaces": {}, "forget": {}, "notes": {}, "running": None})
    assert verbs == ["create_namespace", "filter", "filter", "connect", "connect", "forward", "route"]


def test_nat_rules():
    """Floating pairs lead in and out and back to neighbours; everyone else leaves by the router's address."""
    rules = nat.build_rulesets(build_router(floating_ips=[build_floating()]))["IPv4"]["nat"]
    assert rules["kumo-PREROUTING"] == ["-d 172.24.4.20/32 -j DNAT --to-destination 10.0.0.5"]
    assert rules["kumo-OUTPUT"] == rules["kumo-PREROUTING"]
    assert rules["kumo-POSTROUTING"] == [
        f"-s 10.0.0.5/32 -o {OUT} -j SNAT --to-source 172.24.4.20",
        "-s 10.0.0.5/32 -m conntrack --ctstate DNAT -j SNAT --to-source 172.24.4.20",
        "-s 10.0.0.0/24 -m conntrack --ctstate DNAT -j SNAT --to-source 172.24.4.10",
        f"-o {OUT} -j SNAT --to-source 172.24.4.10",
    ]


GUEST = "77777777-7777-4777-8777-777777777777"


@pytest.mark.parametrize(
    ("running", "held", "leads"),
    [({GUEST}, False, True), (set(), True, False), ({GUEST}, True, True), (None, True, True), (None, False, False)],
)
def test_an_address_is_where_its_guest_runs(running, held, leads):
    """On both hosts of a move it leads only from that on which the guest runs; else it stays as it is."""
    with_it = build_router(floating_ips=[{**build_floating(), "follows": GUEST}])
    document, without = build_document(with_it), build_document(build_router())
    observed = {**build_observed(document if held else without), "running": running}
    observed["notes"] = {ROUTER: following.build_note(document, with_it)}
    changes = {(True, False): ["note", "filter", "adjust", "forget", "route"], (False, True): ["filter", "adjust"]}
    verbs = list_verbs(document, observed)
    assert sorted(verbs) == sorted(changes.get((held, leads), []))
    assert routers.report_routers(document, observed)["floating_ips"] == (
        {FLOATING: {"state": "active"}} if held else {}
    )


def test_a_task_knows_what_follows():
    """What a router's note says is enough to plan it anew; it goes with the last address that follows."""
    document = build_document(build_router(floating_ips=[{**build_floating(), "follows": GUEST}]))
    observed = {**build_observed(build_document(build_router())), "running": set()}
    (action,) = routers.plan_routers(document, observed)
    assert (action.verb, following.list_followed(action.args["follow"])) == ("follow", {GUEST})
    note = action.args["follow"]
    assert list_verbs(note, {**observed, "running": {GUEST}, "notes": {ROUTER: note}}) == ["filter", "adjust"]
    observed["notes"] = {ROUTER: note}
    (action,) = routers.plan_routers(build_document(build_router()), observed)
    assert action.args == {"follow": None}


@pytest.mark.parametrize(
    ("external", "family", "present", "absent"),
    [
        (
            {"snat": True},
            "IPv4",
            f"-i {OUT} -m conntrack --ctstate DNAT -j ACCEPT",
            f"-d 10.0.0.0/24 -i {OUT} -j ACCEPT",
        ),
        ({"snat": False}, "IPv4", f"-d 10.0.0.0/24 -i {OUT} -j ACCEPT", "none"),
        ({}, "IPv6", f"-i {OUT} -j DROP", f"-d fd00::/64 -i {OUT} -j ACCEPT"),
        ({"addresses": ["2001:db8::2/64"]}, "IPv6", f"-d fd00::/64 -i {OUT} -j ACCEPT", "none"),
    ],
)
def test_what_comes_in(external, family, present, absent):
    """From outside: what was translated or answers; routed only where there is nothing to translate with."""
    router = build_router()
    router["external"] |= external
    rules = nat.build_rulesets(router)[family]["filter"]["kumo-FORWARD"]
    assert present in rules
    assert absent not in rules
    assert rules[-1] == f"-i {OUT} -j DROP"


def test_router_without_external_leg_has_no_rules():
    """Nothing is translated or filtered between a tenant's own networks."""
    router = build_router(external=None, floating_ips=[build_floating()])
    assert nat.build_rulesets(router) == {"IPv4": {}, "IPv6": {}}
    assert nat.build_pairs(router) == {}


@pytest.mark.parametrize(
    ("before", "after", "forgotten"),
    [
        ([build_floating()], [], ["172.24.4.20"]),
        ([build_floating()], [build_floating(fixed="10.0.0.6")], ["172.24.4.20"]),
        ([], [build_floating()], None),
        ([build_floating()], [build_floating(), build_floating("172.24.4.21", "10.0.0.7")], None),
    ],
)
def test_s22_connections_of_a_floating_address_are_forgotten(before, after, forgotten):
    """Noted before the rule goes, removed after the address has gone; a run cut short finds the note."""
    old = build_document(build_router(floating_ips=before))
    new = build_document(build_router(floating_ips=after))
    planned = routers.plan_routers(new, build_observed(old))
    notes = [action.args["note"] for action in planned if action.verb == "note"]
    removals = [action.args["forget"] for action in planned if action.verb == "forget"]
    assert notes == removals == ([forgotten] if forgotten else [])
    if forgotten:
        verbs = [action.verb for action in planned]
        assert verbs.index("note") < verbs.index("filter") < verbs.index("forget")
    cut = build_observed(new)
    cut["forget"] = {ROUTER: ["172.24.4.20"]}
    assert list_verbs(new, cut) == ["forget"]


@pytest.mark.parametrize(
    ("change", "verbs"),
    [
        (lambda r: r.update(enabled=False), ["forward"]),
        (lambda r: r.update(routes=[{"destination": "10.9.0.0/24", "nexthop": "10.0.0.9"}]), ["route"]),
        (lambda r: r.update(floating_ips=[build_floating()]), ["filter", "adjust"]),
        (lambda r: r["external"].update(gateways=["172.24.4.2"]), ["route"]),
        (lambda r: r["external"].update(snat=False), ["filter"]),
        (lambda r: r.update(external=None), ["note", "filter", "filter", "disconnect", "forget", "route"]),
        (lambda r: r.update(interfaces=[]), ["note", "filter", "disconnect", "forget"]),
    ],
)
def test_changes(change, verbs):
    """One change of a router is what it takes and no more (a removed subnet is in the hairpin rules too)."""
    document = build_document(build_router())
    observed = build_observed(document)
    wanted = copy.deepcopy(document)
    change(wanted["routers"][0])
    assert list_verbs(wanted, observed) == verbs


def test_lost_addresses_bring_their_routes_again():
    """The kernel drops routes with an address: mending the address sets them too."""
    document = build_document(build_router())
    observed = build_observed(document)
    observed["namespaces"][SPACE]["links"][OUT]["addresses"] = []
    observed["namespaces"][SPACE]["routes"] = {}
    assert list_verbs(document, observed) == ["adjust", "route"]


@pytest.mark.parametrize(("alias", "verbs"), [(f"kumo:{STATE_DIR}", ["remove"]), ("kumo:/elsewhere", []), ("", [])])
def test_removal(alias, verbs):
    """A namespace goes only with this state directory's tag."""
    document = build_document(build_router())
    observed = build_observed(document)
    observed["namespaces"][SPACE]["links"]["lo"]["alias"] = alias
    document["routers"] = []
    assert list_verbs(document, observed) == verbs


def test_stray_ends():
    """An end of a leg goes when no namespace has the other; a router's own is left to its own removal."""
    document = build_document(build_router())
    observed = build_observed(document)
    observed["links"] |= {"kvo99999999999": build_link(), "kvo88888888888": build_link(alias="kumo:/elsewhere")}
    assert [(a.object_id, a.verb) for a in routers.plan_routers(document, observed)] == [
        ("kvo99999999999", "remove_link")
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["interfaces"][0].update(network=ROUTER), "is not in document.networks"),
        (lambda r: r["interfaces"][0].update(addresses=["x"]), "'x' is not an address"),
        (lambda r: r["interfaces"][0].pop("addresses"), "'addresses' is missing"),
        (lambda r: r.update(routes=[{"destination": "10.0.0.1/8\nlink", "nexthop": "1.1.1.1"}]), "10.0.0.1/8"),
        (lambda r: r.update(floating_ips=[build_floating(fixed="10.0.0.5 -j ACCEPT")]), "10.0.0.5 -j ACCEPT"),
    ],
)
def test_bad_rows(change, words):
    """A router that cannot be made is refused by a sentence, and another one is planned all the same."""
    bad = build_router(id=FLOATING)
    change(bad)
    document = build_document(build_router(), bad)
    planned = routers.plan_routers(document, build_observed(build_document(build_router())))
    (action,) = planned
    assert (action.object_id, action.verb) == (FLOATING, "refuse")
    assert words in action.args["refuse"]


def test_report():
    """A router is active where it forwards with all its legs; a floating address where rule and address are there."""
    document = build_document(build_router(floating_ips=[build_floating()]))
    observed = build_observed(document)
    report = routers.report_routers(document, observed)
    assert report["routers"] == {ROUTER: {"state": "active"}}
    assert report["floating_ips"] == {FLOATING: {"state": "active"}}
    assert report["ports"] == {PORT_IN: {"state": "active"}, PORT_OUT: {"state": "active"}}
    observed["namespaces"][SPACE]["links"][OUT]["addresses"] = []
    assert routers.report_routers(document, observed)["floating_ips"] == {FLOATING: {"state": "down"}}
    observed["namespaces"] = {}
    assert routers.report_routers(document, observed)["routers"] == {ROUTER: {"state": "down"}}


def test_macs_differ():
    """A bridge's own MAC is never that of a leg on it."""
    line = bridges.build_bridge_lines(names.build_bridge_name(INSIDE), "t")[0]
    assert names.build_mac(INSIDE) not in line
