"""The scheduler as tables: which host is chosen, and the reason for each that is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.scheduler import Candidate, Company, Demand, NoValidHost, Offer, choose_host, explain, is_up

NOW = datetime(2026, 11, 22, tzinfo=UTC)
OFFER = Offer(cpu_ratio=2, memory_percent=150, disk_percent=100)


def build(name="a", **columns):
    values = {"zone": "nova", "enabled": True, "up": True, "vcpus": 4, "memory_mb": 1000, "disk_gb": 100} | columns
    return Candidate(id=f"id-{name}", name=name, **values)


SMALL = Demand(vcpus=1, memory_mb=100, disk_gb=1)


def in_company(policy: str, *places: str, most: int = 1) -> Demand:
    """SMALL, in a group whose other members are on these hosts (a letter each)."""
    held = tuple(frozenset(f"id-{name}" for name in place) for place in places)
    return replace(SMALL, company=Company(policy, most, held))


@pytest.mark.parametrize(
    ("candidate", "demand", "reason"),
    [
        (build(), SMALL, None),
        (build(hypervisor=False), SMALL, "no hypervisor"),
        (build(enabled=False), SMALL, "disabled"),
        (build(up=False), SMALL, "down"),
        (build(zone="east"), Demand(1, 1, 1, zone="west"), "in the zone east"),
        (build(), Demand(1, 1, 1, host="b"), "another host"),
        (build(enabled=False), Demand(1, 1, 1, host="a"), None),
        (build(up=False), Demand(1, 1, 1, host="a"), "down"),
        (build(used_vcpus=7), SMALL, None),
        (build(used_vcpus=8), SMALL, "vCPUs"),
        (build(), Demand(5, 1, 1), "4 cores"),
        (build(used_memory_mb=1400), SMALL, None),
        (build(used_memory_mb=1401), SMALL, "MiB of memory"),
        (build(used_disk_gb=99), SMALL, None),
        (build(used_disk_gb=100), SMALL, "GiB of disk"),
        (build(), in_company("anti-affinity", "b", "c"), None),
        (build(), in_company("anti-affinity", "a", "b"), "anti-affinity"),
        (build(), in_company("anti-affinity", "ab"), "anti-affinity"),  # one that moves counts on both
        (build(), in_company("anti-affinity", "a", most=2), None),
        (build(), in_company("anti-affinity", "a", "a", most=2), "2 members"),
        (build(), in_company("affinity"), None),
        (build(), in_company("affinity", "a"), None),
        (build(), in_company("affinity", "b"), "affinity"),
        (build(), in_company("affinity", "ab"), "on their way"),
        (build(), in_company("soft-affinity", "b"), None),
        (build(), in_company("soft-anti-affinity", "a"), None),
    ],
)
def test_explain(candidate, demand, reason):
    """Each filter by itself, at its edge."""
    found = explain(candidate, demand, OFFER)
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([build("a"), build("b", memory_mb=2000)], "id-b"),
        ([build("a", used_memory_mb=10), build("b")], "id-b"),
        ([build("a", used_vcpus=2), build("b", used_vcpus=1)], "id-b"),
        ([build("b"), build("a")], "id-a"),
        ([build("b", up=False), build("a", used_memory_mb=900)], "id-a"),
    ],
)
def test_choose_host(candidates, chosen):
    """Most memory left, then fewest vCPUs used, then by name."""
    assert choose_host(candidates, SMALL, OFFER) == chosen


def test_no_valid_host_names_every_host():
    with pytest.raises(NoValidHost) as caught:
        choose_host([build("a", up=False), build("b", enabled=False)], SMALL, OFFER)
    assert caught.value.details == "a: it is down\nb: it is disabled"
    assert str(caught.value).startswith("No valid host was found.")
    with pytest.raises(NoValidHost, match="No valid host"):
        choose_host([], SMALL, OFFER)


@pytest.mark.parametrize(
    ("age_s", "forced", "failures", "up"),
    [
        (0, False, None, True),
        (180, False, None, True),
        (181, False, None, False),
        (0, True, 0, False),
        (9999, False, 0, True),
        (9999, False, 1, False),
        (None, False, 0, False),
    ],
)
def test_is_up(age_s, forced, failures, up):
    """Three sweeps of a minute; with failures told, a host that never failed since it was seen."""
    seen = None if age_s is None else NOW - timedelta(seconds=age_s)
    assert is_up(seen, forced, NOW, 60, failures) is up


@given(
    st.lists(
        st.tuples(st.booleans(), st.booleans(), st.integers(0, 9), st.integers(0, 2000), st.integers(0, 120)),
        max_size=6,
    ),
    st.integers(1, 6),
    st.integers(1, 1600),
    st.integers(0, 110),
)
def test_what_is_chosen_fits(rows, vcpus, memory_mb, disk_gb):
    """Whatever the hosts: the one chosen has no reason against it; none is chosen only where all have one."""
    candidates = [
        build(f"h{n}", enabled=on, up=up, used_vcpus=cpu, used_memory_mb=ram, used_disk_gb=disk)
        for n, (on, up, cpu, ram, disk) in enumerate(rows)
    ]
    demand = Demand(vcpus, memory_mb, disk_gb)
    able = [one.id for one in candidates if explain(one, demand, OFFER) is None]
    if able:
        assert choose_host(candidates, demand, OFFER) in able
        return
    with pytest.raises(NoValidHost) as caught:
        choose_host(candidates, demand, OFFER)
    assert set(caught.value.reasons) == {one.name for one in candidates}


@pytest.mark.parametrize(
    ("policy", "places", "chosen"),
    [
        ("soft-affinity", "b", "id-b"),
        ("soft-affinity", "abb", "id-b"),
        ("soft-anti-affinity", "a", "id-b"),
        ("soft-anti-affinity", "ab", "id-a"),
        ("affinity", "bb", "id-b"),
    ],
)
def test_a_group_goes_before_room(policy, places, chosen):
    """Host a has more room; what the group says of it comes first."""
    assert choose_host([build("a"), build("b", used_memory_mb=500)], in_company(policy, *places), OFFER) == chosen
