"""os-server-groups, and guests that keep to their group's policy when they are created and when they move."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from compute_cloud import COMPUTE, add_image, boot, build_server, find_project, read_server, see_host
from sqlalchemy import select

from web.models import Host, Migration, Quota, Server, UserQuota, now

GROUPS = f"{COMPUTE}/os-server-groups"
NEWEST = "2.96"


def add_hosts(cloud, *names: str) -> dict[str, str]:
    """{name: id}: the cloud's host is a, and those beside it; memory falls from a on, so that a is the first choice."""
    with cloud.database.write.begin() as session:
        first = session.scalar(select(Host))
        first.name, first.settings, first.roles = "a", {"tunnel_address": "192.0.2.1"}, ["hypervisor"]
        for number, name in enumerate(names, 2):
            facts = {**first.observed["host"], "memory_mb": 16384 - 1024 * number}
            session.add(
                Host(
                    name=name,
                    roles=["hypervisor"],
                    settings={"tunnel_address": f"192.0.2.{number}"},
                    observed={"host": facts},
                    observed_at=now(),
                )
            )
        session.flush()
        return {host.name: host.id for host in session.scalars(select(Host))}


def add_group(cloud, policy: str, user: str = "demo", **fields) -> str:
    body = {"server_group": {"name": "g", "policy": policy, **fields}}
    answer = cloud.post(GROUPS, body, version=NEWEST, user=user)
    assert answer.status_code == 200, answer.text
    return answer.json["server_group"]["id"]


def hinted(cloud, image: str, see: bool = True, user: str = "demo", hints: dict | None = None, **fields) -> str:
    """The id of a new server with these hints."""
    body = build_server(image, **fields) | {"os:scheduler_hints": hints}
    answer = cloud.post(f"{COMPUTE}/servers", body, version=NEWEST, user=user)
    assert answer.status_code == 202, answer.text
    if see:
        see_host(cloud)
    return answer.json["server"]["id"]


def limit(cloud, resource: str, value: int, user: str | None = None) -> None:
    project = find_project(cloud)
    with cloud.database.write.begin() as session:
        if user is None:
            session.merge(Quota(project_id=project, resource=resource, limit=value))
        else:
            session.merge(UserQuota(project_id=project, user_id=user, resource=resource, limit=value))


def test_groups_by_version(cloud):
    old = {"server_group": {"name": "old", "policies": ["anti-affinity"]}}
    made = cloud.post(GROUPS, old).json["server_group"]
    assert set(made) == {"id", "name", "policies", "members", "metadata"}
    assert (made["policies"], made["members"], made["metadata"]) == (["anti-affinity"], [], {})
    at_2_13 = cloud.get(f"{GROUPS}/{made['id']}", version="2.13").json["server_group"]
    assert set(at_2_13) - set(made) == {"project_id", "user_id"}
    assert at_2_13["project_id"] == find_project(cloud)
    newest = cloud.get(f"{GROUPS}/{made['id']}", version="2.64").json["server_group"]
    assert set(newest) == {"id", "name", "policy", "rules", "members", "project_id", "user_id"}
    assert (newest["policy"], newest["rules"]) == ("anti-affinity", {"max_server_per_host": 1})
    three = add_group(cloud, "anti-affinity", rules={"max_server_per_host": 3})
    assert cloud.get(f"{GROUPS}/{three}", version="2.64").json["server_group"]["rules"]["max_server_per_host"] == 3
    soft = {"server_group": {"name": "soft", "policies": ["soft-affinity"]}}
    assert cloud.post(GROUPS, soft, version="2.15").json["server_group"]["policies"] == ["soft-affinity"]
    assert len(cloud.get(GROUPS).json["server_groups"]) == 3
    page = cloud.get(f"{GROUPS}?limit=1&offset=1").json["server_groups"]
    assert [one["id"] for one in page] == [three]
    assert cloud.delete(f"{GROUPS}/{three}").status_code == 204
    assert cloud.get(f"{GROUPS}/{three}").status_code == cloud.delete(f"{GROUPS}/{three}").status_code == 404


def test_groups_of_others(cloud):
    group = add_group(cloud, "affinity")
    for method in ("GET", "DELETE"):
        assert cloud.call(method, f"{GROUPS}/{group}", user="other").status_code == 404
    assert cloud.get(GROUPS, user="other").json["server_groups"] == []
    assert cloud.get(f"{GROUPS}?all_projects=true", user="other").json["server_groups"] == []
    assert cloud.get(GROUPS, user="admin").json["server_groups"] == []
    assert len(cloud.get(f"{GROUPS}?all_projects=true", user="admin").json["server_groups"]) == 1
    hinting = build_server(add_image(cloud)) | {"os:scheduler_hints": {"group": group}}
    answer = cloud.post(f"{COMPUTE}/servers", hinting, version=NEWEST, user="other")
    assert (answer.status_code, group in answer.text) == (400, True)


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        ("2.1", {"name": "g", "policies": []}),
        ("2.1", {"name": "g", "policies": ["affinity", "anti-affinity"]}),
        ("2.1", {"name": "g", "policies": ["soft-affinity"]}),
        ("2.14", {"name": "g", "policies": ["soft-anti-affinity"]}),
        ("2.1", {"name": "", "policies": ["affinity"]}),
        ("2.1", {"name": "g" * 256, "policies": ["affinity"]}),
        ("2.1", {"name": "g"}),
        ("2.63", {"name": "g", "policy": "affinity"}),
        ("2.64", {"name": "g", "policies": ["affinity"]}),
        ("2.64", {"name": "g", "policy": "together"}),
        ("2.64", {"name": "g", "policy": "affinity", "rules": {"max_server_per_host": 2}}),
        ("2.64", {"name": "g", "policy": "anti-affinity", "rules": {"max_server_per_host": 0}}),
        ("2.64", {"name": "g", "policy": "anti-affinity", "rules": {"other": 1}}),
    ],
)
def test_wrong_groups(cloud, version, fields):
    assert cloud.post(GROUPS, {"server_group": fields}, version=version).status_code == 400


def test_wrong_queries_and_hints(cloud):
    for query in ("limit=x", "limit=-1", "offset=x", "all_projects=maybe"):
        assert cloud.get(f"{GROUPS}?{query}").status_code == 400, query
    assert cloud.get(f"{GROUPS}?what=1", version="2.74").status_code == 200
    assert cloud.get(f"{GROUPS}?what=1", version="2.75").status_code == 400
    image, nobody = add_image(cloud), "00000000-0000-4000-8000-000000000007"
    theirs = boot(cloud, image, user="other")
    for name, value in (
        ("group", nobody),
        ("group", "g"),
        ("same_host", nobody),
        ("same_host", theirs),
        ("different_host", [theirs]),
        ("different_host", "x"),
        ("query", '[">=", "$free_ram_mb", 1024]'),
        ("build_near_host_ip", "192.0.2.1"),
        ("what", "x"),
    ):
        for key in ("os:scheduler_hints", "OS-SCH-HNT:scheduler_hints"):
            answer = cloud.post(f"{COMPUTE}/servers", build_server(image) | {key: {name: value}}, version=NEWEST)
            assert (answer.status_code, name in answer.text) == (400, True), (name, value, answer.text)


def test_quotas_of_groups_and_members(cloud):
    image = add_image(cloud)
    limit(cloud, "server_groups", 1)
    limit(cloud, "server_group_members", 2)
    group = add_group(cloud, "affinity")
    refused = cloud.post(GROUPS, {"server_group": {"name": "g", "policy": "affinity"}}, version=NEWEST)
    assert (refused.status_code, "server groups" in refused.text) == (403, True)
    used = cloud.get(f"{COMPUTE}/limits").json["limits"]["absolute"]
    assert (used["totalServerGroupsUsed"], used["maxServerGroups"]) == (1, 1)
    first = hinted(cloud, image, hints={"group": group}, min_count=2)
    assert cloud.get(f"{GROUPS}/{group}").json["server_group"]["members"].count(first) == 1
    body = build_server(image) | {"os:scheduler_hints": {"group": group}}
    refused = cloud.post(f"{COMPUTE}/servers", body, version=NEWEST)
    assert (refused.status_code, "too many servers in group" in refused.text) == (403, True)
    cloud.delete(f"{COMPUTE}/servers/{first}")  # one that is being deleted counts no more
    user = read_server(cloud, first).user_id
    limit(cloud, "server_group_members", 1, user)
    assert cloud.post(f"{COMPUTE}/servers", body, version=NEWEST).status_code == 403
    limit(cloud, "server_group_members", 2, user)
    assert cloud.post(f"{COMPUTE}/servers", body, version=NEWEST).status_code == 202


def test_servers_show_their_group(cloud):
    image = add_image(cloud)
    group = add_group(cloud, "anti-affinity")
    server = hinted(cloud, image, hints={"group": group})
    alone = boot(cloud, image)
    path = f"{COMPUTE}/servers/{server}"
    assert cloud.get(path, version="2.71").json["server"]["server_groups"] == [group]
    assert "server_groups" not in cloud.get(path, version="2.70").json["server"]
    assert cloud.get(f"{COMPUTE}/servers/{alone}", version="2.71").json["server"]["server_groups"] == []
    assert cloud.get(f"{GROUPS}/{group}").json["server_group"]["members"] == [server]
    cloud.delete(path)
    see_host(cloud)
    assert cloud.get(f"{GROUPS}/{group}").json["server_group"]["members"] == []
    again = hinted(cloud, image, hints={"group": group})
    assert cloud.delete(f"{GROUPS}/{group}").status_code == 204
    assert cloud.get(f"{COMPUTE}/servers/{again}", version="2.71").json["server"]["server_groups"] == []


@pytest.mark.parametrize(
    ("policy", "rules", "count", "placed"),
    [
        ("anti-affinity", None, 3, [1, 1, None]),
        ("anti-affinity", {"max_server_per_host": 2}, 5, [2, 2, None]),
        ("affinity", None, 3, [3]),
        ("soft-anti-affinity", None, 3, [2, 1]),
        ("soft-affinity", None, 3, [3]),
    ],
)
def test_placement(cloud, policy, rules, count, placed):
    """How many of a group each of two hosts gets; None: one finds no host and says why."""
    add_hosts(cloud, "b")
    group = add_group(cloud, policy, **({"rules": rules} if rules else {}))
    hinted(cloud, add_image(cloud), hints={"group": group}, min_count=count)
    with cloud.database.read() as session:
        servers = session.scalars(select(Server)).all()
    hosts = [server.host_id for server in servers]
    counts = sorted((hosts.count(one) for one in set(hosts) if one), reverse=True)
    assert counts + [None] * (None in hosts) == placed
    for server in servers:
        assert server.host_id or "server group" in server.fault_details


def test_same_and_different_host(cloud):
    names = add_hosts(cloud, "b")
    image = add_image(cloud)
    first = hinted(cloud, image, hints={})
    home = read_server(cloud, first).host_id
    away = hinted(cloud, image, hints={"different_host": [first]})
    assert {home, read_server(cloud, away).host_id} == set(names.values())
    beside = hinted(cloud, image, hints={"same_host": away})
    assert read_server(cloud, beside).host_id == read_server(cloud, away).host_id
    nowhere = hinted(cloud, image, hints={"different_host": [first, away]})
    assert read_server(cloud, nowhere).status == "ERROR"
    assert "different_host" in read_server(cloud, nowhere).fault_details


@pytest.mark.parametrize("action", ["migrate", "os-migrateLive", "resize", "evacuate"])
def test_moves_keep_anti_affinity(cloud, action):
    """Of three hosts two have a member: the third is the only one that a member may go to."""
    names = add_hosts(cloud, "b", "c")
    with cloud.database.write.begin() as session:  # c is the last choice by room
        session.get(Host, names["c"]).observed = {
            "host": {**session.get(Host, names["c"]).observed["host"], "memory_mb": 9000}
        }
    image = add_image(cloud)
    group = add_group(cloud, "anti-affinity")
    one, two = (hinted(cloud, image, hints={"group": group}) for _ in range(2))
    homes = [read_server(cloud, server).host_id for server in (one, two)]
    assert homes == [names["a"], names["b"]]
    if action == "evacuate":
        down = {"host": "a", "binary": "nova-compute", "forced_down": True}
        assert cloud.put(f"{COMPUTE}/os-services/force-down", down, user="admin", version="2.11").status_code == 200
    if action == "resize":
        with cloud.database.write.begin() as session:  # no room for it where it is
            host = session.get(Host, names["a"])
            host.observed = {"host": {**host.observed["host"], "vcpus": 1}}
    bodies = {"os-migrateLive": {"host": None, "block_migration": "auto"}, "resize": {"flavorRef": "3"}, "evacuate": {}}
    if action != "resize":  # the other's host is refused by name
        named = {**bodies.get(action, {}), "host": "b"}
        refused = cloud.post(f"{COMPUTE}/servers/{one}/action", {action: named}, user="admin", version="2.68")
        with cloud.database.read() as session:
            errors = session.scalars(select(Migration.error)).all()
        assert "server group" in (errors[0] if action == "os-migrateLive" else refused.text)
    answer = cloud.post(f"{COMPUTE}/servers/{one}/action", {action: bodies.get(action)}, user="admin", version="2.68")
    assert answer.status_code in (200, 202), answer.text
    with cloud.database.read() as session:
        move = session.scalar(select(Migration).where(Migration.phase != "ended"))
    assert move.dest_host_id == names["c"]
    third = hinted(cloud, image, see=False, hints={"group": group})  # one that moves counts on both its hosts
    assert read_server(cloud, third).host_id is None


def test_members_of_an_affinity_group_stay_together(cloud):
    names = add_hosts(cloud, "b")
    image = add_image(cloud)
    group = add_group(cloud, "affinity")
    one = hinted(cloud, image, hints={"group": group})
    two = hinted(cloud, image, hints={"group": group})
    refused = cloud.post(f"{COMPUTE}/servers/{one}/action", {"migrate": None}, user="admin", version=NEWEST)
    assert (refused.status_code, "server group" in refused.text) == (400, True)
    resized = cloud.post(f"{COMPUTE}/servers/{one}/action", {"resize": {"flavorRef": "2"}}, version=NEWEST)
    assert resized.status_code == 202, resized.text
    with cloud.database.write.begin() as session:
        move = session.scalar(select(Migration))
        assert move.dest_host_id == move.source_host_id == names["a"]
        session.delete(move)
        session.scalar(select(Server).where(Server.id == one)).move = None
    see_host(cloud)
    down = {"host": "a", "binary": "nova-compute", "forced_down": True}
    cloud.put(f"{COMPUTE}/os-services/force-down", down, user="admin", version="2.11")
    for server in (one, two):  # a host that is off holds nobody
        answer = cloud.post(f"{COMPUTE}/servers/{server}/action", {"evacuate": {}}, user="admin", version=NEWEST)
        assert answer.status_code == 200, answer.text


def test_parallel_creates_never_break_anti_affinity(cloud):
    names = add_hosts(cloud, "b", "c")
    image = add_image(cloud)
    group = add_group(cloud, "anti-affinity")
    token = cloud.login("demo")

    def create(_) -> int:
        headers = {"X-Auth-Token": token, "OpenStack-API-Version": f"compute {NEWEST}"}
        body = build_server(image) | {"os:scheduler_hints": {"group": group}}
        return cloud.app.test_client().post(f"{COMPUTE}/servers", json=body, headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(create, range(9))) == {202}
    with cloud.database.read() as session:
        hosts = [server.host_id for server in session.scalars(select(Server))]
    assert sorted(host for host in hosts if host) == sorted(names.values())
    assert hosts.count(None) == 6
