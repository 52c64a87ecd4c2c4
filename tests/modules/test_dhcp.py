"""The section dhcp as tables: dnsmasq's files from a network, and which change takes which action."""

import copy

import pytest
from ansible.module_utils.kumo import dhcp, dnsmasq, names

NETWORK, ROUTER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
SUBNET, PORT = "33333333-3333-4333-8333-333333333333", "44444444-4444-4444-8444-444444444444"
MAC = "fa:16:3e:00:00:05"
SETTINGS = {
    "state_dir": "/var/lib/kumo/test",
    "dns_domain": "kumo.internal",
    "dns_servers": [],
    "physical_networks": {},
}
ACCOUNT = {"user": "dnsmasq", "group": "nogroup"}
TAG, PTAG = "tag:s33333333333", "p44444444444"


def build_subnet(**more) -> dict:
    row = {"id": SUBNET, "ip_version": 4, "cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.1", "dhcp": True}
    return row | {"dhcp_address": None, "dns_nameservers": [], "host_routes": [], "ipv6_mode": None} | more


def build_network(*subnets, **more) -> dict:
    row = {"id": NETWORK, "mtu": 1450, "segmentation": {"type": "local"}, "subnets": list(subnets)}
    row["home"] = {"kind": "network", "id": NETWORK}
    row["reservations"] = [{"port": PORT, "mac": MAC, "addresses": ["10.0.0.5"], "hostname": "web1", "options": []}]
    return row | more


def build_document(network) -> dict:
    return {"settings": SETTINGS, "networks": [network], "routers": []}


def build_observed(document) -> dict:
    """A host whose dnsmasq already serves the document's one network."""
    network = document["networks"][0]
    interface = names.build_inner_veth_name(NETWORK)
    held = dhcp._list_held(document, network, interface)
    folder = f"{SETTINGS['state_dir']}/networks/{NETWORK}"
    texts = {
        "dnsmasq.conf": dnsmasq.build_config(network, SETTINGS, interface, held, ACCOUNT, folder),
        "hosts": dnsmasq.build_hosts(network),
        "opts": dnsmasq.build_opts(network, SETTINGS, held),
    }
    row = {"files": texts, "leases": [[MAC, "10.0.0.5"]], "process": {"pid": 7, "inode": 9}, "present": True}
    return {"account": ACCOUNT, "networks": {NETWORK: row | {"bound": 3, "index": 3, "inode": 9}}}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("web1", "web1"),
        ("Web_1.example.org", "web-1-example-org"),
        ("x\ndhcp-option=3,6.6.6.6", "x-dhcp-option-3-6-6-6-6"),
        ("a,set:other,10.0.0.9", "a-set-other-10-0-0-9"),
        ("{{ 7*7 }}", "7-7"),
        ("<name>&\"'", "name"),
        ("-\u96f2-", "host-10-0-0-5"),
        ("", "host-10-0-0-5"),
        (None, "host-10-0-0-5"),
        ("a" * 255, "a" * 63),
    ],
)
def test_s35_hostnames(given, wanted):
    """Whatever a server is called, its line has one label of letters, digits and hyphens."""
    network = build_network(build_subnet())
    network["reservations"][0]["hostname"] = given
    assert dnsmasq.build_hosts(network) == f"{MAC},10.0.0.5,{wanted}\n"
    network["reservations"][0]["options"] = [{"name": "bootfile-name", "value": "a"}]
    assert dnsmasq.build_hosts(network) == f"{MAC},set:{PTAG},10.0.0.5,{wanted}\n"


@pytest.mark.parametrize(
    ("option", "lines"),
    [
        ({"name": "bootfile-name", "value": "pxe.0"}, [f"tag:{PTAG},option:bootfile-name,pxe.0"]),
        ({"name": "150", "value": "10.0.0.2", "ip_version": 4}, [f"tag:{PTAG},150,10.0.0.2"]),
        ({"name": "dns-server", "value": "[fd00::1]", "ip_version": 6}, [f"tag:{PTAG},option6:dns-server,[fd00::1]"]),
        ({"name": "x,y", "value": "1"}, []),
        ({"name": "mtu", "value": "1\ndhcp-script=/bin/sh"}, []),
        ({"name": "", "value": "1"}, []),
    ],
)
def test_s35_ports_own_options(option, lines):
    """A port's options stay one line each, or are left out."""
    network = build_network(build_subnet())
    network["reservations"][0]["options"] = [option]
    assert [line for line in dnsmasq.build_opts(network, SETTINGS, []).splitlines() if PTAG in line] == lines


@pytest.mark.parametrize(
    ("subnet", "held", "lines"),
    [
        ({}, ["10.0.0.1/24"], ["option:router,10.0.0.1", "option:dns-server,10.0.0.1"]),
        (
            {"dns_nameservers": ["9.9.9.9", "8.8.8.8"]},
            ["10.0.0.1/24"],
            ["option:router,10.0.0.1", "option:dns-server,9.9.9.9,8.8.8.8"],
        ),
        (
            {"gateway_ip": None},
            ["10.0.0.2/24"],
            ["option:router", "option:dns-server,10.0.0.2", "121:169.254.169.254/32,10.0.0.2"],
        ),
        (
            {"host_routes": [{"destination": "10.9.0.0/24", "nexthop": "10.0.0.9"}]},
            ["10.0.0.1/24"],
            ["option:router,10.0.0.1", "option:dns-server,10.0.0.1", "121:10.9.0.0/24,10.0.0.9,0.0.0.0/0,10.0.0.1"],
        ),
        (
            {"gateway_ip": "10.0.0.254"},
            ["10.0.0.2/24"],
            [
                "option:router,10.0.0.254",
                "option:dns-server,10.0.0.2",
                "121:169.254.169.254/32,10.0.0.2,0.0.0.0/0,10.0.0.254",
            ],
        ),
    ],
)
def test_options(subnet, held, lines):
    """Router, resolver and routes of a subnet; where option 121 is sent it holds the default route (RFC 3442)."""
    wanted = []
    for line in lines:
        if line.startswith("121:"):
            wanted += [f"{TAG},option:classless-static-route,{line[4:]}", f"{TAG},249,{line[4:]}"]
        else:
            wanted.append(f"{TAG},{line}")
    text = dnsmasq.build_opts(build_network(build_subnet(**subnet)), SETTINGS, held)
    assert text.splitlines() == ["option:mtu,1450", *wanted]


@pytest.mark.parametrize(
    ("mode", "home", "lines"),
    [
        ("slaac", "router", ["fd00::,ra-only,64,24h", "1800"]),
        ("dhcpv6-stateless", "router", ["fd00::,ra-stateless,64,24h", "1800"]),
        ("dhcpv6-stateful", "router", ["fd00::,static,64,24h", "1800"]),
        ("slaac", "network", ["fd00::,ra-only,64,24h", "0"]),
        (None, "network", []),
    ],
)
def test_ipv6(mode, home, lines):
    """The three modes; a namespace that routes nowhere announces itself with a lifetime of 0."""
    subnet = build_subnet(ip_version=6, cidr="fd00::/64", gateway_ip="fd00::1", ipv6_mode=mode)
    network = build_network(subnet, home={"kind": home, "id": ROUTER})
    text = dnsmasq.build_config(network, SETTINGS, "kvi1", ["fd00::1/64"], ACCOUNT, "/x")
    wanted = (
        [f"dhcp-range=set:s33333333333,{lines[0]}", "enable-ra", f"ra-param=kvi1,mtu:1450,60,{lines[1]}"]
        if lines
        else []
    )
    assert [line for line in text.splitlines() if line.startswith(("dhcp-range", "enable-ra", "ra-param"))] == wanted


def test_only_reserved_addresses():
    """The range is static, the domain clean, forwarders those of the settings."""
    settings = SETTINGS | {"dns_servers": ["192.0.2.53"], "dns_domain": "Cloud.Example\naddn-hosts=/etc/shadow"}
    text = dnsmasq.build_config(build_network(build_subnet()), settings, "kvi1", [], ACCOUNT, "/x")
    assert "dhcp-range=set:s33333333333,10.0.0.0,static,255.255.255.0,24h\n" in text
    assert "domain=cloud.exampleaddn-hostsetcshadow\n" in text
    assert "no-resolv\nserver=192.0.2.53\n" in text


@pytest.mark.parametrize(
    ("leases", "stale"),
    [
        ([[MAC, "10.0.0.5"]], []),
        ([["fa:16:3e:00:00:99", "10.0.0.5"]], ["10.0.0.5"]),
        ([[MAC, "10.0.0.6"]], ["10.0.0.6"]),
        ([["", "fd00::5"]], ["fd00::5"]),
        ([["", "10.0.0.5"]], []),
    ],
)
def test_stale_leases(leases, stale):
    """A lease is stale where no reservation gives this address to this MAC (IPv6: to anyone)."""
    assert dnsmasq.list_stale(leases, [[MAC, "10.0.0.5"]]) == stale


def test_lease_file():
    """dnsmasq's lease file: IPv4, the server's DUID, IPv6; a lease is taken out and the rest stays as it is."""
    text = f"1 {MAC} 10.0.0.5 web1 *\n2 fa:16:3e:00:00:06 10.0.0.6 web2 *\nduid 00:01:00\n3 123 fd00::5 web1 00:02\n"
    assert dnsmasq.parse_leases(text) == [[MAC, "10.0.0.5"], ["fa:16:3e:00:00:06", "10.0.0.6"], ["", "fd00::5"]]
    assert dnsmasq.build_leases(text, ["10.0.0.5", "fd00::5"]) == (
        "2 fa:16:3e:00:00:06 10.0.0.6 web2 *\nduid 00:01:00\n"
    )


def tag(seen):
    """The reservation as it is where its port has options, and as it was written for every port before."""
    seen["files"]["hosts"] = seen["files"]["hosts"].replace(f"{MAC},", f"{MAC},set:{PTAG},")


@pytest.mark.parametrize(
    ("wanted", "seen", "verb"),
    [
        (lambda n: None, lambda s: None, None),
        (lambda n: None, lambda s: s.update(process=None), "start"),
        (lambda n: None, lambda s: s.update(inode=10), "restart"),
        (lambda n: None, lambda s: s.update(index=4), "restart"),
        (lambda n: None, lambda s: s.update(leases=[[MAC, "10.0.0.9"]]), "restart"),
        (lambda n: n["reservations"][0].update(hostname="web2"), lambda s: None, "reload"),
        (lambda n: n["subnets"][0].update(dns_nameservers=["9.9.9.9"]), lambda s: None, "reload"),
        (lambda n: n["reservations"][0].update(hostname="web2"), tag, "restart"),
        (lambda n: None, tag, "restart"),
        (lambda n: n["subnets"][0].update(cidr="10.0.0.0/16"), lambda s: None, "restart"),
        (lambda n: n["subnets"][0].update(dhcp=False), lambda s: None, "remove"),
    ],
)
def test_plan(wanted, seen, verb):
    """No change is no action; new reservations are a reload; a new range, interface or namespace a restart."""
    document = build_document(build_network(build_subnet()))
    observed = build_observed(document)
    document = copy.deepcopy(document)
    wanted(document["networks"][0])
    seen(observed["networks"][NETWORK])
    assert [action.verb for action in dhcp.plan_dhcp(document, observed)] == ([verb] if verb else [])


def test_s22_gone_reservations_are_forgotten():
    """An address that changes its MAC or goes takes its tracked connections with it."""
    document = build_document(build_network(build_subnet()))
    observed = build_observed(document)
    document = copy.deepcopy(document)
    document["networks"][0]["reservations"][0]["mac"] = "fa:16:3e:00:00:77"
    (action,) = dhcp.plan_dhcp(document, observed)
    assert (action.args["forget"], action.args["release"]) == (["10.0.0.5"], ["10.0.0.5"])


def test_network_without_its_router():
    """A home router that has no leg on the network is a sentence, and names the router."""
    network = build_network(build_subnet(), home={"kind": "router", "id": ROUTER})
    document = build_document(network)
    (action,) = dhcp.plan_dhcp(document, build_observed(build_document(build_network(build_subnet()))))
    assert ROUTER in action.args["refuse"]
