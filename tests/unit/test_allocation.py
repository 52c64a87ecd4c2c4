"""What allocation promises for any pools and any order of asking: no address twice, none outside the pools."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from web.allocation import (
    allocate_addresses,
    allocate_port,
    build_slaac_address,
    choose_address,
    is_usable,
    read_default_group,
    release_port,
)
from web.errors import Conflict, Forbidden, NotFound
from web.models import Address, Base, Database, Domain, Network, Port, Project, SecurityGroup, Subnet
from web.resources.network.ranges import build_gateway, build_pools, find_bounds, parse_pools

BASE = int(ipaddress.IPv4Address("10.0.0.0"))


def _show(number: int) -> str:
    return str(ipaddress.IPv4Address(BASE + number))


@st.composite
def pools(draw):
    """Up to three disjoint pools in 10.0.0.1 … 10.0.0.62, in any order."""
    cuts = draw(st.lists(st.integers(1, 62), min_size=2, max_size=6, unique=True).filter(lambda c: len(c) % 2 == 0))
    cuts.sort()
    spans = [{"start": _show(a), "end": _show(b)} for a, b in zip(cuts[::2], cuts[1::2], strict=True)]
    return draw(st.permutations(spans))


@given(pools(), st.sets(st.integers(0, 63)))
def test_choose_address_finds_the_lowest_free_one(spans, taken):
    found = choose_address(spans, {BASE + number for number in taken}, 4)
    offered = {
        number
        for span in spans
        for number in range(
            int(ipaddress.IPv4Address(span["start"])) - BASE, int(ipaddress.IPv4Address(span["end"])) - BASE + 1
        )
    }
    free = sorted(offered - taken)
    assert found == (_show(free[0]) if free else None)


@given(st.integers(16, 32), st.integers(0, 2**32 - 1), st.data())
def test_pools_of_a_subnet_are_all_its_addresses_but_the_gateway(length, number, data):
    cidr = str(ipaddress.ip_network((number, length), strict=False))
    first, last = find_bounds(cidr)
    gateway = data.draw(
        st.sampled_from([None, build_gateway(cidr), str(ipaddress.IPv4Address((first + last) // 2))])
    )  # fmt: skip
    made = build_pools(cidr, gateway)
    assert parse_pools(made, cidr) == made
    size = sum(
        int(ipaddress.IPv4Address(pool["end"])) - int(ipaddress.IPv4Address(pool["start"])) + 1 for pool in made
    )  # fmt: skip
    assert size == last - first + 1 - (gateway is not None)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('allocation')}/kumo.db")
    Base.metadata.create_all(database.engine)
    with database.write.begin() as session:
        session.add(Domain(id="default", name="Default"))
        session.flush()
        session.add(Project(id="p", domain_id="default", name="p"))
    yield database
    database.engine.dispose()


def _make_network(session, spans, zone=1, **attributes) -> Network:
    network = Network(project_id="p", zone=zone, **attributes)
    session.add(network)
    session.flush()
    session.add(
        Subnet(
            project_id="p",
            network_id=network.id,
            ip_version=4,
            cidr="10.0.0.0/26",
            gateway_ip=None,
            allocation_pools=spans,
        )
    )
    session.flush()
    return network


def _allocate(session, network, **more) -> Port:
    return allocate_port(session, None, network=network, project_id="p", **more)


@settings(max_examples=40, deadline=None)
@given(pools(), st.lists(st.sampled_from(["make", "drop", "choose"]), max_size=40), st.randoms(use_true_random=False))
def test_no_address_is_given_twice(database, spans, steps, random):
    with database.write() as session:
        network = _make_network(session, spans)
        offered = {
            str(ipaddress.IPv4Address(number))
            for span in spans
            for number in range(int(ipaddress.IPv4Address(span["start"])), int(ipaddress.IPv4Address(span["end"])) + 1)
        }
        held: dict[str, Port] = {}
        for step in steps:
            if step == "drop" and held:
                release_port(session, held.pop(random.choice(sorted(held))))
            elif step == "choose":
                wanted = _show(random.randint(1, 62))
                if wanted in held:
                    with pytest.raises(Conflict, match="is in use"):
                        _allocate(session, network, fixed_ips=[{"ip_address": wanted}], security_group_ids=[])
                    session.rollback()
                    return
                held[wanted] = _allocate(
                    session, network, fixed_ips=[{"ip_address": wanted}], security_group_ids=[]
                )  # fmt: skip
            elif step == "make":
                if offered <= set(held):
                    with pytest.raises(Conflict, match="No more IP addresses"):
                        _allocate(session, network, security_group_ids=[])
                    session.rollback()
                    return
                port = _allocate(session, network, security_group_ids=[])
                (address,) = [one.address for one in port.addresses]
                assert address in offered
                assert address not in held
                held[address] = port
        stored = list(session.scalars(select(Address.address)))
        assert sorted(stored) == sorted(held)
        session.rollback()


@pytest.mark.parametrize(
    ("mac", "address"),
    [
        ("fa:16:3e:07:55:5e", "fd00::f816:3eff:fe07:555e"),
        ("00:00:00:00:00:00", "fd00::200:ff:fe00:0"),
    ],
)
def test_the_address_a_guest_forms(mac, address):
    assert build_slaac_address("fd00::/64", mac) == address


@pytest.mark.parametrize(
    ("cidr", "address", "usable"),
    [
        ("10.0.0.0/24", "10.0.0.0", False),
        ("10.0.0.0/24", "10.0.0.255", False),
        ("10.0.0.0/24", "10.0.0.254", True),
        ("10.0.0.0/24", "10.0.1.1", False),
        ("10.0.0.0/31", "10.0.0.0", True),
        ("10.0.0.9/32", "10.0.0.9", True),
        ("10.0.0.0/24", "fd00::1", False),
        ("fd00::/64", "fd00::", False),
        ("fd00::/64", "fd00::ffff:ffff:ffff:ffff", True),
    ],
)
def test_usable(cidr, address, usable):
    assert is_usable(Subnet(cidr=cidr), address) is usable


def test_a_default_group_is_made_once(database):
    with database.write() as session:
        first = read_default_group(session, "p")
        assert read_default_group(session, "p") is first
        assert len(first.rules) == 4
        assert len(session.scalars(select(SecurityGroup)).all()) == 1
        session.rollback()


def test_ports_on_networks_of_others(database):
    span = [{"start": "10.0.0.1", "end": "10.0.0.9"}]
    with database.write() as session:
        own = {"network": _make_network(session, span), "project_id": "q", "security_group_ids": []}
        with pytest.raises(NotFound):
            allocate_port(session, None, **own)
        own["network"].external = True
        with pytest.raises(Forbidden, match="external"):
            allocate_port(session, None, **own)
        own["network"].shared = True
        with pytest.raises(Forbidden, match="ip_address"):
            allocate_port(session, None, fixed_ips=[{"ip_address": "10.0.0.5"}], **own)
        assert allocate_port(session, None, **own).addresses[0].address == "10.0.0.1"
        chosen = allocate_port(session, None, fixed_ips=[{"ip_address": "10.0.0.5"}], privileged=True, **own)
        assert chosen.addresses[0].address == "10.0.0.5"
        session.rollback()


def test_addresses_that_stay_are_not_taken_again(database):
    with database.write() as session:
        port = _allocate(
            session, _make_network(session, [{"start": "10.0.0.1", "end": "10.0.0.9"}]), security_group_ids=[]
        )
        before = port.addresses[0].id
        subnet_id = port.addresses[0].subnet_id
        allocate_addresses(session, port, [{"subnet_id": subnet_id}, {"ip_address": "10.0.0.7"}])
        assert [one.address for one in port.addresses] == ["10.0.0.1", "10.0.0.7"]
        assert port.addresses[0].id == before
        session.rollback()
