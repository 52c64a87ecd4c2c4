"""Metadata definitions: namespaces, what is in them, who sees and changes them, and their schemas."""

from __future__ import annotations

import jsonschema
import pytest

from web.models import MetadefAssociation, MetadefObject, MetadefProperty, MetadefTag

BASE = "/image/v2/metadefs/namespaces"
CORES = {"title": "Cores", "type": "integer", "minimum": 1, "operators": ["<or>"]}


def create(cloud, name="Kumo::Test", **body) -> dict:
    answer = cloud.post(BASE, {"namespace": name, "visibility": "public", **body}, user="admin")
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"].endswith(f"/image/v2/metadefs/namespaces/{name}")
    return answer.json


def list_names(cloud, query="", **options) -> list[str]:
    return [one["namespace"] for one in cloud.get(BASE + query, **options).json["namespaces"]]


def test_a_namespace_with_all_that_may_be_in_it(cloud):
    made = create(
        cloud,
        display_name="Test",
        description="What tests speak of.",
        resource_type_associations=[{"name": "OS::Glance::Image", "prefix": "hw_"}, {"name": "Kumo::New"}],
        properties={"cpu_cores": CORES},
        objects=[{"name": "CPU Limits", "required": ["a"], "properties": {"a": {"name": "a", **CORES}}}],
        tags=[{"name": "one"}, {"name": "two"}],
    )
    assert made["properties"] == {"cpu_cores": CORES}
    assert [one["name"] for one in made["resource_type_associations"]] == ["Kumo::New", "OS::Glance::Image"]
    shown = cloud.get(f"{BASE}/Kumo::Test").json
    assert shown == made
    assert shown["self"] == "/v2/metadefs/namespaces/Kumo::Test"
    assert shown["schema"] == "/v2/schemas/metadefs/namespace"
    assert shown["objects"][0]["properties"] == {"a": CORES}
    assert shown["tags"] == [{"name": "one"}, {"name": "two"}]
    assert shown["created_at"].endswith("Z")
    assert (shown["protected"], shown["visibility"]) == (False, "public")
    # names of properties as a resource of that type has them; a type that is not associated changes nothing
    assert list(cloud.get(f"{BASE}/Kumo::Test?resource_type=OS::Glance::Image").json["properties"]) == ["hw_cpu_cores"]
    assert list(cloud.get(f"{BASE}/Kumo::Test?resource_type=OS::Nova::Server").json["properties"]) == ["cpu_cores"]
    names = [one["name"] for one in cloud.get("/image/v2/metadefs/resource_types").json["resource_types"]]
    assert "Kumo::New" in names
    assert "OS::Nova::Flavor" in names
    # one that has nothing in it shows nothing of that
    assert "objects" not in create(cloud, "Kumo::Empty")


def test_what_a_namespace_was_made_with_goes_with_it(cloud, database):
    create(cloud, resource_type_associations=[{"name": "a"}], properties={"p": CORES}, tags=[{"name": "t"}],
           objects=[{"name": "o"}])  # fmt: skip
    assert cloud.delete(f"{BASE}/Kumo::Test", user="admin").status_code == 204
    assert cloud.get(f"{BASE}/Kumo::Test").status_code == 404
    assert cloud.delete(f"{BASE}/Kumo::Test", user="admin").status_code == 404
    with database.read() as session:
        for model in (MetadefAssociation, MetadefObject, MetadefProperty, MetadefTag):
            assert session.query(model).count() == 0


def test_an_update_sets_what_it_does_not_name_to_what_it_is_by_default(cloud):
    create(cloud, display_name="Test", description="Text", tags=[{"name": "one"}])
    create(cloud, "taken")
    changed = cloud.put(f"{BASE}/Kumo::Test", {"namespace": "other", "description": "New"}, user="admin")
    assert changed.status_code == 200, changed.text
    assert changed.json["description"] == "New"
    assert "display_name" not in changed.json
    assert (changed.json["visibility"], changed.json["protected"]) == ("private", False)
    assert cloud.get(f"{BASE}/Kumo::Test", user="admin").status_code == 404
    whole = cloud.get(f"{BASE}/other", user="admin").json
    assert whole["tags"] == [{"name": "one"}]
    assert cloud.put(f"{BASE}/other", whole, user="admin").status_code == 200  # what was shown may be sent back
    assert cloud.put(f"{BASE}/other", {"namespace": "taken"}, user="admin").status_code == 409
    assert cloud.put(f"{BASE}/other", {"description": "no name"}, user="admin").status_code == 400


def test_there_is_one_namespace_of_a_name(cloud):
    create(cloud)
    assert cloud.post(BASE, {"namespace": "Kumo::Test"}, user="admin").status_code == 409


@pytest.mark.parametrize("kind", ["", "objects/o", "properties/p", "tags/t", "resource_types/r", "objects",
                                  "properties", "tags"])  # fmt: skip
def test_nothing_of_a_protected_namespace_can_be_deleted(cloud, kind):
    create(cloud, protected=True, resource_type_associations=[{"name": "r"}], properties={"p": CORES},
           tags=[{"name": "t"}], objects=[{"name": "o"}])  # fmt: skip
    path = f"{BASE}/Kumo::Test/{kind}".rstrip("/")
    before = cloud.get(f"{BASE}/Kumo::Test").json
    answer = cloud.delete(path, user="admin")
    assert answer.status_code == 403
    assert "protected" in answer.text
    assert cloud.get(f"{BASE}/Kumo::Test").json == before
    body = {"namespace": "Kumo::Test", "visibility": "public", "protected": False}
    assert cloud.put(f"{BASE}/Kumo::Test", body, user="admin").json["protected"] is False
    assert cloud.delete(path, user="admin").status_code == 204
    if kind in ("", "objects/o"):
        assert cloud.get(path).status_code == 404


def test_tags_of_a_protected_namespace_are_not_replaced(cloud):
    create(cloud, protected=True, tags=[{"name": "t"}])
    body = {"tags": [{"name": "new"}]}
    assert cloud.post(f"{BASE}/Kumo::Test/tags", body, user="admin").status_code == 403
    append = {"X-Openstack-Append": "True"}
    assert cloud.post(f"{BASE}/Kumo::Test/tags", body, user="admin", headers=append).status_code == 201
    assert [one["name"] for one in cloud.get(f"{BASE}/Kumo::Test/tags?sort_key=name&sort_dir=asc").json["tags"]] == [
        "new",
        "t",
    ]


def test_a_private_namespace_is_seen_by_its_owner_and_admins(cloud):
    project = cloud.get("/identity/v3/auth/projects").json["projects"][0]["id"]
    create(cloud, "public")
    create(cloud, "admins", visibility="private")
    create(cloud, "demos", visibility="private", owner=project)
    assert sorted(list_names(cloud, user="admin")) == ["admins", "demos", "public"]
    assert sorted(list_names(cloud)) == ["demos", "public"]
    assert sorted(list_names(cloud, user="other")) == ["public"]
    assert list_names(cloud, "?visibility=private") == ["demos"]
    assert cloud.get(f"{BASE}?visibility=shared").status_code == 400
    assert cloud.get(f"{BASE}/demos").status_code == 200
    for path in ("", "/objects", "/properties", "/tags", "/resource_types", "/tags/t"):
        assert cloud.get(f"{BASE}/demos{path}", user="other").status_code == 404, path


def test_only_admins_write(cloud):
    create(cloud, properties={"p": CORES})
    body = {"name": "x", **CORES}
    for user in ("demo", "reader"):
        assert cloud.post(BASE, {"namespace": "mine"}, user=user).status_code == 403
        assert cloud.put(f"{BASE}/Kumo::Test", {"namespace": "mine"}, user=user).status_code == 403
        assert cloud.delete(f"{BASE}/Kumo::Test", user=user).status_code == 403
        assert cloud.post(f"{BASE}/Kumo::Test/properties", body, user=user).status_code == 403
        assert cloud.delete(f"{BASE}/Kumo::Test/properties/p", user=user).status_code == 403


def test_where_the_operator_lets_members_write_they_change_what_is_theirs(settings, cloud):
    with open(settings.policy.file, "w") as stream:
        stream.write("\n".join(f'"image:metadefs:{verb}": "rule:member"' for verb in ("create", "update", "delete")))
    from tests.api.conftest import Cloud

    lenient = Cloud(settings, cloud.database)
    create(cloud)
    assert lenient.post(BASE, {"namespace": "mine"}).status_code == 201
    assert lenient.post(BASE, {"namespace": "theirs", "owner": "somebody"}).status_code == 403
    assert lenient.post(f"{BASE}/mine/tags/one", user="demo").status_code == 201
    assert lenient.post(f"{BASE}/Kumo::Test/tags/one", user="demo").status_code == 403
    assert lenient.delete(f"{BASE}/Kumo::Test").status_code == 403
    assert lenient.delete(f"{BASE}/mine", user="other").status_code == 404


def test_pages_of_namespaces(cloud):
    for name in "cabd":
        create(cloud, name, resource_type_associations=[{"name": f"type-{name}"}])
    assert list_names(cloud) == ["d", "b", "a", "c"]  # the newest first
    assert list_names(cloud, "?sort_key=namespace&sort_dir=asc") == ["a", "b", "c", "d"]
    seen, path = [], f"{BASE}?limit=3&sort_key=namespace&sort_dir=asc"
    while path:
        body = cloud.get(path).json
        assert body["first"] == "/v2/metadefs/namespaces?limit=3&sort_key=namespace&sort_dir=asc"
        assert body["schema"] == "/v2/schemas/metadefs/namespaces"
        seen.append([one["namespace"] for one in body["namespaces"]])
        path = body.get("next") and "/image" + body["next"]
    assert seen == [["a", "b", "c"], ["d"]]
    assert sorted(list_names(cloud, "?resource_types=type-a,type-d,none")) == ["a", "d"]
    assert cloud.get(f"{BASE}?marker=none").status_code == 400
    assert cloud.get(f"{BASE}?sort_key=owner").status_code == 400
    listed = cloud.get(f"{BASE}?resource_types=type-a").json["namespaces"][0]
    assert listed["resource_type_associations"][0]["name"] == "type-a"


def test_objects(cloud):
    create(cloud)
    path = f"{BASE}/Kumo::Test/objects"
    body = {"name": "CPU Limits", "description": "d", "required": ["a"], "properties": {"a": CORES}}
    made = cloud.post(path, body, user="admin")
    assert made.status_code == 201, made.text
    assert {name: made.json[name] for name in body} == body
    assert made.json["self"] == "/v2/metadefs/namespaces/Kumo::Test/objects/CPU Limits"
    assert cloud.post(path, body, user="admin").status_code == 409
    assert cloud.get(f"{path}/CPU Limits").json == made.json
    assert cloud.post(path, {"name": "other"}, user="admin").json["properties"] == {}
    assert cloud.put(f"{path}/CPU Limits", {"name": "other"}, user="admin").status_code == 409
    changed = cloud.put(f"{path}/CPU Limits", {**made.json, "name": "limits", "required": []}, user="admin")
    assert (changed.status_code, changed.json["name"], changed.json["required"]) == (200, "limits", [])
    assert "description" not in cloud.put(f"{path}/limits", {"name": "limits"}, user="admin").json
    first = cloud.get(f"{path}?limit=1&sort_key=name&sort_dir=asc").json
    assert [one["name"] for one in first["objects"]] == ["limits"]
    assert [one["name"] for one in cloud.get("/image" + first["next"]).json["objects"]] == ["other"]
    assert cloud.delete(f"{path}/limits", user="admin").status_code == 204
    assert cloud.get(f"{path}/limits").status_code == 404
    assert cloud.delete(path, user="admin").status_code == 204
    assert cloud.get(path).json["objects"] == []


def test_a_marker_is_a_name_in_its_own_namespace(cloud):
    for space in ("one", "two"):
        create(cloud, space)
        for name in ("a", "b") if space == "one" else ("b", "a"):
            assert cloud.post(f"{BASE}/{space}/tags/{name}", user="admin").status_code == 201
    for space, names in (("one", ["b", "a"]), ("two", ["a", "b"])):
        first = cloud.get(f"{BASE}/{space}/tags?limit=1").json
        rest = cloud.get("/image" + first["next"]).json
        assert [one["name"] for one in (*first["tags"], *rest["tags"])] == names


def test_properties(cloud):
    create(cloud, resource_type_associations=[{"name": "OS::Glance::Image", "prefix": "hw_"}])
    path = f"{BASE}/Kumo::Test/properties"
    body = {"name": "cores", **CORES, "enum": [1, 2, None], "default": {"any": ["thing"]}, "readonly": False}
    made = cloud.post(path, body, user="admin")
    assert (made.status_code, made.json) == (201, body)
    assert cloud.post(path, body, user="admin").status_code == 409
    assert cloud.get(path).json == {"properties": {"cores": {name: body[name] for name in body if name != "name"}}}
    assert cloud.get(f"{path}/cores").json == body
    assert cloud.get(f"{path}/hw_cores?resource_type=OS::Glance::Image").json == {**body, "name": "hw_cores"}
    assert cloud.get(f"{path}/cores?resource_type=OS::Glance::Image").status_code == 404
    assert cloud.get(f"{path}/cores?resource_type=OS::Nova::Server").status_code == 404
    changed = cloud.put(f"{path}/cores", {"name": "threads", "title": "Threads", "type": "string"}, user="admin")
    assert (changed.status_code, changed.json) == (200, {"name": "threads", "title": "Threads", "type": "string"})
    assert cloud.delete(f"{path}/cores", user="admin").status_code == 404
    assert cloud.delete(f"{path}/threads", user="admin").status_code == 204
    assert cloud.get(path).json == {"properties": {}}


@pytest.mark.parametrize(
    "change",
    [{"type": "text"}, {"type": None}, {"title": 1}, {"name": "a/b"}, {"name": ""}, {"name": "x" * 81}, {"strange": 1},
     {"minLength": -1}, {"enum": "a"}, {"readonly": "yes"}, {"items": {"type": "none"}}, {"minimum": "1"}],
    ids=str,
)  # fmt: skip
def test_a_property_that_is_none(cloud, change):
    create(cloud)
    answer = cloud.post(f"{BASE}/Kumo::Test/properties", {"name": "p", **CORES, **change}, user="admin")
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("text", ["NaN", "1e999", '"\\ud800"'])
def test_values_that_no_database_stores(cloud, text):
    create(cloud)
    body = f'{{"name": "p", "title": "t", "type": "string", "default": {text}}}'
    assert cloud.post(f"{BASE}/Kumo::Test/properties", body, user="admin").status_code == 400
    inner = f'{{"namespace": "other", "properties": {{"p": {{"title": "t", "type": "string", "enum": [{text}]}}}}}}'
    assert cloud.post(BASE, inner, user="admin").status_code == 400


def test_tags(cloud):
    create(cloud)
    path = f"{BASE}/Kumo::Test/tags"
    names = ["one", "two", "three"]
    made = cloud.post(path, {"tags": [{"name": name} for name in names]}, user="admin")
    assert (made.status_code, made.json) == (201, {"tags": [{"name": name} for name in names]})
    assert {one["name"] for one in cloud.get(path).json["tags"]} == set(names)
    assert cloud.post(path, {"tags": [{"name": "twice"}] * 2}, user="admin").status_code == 409
    assert cloud.post(path, {"tags": [{"name": "new"}]}, user="admin").status_code == 201  # instead of those
    assert [one["name"] for one in cloud.get(path).json["tags"]] == ["new"]
    added = cloud.call("POST", f"{path}/added", user="admin")
    assert (added.status_code, added.json["name"]) == (201, "added")
    assert cloud.call("POST", f"{path}/added", user="admin").status_code == 409
    assert cloud.call("POST", f"{path}/{'x' * 81}", user="admin").status_code == 400
    assert cloud.get(f"{path}/added").json == added.json
    assert cloud.put(f"{path}/added", {"name": "new"}, user="admin").status_code == 409
    assert cloud.put(f"{path}/added", {"name": "renamed"}, user="admin").json["name"] == "renamed"
    assert cloud.delete(f"{path}/added", user="admin").status_code == 404
    assert cloud.delete(f"{path}/renamed", user="admin").status_code == 204
    assert cloud.delete(path, user="admin").status_code == 204
    assert cloud.get(path).json["tags"] == []


def test_associations(cloud):
    create(cloud)
    path = f"{BASE}/Kumo::Test/resource_types"
    body = {"name": "OS::Cinder::Volume", "prefix": "v_", "properties_target": "image"}
    made = cloud.post(path, body, user="admin")
    assert made.status_code == 201
    assert {name: made.json[name] for name in body} == body
    assert cloud.post(path, body, user="admin").status_code == 409
    assert cloud.get(path).json == {"resource_type_associations": [made.json]}
    assert cloud.delete(f"{path}/OS::Cinder::Volume", user="admin").status_code == 204
    assert cloud.delete(f"{path}/OS::Cinder::Volume", user="admin").status_code == 404
    assert cloud.get(path).json == {"resource_type_associations": []}
    names = [one["name"] for one in cloud.get("/image/v2/metadefs/resource_types").json["resource_types"]]
    assert "OS::Cinder::Volume" in names  # the type is known all the same


def test_schemas(cloud):
    names = {"resource_type": "resource_type_association", "resource_types": "resource_type_associations"}
    for path in ("namespace", "namespaces", "resource_type", "resource_types", "object", "objects", "property",
                 "properties", "tag", "tags"):  # fmt: skip
        schema = cloud.get(f"/image/v2/schemas/metadefs/{path}", user="reader").json
        assert schema["name"] == names.get(path, path)
        jsonschema.Draft4Validator.check_schema(schema)
    made = create(cloud, properties={"p": CORES}, objects=[{"name": "o", "properties": {"q": CORES}}],
                  resource_type_associations=[{"name": "r"}], tags=[{"name": "t"}])  # fmt: skip
    jsonschema.validate(made, cloud.get("/image/v2/schemas/metadefs/namespace").json)
    tags = cloud.get(f"{BASE}/Kumo::Test/tags").json
    jsonschema.validate(tags, cloud.get("/image/v2/schemas/metadefs/tags").json)
    properties = cloud.get(f"{BASE}/Kumo::Test/properties").json
    jsonschema.validate(properties, cloud.get("/image/v2/schemas/metadefs/properties").json)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "p", "type": "none"}, cloud.get("/image/v2/schemas/metadefs/property").json)
