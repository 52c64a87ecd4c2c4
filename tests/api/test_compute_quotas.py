"""os-quota-class-sets, and the limits of one user in os-quota-sets: shown, set, in force, taken back."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, add_image, add_network, boot, build_server, find_project, read_server, see_host

CLASS = f"{COMPUTE}/os-quota-class-sets/default"
PLAIN = {
    "instances", "cores", "ram", "key_pairs", "metadata_items", "server_groups", "server_group_members",
}  # fmt: skip
INJECTED = {"injected_files", "injected_file_content_bytes", "injected_file_path_bytes"}
NETWORK = {"floating_ips", "fixed_ips", "security_groups", "security_group_rules"}
GROUPS = {"server_groups", "server_group_members"}


def read(cloud, path: str, key: str = "quota_set", version: str = "2.1") -> dict:
    answer = cloud.get(path, user="admin", version=version)
    assert answer.status_code == 200, answer.text
    return answer.json[key]


@pytest.mark.parametrize(
    ("version", "names"),
    [
        ("2.1", PLAIN - GROUPS | INJECTED | NETWORK),
        ("2.49", PLAIN - GROUPS | INJECTED | NETWORK),
        ("2.50", PLAIN | INJECTED),
        ("2.57", PLAIN),
        ("2.96", PLAIN),
    ],
)
def test_fields_of_the_class_by_version(cloud, version, names):
    assert set(read(cloud, CLASS, "quota_class_set", version)) == names | {"id"}
    changed = cloud.put(CLASS, {"quota_class_set": {"cores": 30}}, user="admin", version=version)
    assert set(changed.json["quota_class_set"]) == names
    old = {"quota_class_set": {"floating_ips": 3}}
    assert (cloud.put(CLASS, old, user="admin", version=version).status_code == 200) == ("fixed_ips" in names)


def test_the_class_is_what_projects_have_without_limits_of_their_own(cloud):
    path = f"{COMPUTE}/os-quota-sets/{find_project(cloud)}"
    image = add_image(cloud)
    assert cloud.put(CLASS, {"quota_class_set": {"instances": 1}}).status_code == 403
    for wrong in ({"instances": -2}, {"instances": "x"}, {"colour": 1}, {"force": True}):
        assert cloud.put(CLASS, {"quota_class_set": wrong}, user="admin").status_code == 400, wrong
    assert cloud.put(CLASS.replace("default", "gold"), {"quota_class_set": {}}, user="admin").status_code == 404
    cloud.put(CLASS, {"quota_class_set": {"instances": 1, "security_groups": 1}}, user="admin")
    assert read(cloud, path)["instances"] == read(cloud, f"{path}/defaults")["instances"] == 1
    boot(cloud, image)
    assert cloud.post(f"{COMPUTE}/servers", build_server(image), version="2.37").status_code == 403
    cloud.put(path, {"quota_set": {"instances": 2}}, user="admin")
    boot(cloud, image)
    cloud.put(CLASS, {"quota_class_set": {"instances": 0}}, user="admin")
    assert read(cloud, path)["instances"] == 2
    cloud.delete(path, user="admin")
    assert read(cloud, path)["instances"] == 0
    group = {"security_group": {"name": "g"}}
    codes = [cloud.post("/networking/v2.0/security-groups", group).status_code for _ in range(2)]
    assert codes[-1] == 409


def test_limits_of_a_user(cloud):
    """A user's limit is within the project's, holds beside it, and counts that user's servers alone."""
    image = add_image(cloud)
    project = find_project(cloud)
    path = f"{COMPUTE}/os-quota-sets/{project}"
    first = boot(cloud, image)
    user = read_server(cloud, first).user_id
    own = f"{path}?user_id={user}"

    def put(**limits):
        return cloud.put(own, {"quota_set": limits}, user="admin").status_code

    assert read(cloud, own)["instances"] == 10
    assert cloud.put(own, {"quota_set": {"instances": 1}}).status_code == 403
    for wrong in ({"instances": 11}, {"instances": -1}, {"instances": 0}, {"floating_ips": 1}, {"fixed_ips": 5}):
        assert put(**wrong) == 400, wrong
    assert put(instances=11, force=True) == 200
    assert put(instances=1, ram=1024, key_pairs=0) == 200
    assert read(cloud, own)["instances"] == 1
    assert read(cloud, path)["instances"] == 10
    detail = f"{path}/detail?user_id={user}"
    assert read(cloud, detail)["instances"] == {"limit": 1, "in_use": 1, "reserved": 0}
    assert read(cloud, f"{path}/detail?user_id=nobody")["instances"] == {"limit": 10, "in_use": 0, "reserved": 0}
    refused = cloud.post(f"{COMPUTE}/servers", build_server(image), version="2.37")
    assert (refused.status_code, "instances" in refused.text) == (403, True)
    assert cloud.post(f"{COMPUTE}/os-keypairs", {"keypair": {"name": "k"}}).status_code == 403
    resize = {"resize": {"flavorRef": "2"}}
    refused = cloud.post(f"{COMPUTE}/servers/{first}/action", resize)
    assert (refused.status_code, "ram" in refused.text) == (403, True)
    assert cloud.delete(own, user="admin").status_code == 202
    assert read(cloud, own)["instances"] == 10
    put(instances=1)
    assert cloud.delete(path, user="admin").status_code == 202  # the project's, with all its users'
    assert read(cloud, own)["instances"] == 10
    boot(cloud, image)
    see_host(cloud)


def test_fixed_addresses_are_counted(cloud):
    """Whatever port they are on; a network's own and floating ones count elsewhere."""
    path = f"{COMPUTE}/os-quota-sets/{find_project(cloud)}"
    network = add_network(cloud)
    put = {"quota_set": {"fixed_ips": 2}}
    assert cloud.put(path, put, user="admin").json["quota_set"]["fixed_ips"] == 2
    image = add_image(cloud)
    boot(cloud, image, networks=[{"uuid": network}])
    assert read(cloud, f"{path}/detail")["fixed_ips"] == {"limit": 2, "in_use": 1, "reserved": 0}
    ports = "/networking/v2.0/ports"
    subnet = cloud.get("/networking/v2.0/subnets").json["subnets"][0]["id"]
    two = {"network_id": network, "fixed_ips": [{"subnet_id": subnet}, {"subnet_id": subnet}]}
    assert cloud.post(ports, {"port": two}).status_code == 409
    assert cloud.post(ports, {"port": {"network_id": network}}).status_code == 201
    refused = cloud.post(f"{COMPUTE}/servers", build_server(image, networks=[{"uuid": network}]), version="2.37")
    assert (refused.status_code, "fixed_ips" in refused.text) == (403, True)
    assert cloud.put(path, {"quota_set": {"fixed_ips": 1}}, user="admin").status_code == 400
    changed = {"quota_class_set": {"fixed_ips": 99}}
    assert cloud.put(CLASS, changed, user="admin").json["quota_class_set"]["fixed_ips"] == 99


def test_wrong_queries(cloud):
    path = f"{COMPUTE}/os-quota-sets/{find_project(cloud)}"
    for method, url, body in (
        ("GET", path, None),
        ("GET", f"{path}/detail", None),
        ("PUT", path, {"quota_set": {}}),
        ("DELETE", path, None),
    ):
        for version, expected in (("2.74", (200, 202)), ("2.75", (400,))):
            answer = cloud.call(method, f"{url}?what=1", body, user="admin", version=version)
            assert answer.status_code in expected, (method, url, version)
