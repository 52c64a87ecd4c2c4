"""Images by the letter of the Image API: sorting, filters and their refusals, both forms of a patch, limits, ranges."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from web.models import Project

IMAGES = "/image/v2/images"
JSON = {"Accept": "application/json"}
OLD = {"Content-Type": "application/openstack-images-v2.0-json-patch", "Accept": "application/json"}
NEW = {"Content-Type": "application/openstack-images-v2.1-json-patch", "Accept": "application/json"}
BINARY = {"Content-Type": "application/octet-stream", "Accept": "application/json"}


def make(cloud, user="demo", **body):
    answer = cloud.post(IMAGES, body, user=user)
    assert answer.status_code == 201, answer.text
    return answer.json


def patch(cloud, image_id, changes, headers=NEW, user="demo"):
    return cloud.call("PATCH", f"{IMAGES}/{image_id}", json.dumps(changes), user=user, headers=headers)


def put(cloud, image_id, data, **options):
    return cloud.call("PUT", f"{IMAGES}/{image_id}/file", data, headers=BINARY, **options)


def read_project(cloud, name):
    with cloud.database.read() as session:
        return session.scalar(select(Project.id).where(Project.name == name))


def test_lists(cloud):
    """Filters that look at bytes, owners and properties; orders by several keys; each from one set of images."""
    for name, size, more in (("a", 600, {}), ("b", 512, {"p": "1"}), ("c", 600, {"protected": True, "tags": ["ü"]})):
        image = make(cloud, name=name, disk_format="raw", container_format="bare", **more)
        assert put(cloud, image["id"], name.encode() * size).status_code == 204
    make(cloud, name="d")
    first, one = (cloud.get(f"{IMAGES}?name={name}").json["images"][0] for name in "ab")
    owner, other = read_project(cloud, "demo"), read_project(cloud, "other")
    table = [
        ("sort_key=name&sort_dir=desc", "dcba"),
        ("sort_key=size&sort_dir=desc&sort_key=name&sort_dir=asc", "acbd"),
        ("sort_key=size&sort_key=name&sort_dir=desc", "cabd"),
        ("sort=size:asc,name:desc", "bcad"),
        ("sort=name&size_min=600", "ac"),
        ("sort=name&size_max=599", "b"),
        (f"size={one['size']}", "b"),
        (f"checksum={one['checksum']}", "b"),
        (f"os_hash_value={one['os_hash_value']}", "b"),
        (f"sort=name&owner={owner}", "abcd"),
        (f"owner={other}", ""),
        ("p=1", "b"),
        ("tag=%C3%BC", "c"),
        ("protected=false&sort=name", "abd"),
        ("sort=name&status=in:active,queued&name=in:a,d", "ad"),
        (f"id={one['id']}", "b"),
        (f"sort=name&created_at=gte:{first['created_at']}&visibility=shared", "abcd"),
        ("updated_at=lt:2020-01-01T00:00:00Z", ""),
        ("limit=0", ""),
        (f"sort=name&marker={one['id']}&limit=1", "c"),
    ]
    for query, expected in table:
        answer = cloud.get(f"{IMAGES}?{query}", headers=JSON)
        assert answer.status_code == 200, (query, answer.text)
        assert "".join(image["name"] for image in answer.json["images"]) == expected, query
    refused = [
        "visibility=secret", "member_status=maybe", "os_hidden=perhaps", "size_max=-1", "sort_dir=up", "sort=name:up",
        "sort=name&sort_key=size", "sort_key=name&sort_dir=asc&sort_dir=desc", "sort_key=owner", "updated_at=gt:x",
        "limit=x", "created_at=about:2020-01-01T00:00:00Z",
    ]  # fmt: skip
    for query in refused:
        assert cloud.get(f"{IMAGES}?{query}", headers=JSON).status_code == 400, query


PATCHES = [
    (OLD, [{"replace": "/name", "value": "new"}], 200, {"name": "new"}),
    (OLD, [{"add": "/p", "value": "1"}, {"remove": "/old"}], 200, {"p": "1", "old": None}),
    (OLD, [{"add": "/os_glance_x", "value": "1"}], 403, {}),
    (OLD, [{"replace": "/name", "add": "/p", "value": "1"}], 400, {}),
    (OLD, [{"op": "replace", "path": "/name", "value": "1"}], 400, {}),
    (OLD, [{"replace": "/name"}], 400, {}),
    (OLD, ["x"], 400, {}),
    (OLD, {"replace": "/name", "value": "1"}, 400, {}),
    (NEW, [{"replace": "/name", "value": "1"}], 400, {}),
    (NEW, [{"op": "add", "path": "/os_glance_x", "value": "1"}], 403, {}),
    (NEW, [{"op": "replace", "path": "/locations", "value": []}], 403, {}),
    (NEW, [{"op": "add", "path": "/locations/-", "value": {}}], 403, {}),
    (NEW, [{"op": "replace", "path": "/os_hidden", "value": True}], 200, {"os_hidden": True}),
    (NEW, [{"op": "replace", "path": "/visibility", "value": "community"}], 200, {"visibility": "community"}),
    (NEW, [{"op": "add", "path": "/tags", "value": ["a", "b", "c"]}], 413, {}),
    (NEW, [{"op": "replace", "path": "/tags", "value": ["b", "a"]}], 200, {"tags": ["a", "b"]}),
    (NEW, [{"op": "add", "path": f"/p{n}", "value": "x"} for n in range(3)], 413, {"p0": None}),
    ({**NEW, "Content-Type": "application/json"}, [], 415, {}),
]


def test_patches(cloud):
    """Both forms, each as it is written, and nothing of a patch that is refused."""
    cloud.settings.image.max_tags, cloud.settings.image.max_properties = 2, 3
    for headers, changes, status, found in PATCHES:
        image_id = make(cloud, name="i", old="1")["id"]
        answer = patch(cloud, image_id, changes, headers)
        assert answer.status_code == status, (changes, answer.text)
        image = cloud.get(f"{IMAGES}/{image_id}").json
        for name, value in found.items():
            assert image.get(name) == value, changes
        if status != 200:
            assert (image["name"], image["old"], image["tags"]) == ("i", "1", []), changes
    assert "v2.0" in answer.headers["Accept-Patch"]


def test_limits(cloud):
    """Each beyond its setting is 413, whichever way it comes."""
    cloud.settings.image.max_tags, cloud.settings.image.max_members = 2, 1
    assert cloud.post(IMAGES, {"tags": ["a", "b", "c"]}).status_code == 413
    assert cloud.post(IMAGES, {"tags": ["a\x00"]}).status_code == 400
    image = make(cloud, tags=["a", "b"])
    path = f"{IMAGES}/{image['id']}"
    assert cloud.put(f"{path}/tags/a").status_code == 204
    assert cloud.put(f"{path}/tags/c").status_code == 413
    assert cloud.get(path).json["tags"] == ["a", "b"]
    assert cloud.post(f"{path}/members", {"member": "one"}).status_code == 200
    assert cloud.post(f"{path}/members", {"member": "two"}).status_code == 413
    assert [one["member_id"] for one in cloud.get(f"{path}/members").json["members"]] == ["one"]


def test_members_and_visibility(cloud):
    """A member's word counts for as long as the image is shared; a refused one is still its to use by id."""
    image, other = make(cloud, name="a"), read_project(cloud, "other")
    path = f"{IMAGES}/{image['id']}"
    assert cloud.post(f"{path}/members", {"member": other}).status_code == 200

    def listed(query=""):
        return [one["name"] for one in cloud.get(f"{IMAGES}{query}", user="other").json["images"]]

    for status, plain, query in (
        ("pending", [], "?member_status=pending"),
        ("accepted", ["a"], "?visibility=shared"),
        ("rejected", [], "?visibility=shared&member_status=rejected"),
    ):
        answer = cloud.put(f"{path}/members/{other}", {"status": status}, user="other")
        assert (answer.status_code, answer.json["status"]) == (200, status)
        assert (listed(), listed(query), listed("?member_status=all")) == (plain, ["a"], ["a"])
        assert cloud.get(path, user="other").status_code == 200
    for status in ("maybe", None):
        assert cloud.put(f"{path}/members/{other}", {"status": status}, user="other").status_code == 400
    assert cloud.put(f"{path}/members/nobody", {"status": "accepted"}, user="other").status_code == 404
    for visibility, seen in (("private", 404), ("community", 200), ("shared", 200)):
        assert (
            patch(cloud, image["id"], [{"op": "replace", "path": "/visibility", "value": visibility}]).status_code
            == 200
        )
        assert cloud.get(path, user="other").status_code == seen
        members = cloud.get(f"{path}/members", user="demo")
        assert members.status_code == (200 if visibility == "shared" else 403)
    assert members.json["members"][0]["status"] == "rejected"


@pytest.mark.parametrize("user", ["demo", "admin"])
def test_deactivated(cloud, user):
    """Its bytes are nobody's but an admin's, no server is made of it; its owner and admins say so and take it back."""
    image = make(cloud, name="a", disk_format="raw", container_format="bare")
    path = f"{IMAGES}/{image['id']}"
    assert cloud.post(f"{path}/actions/deactivate", user="admin").status_code == 403  # it is queued
    assert put(cloud, image["id"], b"x" * 600).status_code == 204
    assert (
        patch(cloud, image["id"], [{"op": "replace", "path": "/visibility", "value": "community"}]).status_code == 200
    )
    for action in ("deactivate", "reactivate"):  # others may see it, and no more
        assert cloud.post(f"{path}/actions/{action}", user="other").status_code == 403
    for _ in range(2):
        assert cloud.post(f"{path}/actions/deactivate", user=user).status_code == 204
    assert cloud.get(path).json["status"] == "deactivated"
    assert cloud.get(f"{path}/file", user=user).status_code == (200 if user == "admin" else 403)
    body = {"server": {"name": "s", "imageRef": image["id"], "flavorRef": "1", "networks": "none"}}
    answer = cloud.post("/compute/v2.1/servers", body, user=user, version="2.37")
    assert answer.status_code == 400
    assert "deactivated" in answer.text
    assert put(cloud, image["id"], b"y").status_code == 409
    assert cloud.post(f"{path}/actions/reactivate", user=user).status_code == 204
    assert cloud.get(f"{path}/file").data == b"x" * 600


def test_content_range_asks_for_a_part(cloud):
    """The Image API's own header for a part of the bytes."""
    image = make(cloud, disk_format="raw", container_format="bare")
    assert put(cloud, image["id"], bytes(range(200)) * 3).status_code == 204
    path = f"{IMAGES}/{image['id']}/file"
    answer = cloud.get(path, headers={"Content-Range": "bytes 3-5/*"})
    assert (answer.status_code, answer.data) == (206, b"\x03\x04\x05")
    assert answer.headers["Content-Range"] == "bytes 3-5/600"
    for given, status in (("bytes 700-701/*", 416), ("bytes 5-3/600", 416), ("rubbish", 400)):
        assert cloud.get(path, headers={"Content-Range": given}).status_code == status, given


def test_a_path_that_ends_without_an_id_names_nothing(cloud):
    """As the reference: what is asked of no image is not asked of all of them."""
    make(cloud)
    for method in ("GET", "DELETE", "PATCH"):
        assert cloud.call(method, f"{IMAGES}/").status_code == 404, method
    assert cloud.post(f"{IMAGES}/", {"name": "a"}).status_code == 404
    assert len(cloud.get(IMAGES).json["images"]) == 1
    for path in ("/image", "/image/", "/image/v2", "/image/v2/", "/image/versions"):  # clients ask both ways
        assert cloud.get(path).status_code == 300, path
