"""Images: made, listed, shown, changed, tagged, shared, deleted; what is refused and whose they are."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from web.models import Project, Quota

PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch", "Accept": "application/json"}
JSON = {"Accept": "application/json"}
IMAGES = "/image/v2/images"


def make(cloud, user="demo", **body):
    answer = cloud.post(IMAGES, body, user=user)
    assert answer.status_code == 201, answer.text
    return answer.json


def patch(cloud, image_id, *changes, user="demo", headers=PATCH):
    return cloud.call("PATCH", f"{IMAGES}/{image_id}", json.dumps(list(changes)), user=user, headers=headers)


def names(cloud, query="", user="demo"):
    answer = cloud.get(f"{IMAGES}{query}", user=user)
    assert answer.status_code == 200, answer.text
    return sorted(image["name"] for image in answer.json["images"])


def project_id(cloud, name):
    with cloud.database.read() as session:
        return session.scalar(select(Project.id).where(Project.name == name))


def test_create(cloud):
    """What was given is in the answer, what was not has its default, properties lie beside attributes."""
    answer = cloud.post(
        IMAGES,
        {
            "name": "cirros",
            "disk_format": "qcow2",
            "container_format": "bare",
            "min_disk": 1,
            "tags": ["b", "a", "a"],
            "hw_disk_bus": "virtio",
        },
    )
    assert answer.status_code == 201
    image = answer.json
    assert answer.headers["Location"] == f"http://127.0.0.1:6780/image/v2/images/{image['id']}"
    wanted = {
        "name": "cirros",
        "status": "queued",
        "visibility": "shared",
        "protected": False,
        "os_hidden": False,
        "owner": project_id(cloud, "demo"),
        "min_disk": 1,
        "min_ram": 0,
        "tags": ["a", "b"],
        "hw_disk_bus": "virtio",
        "size": None,
        "virtual_size": None,
        "checksum": None,
        "os_hash_algo": None,
        "os_hash_value": None,
        "self": f"/v2/images/{image['id']}",
        "file": f"/v2/images/{image['id']}/file",
        "schema": "/v2/schemas/image",
    }
    assert wanted.items() <= image.items()
    assert cloud.get(f"{IMAGES}/{image['id']}").json == image


REFUSED = [
    ({"name": "x" * 256}, 400, "name"),
    ({"disk_format": "floppy"}, 400, "disk_format"),
    ({"container_format": "box"}, 400, "container_format"),
    ({"min_disk": -1}, 400, "min_disk"),
    ({"min_ram": "much"}, 400, "min_ram"),
    ({"visibility": "secret"}, 400, "visibility"),
    ({"id": "../../etc/passwd"}, 400, "id"),
    ({"tags": ["x" * 256]}, 400, "tags"),
    ({"protected": "perhaps"}, 400, "protected"),
    ({"p": 7}, 400, "p"),
    ({"p" * 256: "x"}, 400, "property"),
    ({"p": "x" * 65536}, 400, "p"),
    ({f"p{number}": "x" for number in range(129)}, 413, "128"),
    ({"status": "active"}, 403, "status"),
    ({"checksum": "0" * 32}, 403, "checksum"),
    ({"locations": "file:///etc/passwd"}, 403, "locations"),
    ({"os_glance_x": "y"}, 403, "os_glance_x"),
    ({"visibility": "public"}, 403, "publicize"),
    ({"owner": "0" * 32}, 403, "others"),
]


@pytest.mark.parametrize(("body", "status", "named"), REFUSED)
def test_create_refused(cloud, body, status, named):
    """A body that does not fit is refused with the name of what does not, and leaves nothing behind."""
    answer = cloud.post(IMAGES, body, headers=JSON)
    assert answer.status_code == status, answer.text
    assert named in answer.json["message"]
    assert names(cloud) == []


def test_create_with_an_id(cloud):
    image_id = "0bfa1e4e-9fd4-4bd8-9e85-54b2b8d5f5a1"
    assert make(cloud, id=image_id.upper(), name="one")["id"] == image_id
    assert cloud.post(IMAGES, {"id": image_id}).status_code == 409
    assert cloud.delete(f"{IMAGES}/{image_id}").status_code == 204
    assert cloud.post(IMAGES, {"id": image_id}).status_code == 409


def test_quota(cloud):
    """Counted from rows; a deleted image counts no more."""
    with cloud.database.write.begin() as session:
        session.add(Quota(project_id=project_id(cloud, "demo"), resource="image", limit=1))
    image = make(cloud, name="one")
    answer = cloud.post(IMAGES, {"name": "two"}, headers=JSON)
    assert answer.status_code == 413
    assert "Quota" in answer.json["message"]
    assert cloud.delete(f"{IMAGES}/{image['id']}").status_code == 204
    make(cloud, name="two")


@pytest.fixture
def several(cloud):
    """Images of demo and other, of every visibility."""
    rows = {}
    for user in ("demo", "other"):
        for visibility in ("private", "shared", "community"):
            rows[f"{user}-{visibility}"] = make(cloud, user, name=f"{user}-{visibility}", visibility=visibility)["id"]
    rows["public"] = make(cloud, "admin", name="public", visibility="public")["id"]
    rows["hidden"] = make(cloud, name="hidden", os_hidden=True)["id"]
    return rows


OWN = ["demo-community", "demo-private", "demo-shared"]
LISTS = [
    ("demo", "", [*OWN, "public"]),
    ("reader", "", [*OWN, "public"]),
    ("demo", "?visibility=private", ["demo-private"]),
    ("demo", "?visibility=shared", ["demo-shared"]),
    ("demo", "?visibility=public", ["public"]),
    ("demo", "?visibility=community", ["demo-community", "other-community"]),
    ("demo", "?visibility=all", [*OWN, "other-community", "public"]),
    ("demo", "?os_hidden=true", ["hidden"]),
    ("demo", "?name=demo-private", ["demo-private"]),
    ("demo", "?name=in:demo-private,%22public%22", ["demo-private", "public"]),
    ("admin", "?name=other-private", ["other-private"]),
]


@pytest.mark.parametrize(("user", "query", "expected"), LISTS)
def test_visibility_in_lists(cloud, several, user, query, expected):
    """A list shows one's own, the public ones, and nobody else's."""
    assert names(cloud, query, user) == expected


SHOWN = [
    ("demo-private", 404),
    ("demo-shared", 404),
    ("demo-community", 200),
    ("public", 200),
]


@pytest.mark.parametrize(("name", "status"), SHOWN)
def test_visibility_by_id(cloud, several, name, status):
    """Another project's private or shared image is a 404; a usable one can be read and not changed."""
    path = f"{IMAGES}/{several[name]}"
    assert cloud.get(path, user="other").status_code == status
    wanted = 404 if status == 404 else 403
    assert cloud.delete(path, user="other").status_code == wanted
    change = {"op": "replace", "path": "/name", "value": "mine"}
    assert patch(cloud, several[name], change, user="other").status_code == wanted
    assert cloud.put(f"{path}/tags/t", user="other").status_code == wanted
    assert cloud.put(f"{path}/file", user="other").status_code == wanted
    assert cloud.get(path, user="admin").json["name"] == name


def test_s28_reader_changes_nothing(cloud, several):
    path = f"{IMAGES}/{several['demo-private']}"
    assert cloud.get(path, user="reader").status_code == 200
    assert cloud.post(IMAGES, {"name": "x"}, user="reader").status_code == 403
    assert patch(cloud, several["demo-private"], user="reader").status_code == 403
    assert cloud.put(f"{path}/file", user="reader").status_code == 403
    assert cloud.put(f"{path}/tags/x", user="reader").status_code == 403
    assert cloud.delete(path, user="reader").status_code == 403
    assert cloud.get(IMAGES, user=None).status_code == 401


FILTERS = [
    ("?disk_format=qcow2", ["a"]),
    ("?disk_format=in:raw,qcow2", ["a", "b"]),
    ("?container_format=bare", ["a"]),
    ("?status=queued", ["a", "b", "c"]),
    ("?status=active", []),
    ("?tag=x", ["a", "b"]),
    ("?tag=x&tag=y", ["b"]),
    ("?tag=X", []),
    ("?tag=%", []),
    ("?hw_disk_bus=virtio", ["a"]),
    ("?hw_disk_bus=scsi", []),
    ("?os.dotted=1%202", ["b"]),
    ("?protected=true", ["c"]),
    ("?min_ram=64", ["b"]),
    ("?size_min=1", []),
    ("?created_at=gt:2020-01-01T00:00:00Z", ["a", "b", "c"]),
    ("?created_at=lt:2020-01-01T00:00:00Z", []),
    ("?name=a&tag=x", ["a"]),
]


@pytest.mark.parametrize(("query", "expected"), FILTERS)
def test_filters(cloud, query, expected):
    make(cloud, name="a", disk_format="qcow2", container_format="bare", tags=["x"], hw_disk_bus="virtio")
    make(cloud, name="b", disk_format="raw", tags=["x", "y"], min_ram=64, **{"os.dotted": "1 2"})
    make(cloud, name="c", protected=True, tags=["xy"])
    assert names(cloud, query) == expected


@pytest.mark.parametrize(
    "query", ["size_min=x", "protected=7", "created_at=gt:then", "limit=-1", "sort=nothing", "marker=none"]
)
def test_filters_refused(cloud, query):
    answer = cloud.get(f"{IMAGES}?{query}", headers=JSON)
    assert answer.status_code == 400
    assert query.split("=")[0] in answer.json["message"]


def test_pages(cloud):
    """Following `next` shows every image once, in order; the newest first unless sorted."""
    for number in range(5):
        make(cloud, name=f"i{number}")
    first = cloud.get(f"{IMAGES}?limit=2&sort=name:asc").json
    assert first["first"] == "/v2/images?limit=2&sort=name%3Aasc"
    found, page = [], first
    while True:
        found += [image["name"] for image in page["images"]]
        if "next" not in page:
            break
        assert page["next"].startswith("/v2/images?")
        page = cloud.get(f"/image{page['next']}").json
    assert found == [f"i{number}" for number in range(5)]
    assert cloud.get(IMAGES).json["images"][0]["name"] == "i4"
    assert cloud.get(IMAGES).json["first"] == "/v2/images"


def test_patch(cloud):
    """add, replace and remove of attributes and properties, all or none."""
    image = make(cloud, name="a", old="1")
    answer = patch(
        cloud,
        image["id"],
        {"op": "replace", "path": "/name", "value": "b"},
        {"op": "add", "path": "/hw_rng_model", "value": "virtio"},
        {"op": "add", "path": "/a~1b~0c", "value": "odd"},
        {"op": "replace", "path": "/tags", "value": ["t"]},
        {"op": "replace", "path": "/min_disk", "value": 2},
        {"op": "remove", "path": "/old"},
    )
    assert answer.status_code == 200, answer.text
    assert {
        "name": "b",
        "hw_rng_model": "virtio",
        "a/b~c": "odd",
        "tags": ["t"],
        "min_disk": 2,
    }.items() <= answer.json.items()
    assert "old" not in answer.json
    assert cloud.get(f"{IMAGES}/{image['id']}").json == answer.json
    answer = patch(
        cloud,
        image["id"],
        {"op": "replace", "path": "/name", "value": "c"},
        {"op": "remove", "path": "/none"},
    )
    assert answer.status_code == 409
    assert cloud.get(f"{IMAGES}/{image['id']}").json["name"] == "b"


PATCHES = [
    ({"op": "replace", "path": "/status", "value": "active"}, 403),
    ({"op": "replace", "path": "/checksum", "value": "x"}, 403),
    ({"op": "replace", "path": "/id", "value": "x"}, 403),
    ({"op": "add", "path": "/locations", "value": []}, 403),
    ({"op": "remove", "path": "/name"}, 403),
    ({"op": "replace", "path": "/visibility", "value": "public"}, 403),
    ({"op": "replace", "path": "/owner", "value": "0" * 32}, 403),
    ({"op": "replace", "path": "/none", "value": "x"}, 409),
    ({"op": "replace", "path": "/disk_format", "value": "floppy"}, 400),
    ({"op": "replace", "path": "/min_ram", "value": -1}, 400),
    ({"op": "add", "path": "/p", "value": 1}, 400),
    ({"op": "add", "path": "/p"}, 400),
    ({"op": "add", "path": "/p/q", "value": "x"}, 400),
    ({"op": "add", "path": "p", "value": "x"}, 400),
    ({"op": "move", "path": "/p", "from": "/q"}, 400),
    ("nonsense", 400),
]


@pytest.mark.parametrize(("change", "status"), PATCHES)
def test_patch_refused(cloud, change, status):
    image = make(cloud, name="a")
    assert patch(cloud, image["id"], change).status_code == status
    assert cloud.get(f"{IMAGES}/{image['id']}").json == image


def test_patch_media_type(cloud):
    image = make(cloud, name="a")
    answer = patch(cloud, image["id"], headers={"Content-Type": "application/json"})
    assert answer.status_code == 415
    assert "v2.1-json-patch" in answer.headers["Accept-Patch"]
    assert cloud.call("PATCH", f"{IMAGES}/{image['id']}", "{", headers=PATCH).status_code == 400
    assert cloud.call("PATCH", f"{IMAGES}/{image['id']}", "{}", headers=PATCH).status_code == 400


def test_tags(cloud):
    image = make(cloud, name="a")
    path = f"{IMAGES}/{image['id']}"
    assert cloud.put(f"{path}/tags/one").status_code == 204
    assert cloud.put(f"{path}/tags/one").status_code == 204
    assert cloud.get(path).json["tags"] == ["one"]
    assert cloud.put(f"{path}/tags/{'x' * 256}").status_code == 400
    assert cloud.delete(f"{path}/tags/one").status_code == 204
    assert cloud.delete(f"{path}/tags/one").status_code == 404


def test_members(cloud):
    """A shared image is its member's to use at once, and in its list once it accepted."""
    image, other = make(cloud, name="a"), project_id(cloud, "other")
    path = f"{IMAGES}/{image['id']}"
    assert cloud.get(path, user="other").status_code == 404
    answer = cloud.post(f"{path}/members", {"member": other})
    assert answer.status_code == 200
    assert answer.json["status"] == "pending"
    assert cloud.post(f"{path}/members", {"member": other}).status_code == 409
    assert cloud.get(path, user="other").status_code == 200
    assert names(cloud, user="other") == []
    assert names(cloud, "?visibility=shared&member_status=pending", "other") == ["a"]
    assert cloud.put(f"{path}/members/{other}", {"status": "accepted"}).status_code == 403
    assert cloud.put(f"{path}/members/{other}", {"status": "accepted"}, user="other").status_code == 200
    assert names(cloud, user="other") == ["a"]
    assert cloud.get(f"{path}/members", user="other").json["members"][0]["member_id"] == other
    assert cloud.delete(f"{path}/members/{other}", user="other").status_code == 403
    assert cloud.delete(path, user="other").status_code == 403
    assert cloud.delete(f"{path}/members/{other}").status_code == 204
    assert cloud.get(path, user="other").status_code == 404
    private = make(cloud, name="b", visibility="private")
    assert cloud.post(f"{IMAGES}/{private['id']}/members", {"member": other}).status_code == 403


def test_protected(cloud):
    image = make(cloud, name="a", protected=True)
    path = f"{IMAGES}/{image['id']}"
    assert cloud.delete(path).status_code == 403
    assert patch(cloud, image["id"], {"op": "replace", "path": "/protected", "value": False}).status_code == 200
    assert cloud.delete(path).status_code == 204
    assert cloud.get(path).status_code == 404
    assert cloud.delete(path).status_code == 404
    assert names(cloud) == []


def test_versions_schemas_and_info(cloud):
    """Discovery needs no token; schemas name what the answers hold."""
    for path in ("/image", "/image/", "/image/versions", "/image/v2", "/image/v2/"):
        answer = cloud.get(path, user=None)
        assert answer.status_code == 300, path
        newest = answer.json["versions"][0]
        assert newest["status"] == "CURRENT"
        assert newest["links"][0]["href"] == "http://127.0.0.1:6780/image/v2/"
        known = [one["id"] for one in answer.json["versions"]]
        assert ("v2.15" in known, "v2.14" in known, "v2.12" in known, known[-1]) == (True, False, True, "v2.0")
    schema = cloud.get("/image/v2/schemas/image").json
    assert set(make(cloud, name="a")) <= set(schema["properties"])
    for name in ("images", "member", "members", "task", "tasks"):
        assert cloud.get(f"/image/v2/schemas/{name}").json["name"] == name
    assert cloud.get("/image/v2/info/import").json["import-methods"]["value"] == ["glance-direct", "web-download"]
    assert [one["id"] for one in cloud.get("/image/v2/info/stores").json["stores"]] == ["files"]
    assert cloud.get("/image/v2/info/stores/detail", user="admin").json["stores"][0]["type"] == "file"
    usage = cloud.get("/image/v2/info/usage").json["usage"]
    assert usage["image_count_total"]["usage"] == 1


def test_errors_have_the_services_format(cloud):
    """HTML for who does not ask for JSON, with the message escaped."""
    answer = cloud.get(f"{IMAGES}/<script>")
    assert answer.status_code == 404
    assert answer.content_type.startswith("text/html")
    assert b"<script>" not in answer.data
    assert cloud.get(f"{IMAGES}/none", headers=JSON).json["code"] == "404 Not Found"
