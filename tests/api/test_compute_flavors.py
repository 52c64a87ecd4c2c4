"""Flavors, their extra specs and who may use them."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, add_image, build_server, find_project

FLAVORS = f"{COMPUTE}/flavors"


def make(cloud, user="admin", version="2.86", **fields):
    body = {"flavor": {"name": "f1", "ram": 64, "vcpus": 1, "disk": 1} | fields}
    return cloud.post(FLAVORS, body, user=user, version=version)


def test_create_show_update_delete(cloud):
    answer = make(cloud, id="f.1", description="small")
    assert answer.status_code == 200
    flavor = answer.json["flavor"]
    assert (flavor["id"], flavor["ram"], flavor["swap"], flavor["extra_specs"]) == ("f.1", 64, 0, {})
    path = f"{FLAVORS}/f.1"
    changed = cloud.put(path, {"flavor": {"description": "tiny"}}, user="admin", version="2.55")
    assert changed.json["flavor"]["description"] == "tiny"
    assert cloud.get(path, version="2.55").json["flavor"]["description"] == "tiny"
    assert make(cloud, id="f.1", name="f2").status_code == 409
    assert make(cloud).status_code == 409
    assert cloud.delete(path, user="admin").status_code == 202
    assert cloud.get(path).status_code == 404
    assert make(cloud, id=None).status_code == 200


BAD = [
    ("2.1", {"name": "x" * 256}, "name"),
    ("2.1", {"name": ""}, "name"),
    ("2.1", {"ram": 0}, "ram"),
    ("2.1", {"ram": "much"}, "ram"),
    ("2.1", {"vcpus": -1}, "vcpus"),
    ("2.1", {"disk": 2**31}, "disk"),
    ("2.1", {"id": "a/b"}, "id"),
    ("2.1", {"id": "a\n"}, "id"),
    ("2.1", {"colour": "red"}, "colour"),
    ("2.1", {"os-flavor-access:is_public": "perhaps"}, "is_public"),
    ("2.54", {"description": "x"}, "description"),
    ("2.1", {"rxtx_factor": "x"}, "rxtx_factor"),
]


@pytest.mark.parametrize(("version", "fields", "text"), BAD)
def test_create_refuses(cloud, version, fields, text):
    answer = make(cloud, version=version, **fields)
    assert answer.status_code == 400
    assert text in answer.json["badRequest"]["message"]


def test_ephemeral_disk_and_swap(cloud):
    flavor = make(cloud, **{"OS-FLV-EXT-DATA:ephemeral": 3, "swap": 128}).json["flavor"]
    assert (flavor["OS-FLV-EXT-DATA:ephemeral"], flavor["swap"]) == (3, 128)


def test_only_admins_change_flavors(cloud):
    assert make(cloud, user="demo").status_code == 403
    assert cloud.delete(f"{FLAVORS}/1").status_code == 403
    assert cloud.post(f"{FLAVORS}/1/os-extra_specs", {"extra_specs": {"a": "b"}}).status_code == 403


LISTS = [
    ("", ["1", "2", "3", "4", "c1", "n1"]),
    ("minRam=4096", ["3", "4"]),
    ("minDisk=20", ["2", "3", "4"]),
    ("limit=2", ["1", "2"]),
    ("limit=2&marker=2", ["3", "4"]),
    ("sort_key=memory_mb&sort_dir=desc&limit=1", ["4"]),
]


@pytest.mark.parametrize(("query", "ids"), LISTS)
def test_lists(cloud, query, ids):
    for path in (FLAVORS, f"{FLAVORS}/detail"):
        assert [one["id"] for one in cloud.get(f"{path}?{query}").json["flavors"]] == ids


@pytest.mark.parametrize("query", ["minRam=x", "minDisk=-1", "limit=x", "marker=nope", "sort_key=colour"])
def test_wrong_queries(cloud, query):
    assert cloud.get(f"{FLAVORS}?{query}").status_code == 400


def test_access(cloud):
    """A private flavor is there for those it was given to, not for its maker, to look at and to boot."""
    make(cloud, id="p1", **{"os-flavor-access:is_public": False})
    assert cloud.get(f"{FLAVORS}/p1/os-flavor-access", user="admin").json == {"flavor_access": []}
    project, image = find_project(cloud), add_image(cloud)
    body = build_server(image, flavorRef="p1")
    assert cloud.get(f"{FLAVORS}/p1").status_code == 404
    assert cloud.post(f"{COMPUTE}/servers", body, version="2.96").status_code == 400
    act = f"{FLAVORS}/p1/action"
    answer = cloud.post(act, {"addTenantAccess": {"tenant": project}}, user="admin")
    assert {"flavor_id": "p1", "tenant_id": project} in answer.json["flavor_access"]
    assert cloud.post(act, {"addTenantAccess": {"tenant": project}}, user="admin").status_code == 409
    assert cloud.post(act, {"addTenantAccess": {"tenant": "nope"}}, user="admin").status_code == 400
    assert cloud.get(f"{FLAVORS}/p1").status_code == 200
    assert "p1" in [one["id"] for one in cloud.get(FLAVORS).json["flavors"]]
    assert cloud.post(f"{COMPUTE}/servers", body, version="2.96").status_code == 202
    listed = cloud.get(f"{FLAVORS}/p1/os-flavor-access", user="admin").json["flavor_access"]
    assert project in [one["tenant_id"] for one in listed]
    assert cloud.get(f"{FLAVORS}/1/os-flavor-access", user="admin").status_code == 404
    remove = {"removeTenantAccess": {"tenant": project}}
    assert cloud.post(act, remove, user="admin").status_code == 200
    assert cloud.post(act, remove, user="admin").status_code == 404
    assert cloud.get(f"{FLAVORS}/p1").status_code == 404
    everything = [one["id"] for one in cloud.get(f"{FLAVORS}?is_public=None", user="admin").json["flavors"]]
    assert "p1" in everything
    private = [one["id"] for one in cloud.get(f"{FLAVORS}?is_public=false", user="admin").json["flavors"]]
    assert private == ["p1"]


def test_extra_specs(cloud):
    path = f"{FLAVORS}/1/os-extra_specs"
    put = {"extra_specs": {"rack": "3", "hw:numa_nodes": "1"}}
    assert cloud.post(path, put, user="admin", version="2.85").json == put
    answer = cloud.post(path, put, user="admin", version="2.86")
    assert answer.status_code == 400
    assert "hw:numa_nodes" in answer.text
    assert cloud.put(f"{path}/rack", {"rack": "4"}, user="admin").json == {"rack": "4"}
    assert cloud.put(f"{path}/rack", {"row": "4"}, user="admin").status_code == 400
    assert cloud.put(f"{path}/rack", {"rack": {}}, user="admin").status_code == 400
    assert cloud.get(f"{path}/rack").json == {"rack": "4"}
    assert cloud.get(f"{FLAVORS}/1", version="2.61").json["flavor"]["extra_specs"]["rack"] == "4"
    assert cloud.delete(f"{path}/rack", user="admin").status_code == 200
    assert cloud.delete(f"{path}/rack", user="admin").status_code == 404
    assert cloud.get(path).json == {"extra_specs": {"hw:numa_nodes": "1"}}
    for bad in ({"a/b": "x"}, {"a": None}, {"a": "x" * 256}, []):
        assert cloud.post(path, {"extra_specs": bad}, user="admin").status_code == 400
