"""Aggregates, and the zones that they are."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, add_image, add_network
from sqlalchemy import select

from web.models import Host

PATH = f"{COMPUTE}/os-aggregates"


@pytest.fixture
def call(cloud):
    """A function: an admin's request to the aggregates, its status checked; the answer's body."""

    def send(method: str, path: str = "", body=None, status: int = 200, version: str = "2.96"):
        answer = cloud.call(method, PATH + path, body, user="admin", version=version)
        assert answer.status_code == status, answer.text
        return answer.get_json(silent=True)

    return send


@pytest.fixture
def names(cloud):
    """Two hypervisors' names."""
    with cloud.database.write.begin() as session:
        first = session.scalar(select(Host))
        session.add(Host(name="compute2", roles=["hypervisor"], observed=first.observed, observed_at=first.observed_at))
        session.add(Host(name="storage1", roles=["storage"]))
        return first.name, "compute2"


def read_zone(cloud, name: str) -> str:
    with cloud.database.read() as session:
        return session.scalar(select(Host.zone).where(Host.name == name))


def test_life(call, names):
    made = call("POST", body={"aggregate": {"name": "fast"}})["aggregate"]
    assert (made["name"], made["availability_zone"], "hosts" in made) == ("fast", None, False)
    one = f"/{made['id']}"
    call("POST", body={"aggregate": {"name": "fast"}}, status=409)
    assert call("POST", f"{one}/action", {"add_host": {"host": names[0]}})["aggregate"]["hosts"] == [names[0]]
    call("POST", f"{one}/action", {"add_host": {"host": names[0]}}, 409)
    call("POST", f"{one}/action", {"add_host": {"host": "nobody"}}, 404)
    call("POST", f"{one}/action", {"add_host": {"host": "storage1"}}, 404)
    changed = call("POST", f"{one}/action", {"set_metadata": {"metadata": {"ssd": "true", "old": "1"}}})
    assert changed["aggregate"]["metadata"] == {"ssd": "true", "old": "1"}
    changed = call("POST", f"{one}/action", {"set_metadata": {"metadata": {"old": None}}})
    assert changed["aggregate"]["metadata"] == {"ssd": "true"}
    assert call("PUT", one, {"aggregate": {"name": "faster"}})["aggregate"]["name"] == "faster"
    assert [row["name"] for row in call("GET")["aggregates"]] == ["faster"]
    assert "uuid" not in call("GET", one, version="2.40")["aggregate"]
    call("DELETE", one, status=400)
    call("POST", f"{one}/action", {"remove_host": {"host": names[0]}})
    call("POST", f"{one}/action", {"remove_host": {"host": names[0]}}, 404)
    call("DELETE", one)
    call("GET", one, status=404)


def test_a_zone_is_an_aggregate(cloud, call, names):
    made = call("POST", body={"aggregate": {"name": "a", "availability_zone": "east"}})["aggregate"]
    one = f"/{made['id']}/action"
    assert "metadata" not in made
    call("POST", one, {"add_host": {"host": names[1]}})
    assert (read_zone(cloud, names[0]), read_zone(cloud, names[1])) == ("nova", "east")
    zones = cloud.get(f"{COMPUTE}/os-availability-zone").get_json()["availabilityZoneInfo"]
    assert {zone["zoneName"] for zone in zones} == {"nova", "east"}
    other = call("POST", body={"aggregate": {"name": "b", "availability_zone": "west"}})["aggregate"]
    call("POST", f"/{other['id']}/action", {"add_host": {"host": names[1]}}, 409)
    call("POST", one, {"set_metadata": {"metadata": {"availability_zone": "north"}}})
    assert read_zone(cloud, names[1]) == "north"
    call("POST", one, {"set_metadata": {"metadata": {"availability_zone": ""}}}, 400)
    call("POST", one, {"remove_host": {"host": names[1]}})
    assert read_zone(cloud, names[1]) == "nova"


def test_a_host_with_guests_stays_in_its_zone(cloud, call, names):
    body = {"name": "s", "flavorRef": "1", "imageRef": add_image(cloud), "networks": [{"uuid": add_network(cloud)}]}
    made = cloud.post(f"{COMPUTE}/servers", {"server": {**body, "availability_zone": "nova"}})
    assert made.status_code == 202, made.text
    path = f"{COMPUTE}/servers/{made.get_json()['server']['id']}"
    host = cloud.get(path, user="admin").get_json()["server"]["OS-EXT-SRV-ATTR:host"]
    aggregate = call("POST", body={"aggregate": {"name": "a", "availability_zone": "east"}})["aggregate"]
    refused = call("POST", f"/{aggregate['id']}/action", {"add_host": {"host": host}}, 409)
    assert "contain instances" in refused["conflictingRequest"]["message"]
    assert read_zone(cloud, host) == "nova"


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "a", "availability_zone": "a:b"}, {"name": "a", "x": 1}])
def test_bad_input(call, body):
    call("POST", body={"aggregate": body}, status=400)


def test_it_is_for_admins(cloud):
    assert cloud.get(PATH).status_code == 403
    assert cloud.post(PATH, {"aggregate": {"name": "a"}}).status_code == 403
