"""A project's manager moves the project's servers, and watches and ends the moves, without a word of hosts."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE
from move_calls import VERSION, Hosts

ENDS = ("source_compute", "source_node", "dest_compute", "dest_node", "dest_host")
ANYWHERE = {"host": None, "block_migration": "auto"}


@pytest.fixture
def hosts(cloud):
    found = Hosts(cloud)
    yield found
    found.worker.pool.shutdown()


def find_id(cloud, what: str, name: str) -> str:
    rows = cloud.get(f"/identity/v3/{what}?name={name}", user="admin").json[what]
    return next(row["id"] for row in rows if row["name"] == name)


@pytest.fixture
def server(hosts):
    """A server of the project demo on host a; the user demo is the project's manager from here on."""
    cloud = hosts.cloud
    body = {"name": "web1", "flavorRef": "1", "imageRef": hosts.image, "networks": "none"}
    answer = cloud.post(f"{COMPUTE}/servers", {"server": body}, version=VERSION)
    assert answer.status_code == 202, answer.text
    for _ in range(2):
        hosts.settle()
    made = answer.json["server"]["id"]
    for action, body in (("migrate", None), ("os-migrateLive", ANYWHERE)):
        hosts.act(made, action, body, user="demo", expected=403)  # a member only, so far
    ids = [find_id(cloud, what, name) for what, name in (("projects", "demo"), ("users", "demo"), ("roles", "manager"))]
    path = "/identity/v3/projects/{}/users/{}/roles/{}".format(*ids)
    assert cloud.put(path, user="admin").status_code == 204
    return made


def show_moves(hosts, path: str, **options) -> list[dict]:
    answer = hosts.cloud.get(COMPUTE + path, version=VERSION, **options)
    assert answer.status_code == 200, answer.text
    return answer.json["migrations"]


def test_a_manager_moves_a_running_server_and_sees_no_host(hosts, server):
    source = hosts.where(server)[0]
    for fake in hosts.fakes.values():
        fake.holding = {"sent"}
    hosts.live(server, None, user="demo")
    hosts.settle(4)
    row = show_moves(hosts, f"/servers/{server}/migrations", user="demo")[0]
    assert (row["server_uuid"], row["status"]) == (server, "running")
    assert [row[name] for name in ENDS] == [None] * 5
    named = show_moves(hosts, f"/servers/{server}/migrations", user="admin")[0]
    assert named["source_compute"] == source
    path = f"{COMPUTE}/servers/{server}/migrations/{row['id']}"
    assert hosts.cloud.get(path, user="demo", version=VERSION).status_code == 403
    answer = hosts.cloud.post(f"{path}/action", {"force_complete": None}, user="demo", version=VERSION)
    assert answer.status_code == 202, answer.text
    assert hosts.cloud.delete(path, user="demo", version=VERSION).status_code == 202
    for fake in hosts.fakes.values():
        fake.holding = set()
    hosts.turn()
    hosts.settle()
    assert hosts.where(server) == (source, "ACTIVE", None)


def test_a_manager_moves_a_server_cold(hosts, server):
    source = hosts.where(server)[0]
    hosts.act(server, "migrate", user="demo")
    hosts.settle()
    hosts.act(server, "confirmResize", user="demo")
    hosts.settle()
    assert hosts.where(server)[0] != source


def test_a_manager_names_no_host(hosts, server):
    other = next(name for name in hosts.fakes if name != hosts.where(server)[0])
    hosts.act(server, "migrate", {"host": other}, user="demo", expected=403)
    hosts.act(server, "os-migrateLive", {**ANYWHERE, "host": other}, user="demo", expected=403)
    assert hosts.read_move(server) is None
    answer = hosts.cloud.get(f"{COMPUTE}/os-migrations?host=a", user="demo", version=VERSION)
    assert answer.status_code == 403


def test_a_manager_sees_the_moves_of_the_project_alone(hosts, server):
    others = hosts.boot()
    hosts.live(others)
    hosts.settle()
    hosts.live(server, None, user="demo")
    hosts.settle()
    project = find_id(hosts.cloud, "projects", "demo")
    for query in ("", f"?project_id={project}"):
        rows = show_moves(hosts, f"/os-migrations{query}", user="demo")
        assert [row["instance_uuid"] for row in rows] == [server]
        assert [rows[0][name] for name in ENDS] == [None] * 5
    answer = hosts.cloud.get(f"{COMPUTE}/os-migrations?project_id=another", user="demo", version=VERSION)
    assert answer.status_code == 403
    path = f"{COMPUTE}/os-migrations?marker={hosts.read_move(others).uuid}"
    assert hosts.cloud.get(path, user="demo", version=VERSION).status_code == 400
    assert len(show_moves(hosts, "/os-migrations", user="admin")) == 2
    for action, body in (("migrate", None), ("os-migrateLive", ANYWHERE)):
        hosts.act(others, action, body, user="demo", expected=404)
    assert hosts.cloud.get(f"{COMPUTE}/servers/{others}/migrations", user="demo", version=VERSION).status_code == 404


def test_a_refusal_names_no_host_to_a_manager(hosts, server):
    for name in hosts.fakes:
        hosts.set_host(name, settings={})
    told = hosts.act(server, "migrate", user="demo", expected=400).text
    assert "No valid host was found" in told
    assert "tunnel_address" not in told
    assert "tunnel_address" in hosts.act(server, "migrate", expected=400).text
