"""Microversions: what is advertised, chosen and refused; each boundary that a resource has, as a table."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, add_image, add_network, boot, build_server

from web.models import Host
from web.versions import MAXIMUM, MINIMUM, show_version


def test_version_documents(cloud):
    """Both documents are there without a token and say what is served."""
    listed = cloud.get("/compute/", user=None)
    assert listed.status_code == 200
    version = listed.json["versions"][0]
    assert (version["id"], version["min_version"]) == ("v2.1", "2.1")
    assert version["version"] == show_version(MAXIMUM["compute"])
    for path in (COMPUTE, f"{COMPUTE}/"):
        assert cloud.get(path, user=None).json["version"]["links"][0]["href"].endswith("/compute/v2.1/")


@pytest.mark.parametrize(
    ("headers", "status", "served"),
    [
        ({}, 200, "2.1"),
        ({"OpenStack-API-Version": "compute 2.47"}, 200, "2.47"),
        ({"X-OpenStack-Nova-API-Version": "2.47"}, 200, "2.47"),
        ({"OpenStack-API-Version": "compute latest"}, 200, "2.96"),
        ({"OpenStack-API-Version": "volume 3.1"}, 200, "2.1"),
        ({"OpenStack-API-Version": "compute 2.97"}, 406, None),
        ({"OpenStack-API-Version": "compute 2.0"}, 406, None),
        ({"OpenStack-API-Version": "compute two"}, 400, None),
    ],
)
def test_negotiation(cloud, headers, status, served):
    answer = cloud.get(f"{COMPUTE}/servers", headers=headers)
    assert answer.status_code == status
    if served:
        assert answer.headers["OpenStack-API-Version"] == f"compute {served}"
        assert answer.headers["X-OpenStack-Nova-API-Version"] == served
        assert "OpenStack-API-Version" in answer.headers["Vary"]
        assert answer.headers["X-Compute-Request-Id"].startswith("req-")


def walk(document, path: str):
    """(whether the key at the end of the dotted path is there, its value)."""
    *parts, last = path.split("|")
    for part in parts:
        document = document[int(part) if part.isdigit() else part]
    return last in document, document.get(last)


SERVER = "/servers/{server}"
DETAIL = "/servers/detail"
KEY = "/os-keypairs/k1"
# (first version with it, user, path, key): absent in the version before, present from it on.
ADDED = [
    ("2.2", "demo", KEY, "keypair|type"),
    ("2.3", "admin", SERVER, "server|OS-EXT-SRV-ATTR:reservation_id"),
    ("2.3", "admin", SERVER, "server|OS-EXT-SRV-ATTR:launch_index"),
    ("2.3", "admin", SERVER, "server|OS-EXT-SRV-ATTR:hostname"),
    ("2.3", "admin", SERVER, "server|OS-EXT-SRV-ATTR:root_device_name"),
    ("2.3", "admin", SERVER, "server|OS-EXT-SRV-ATTR:user_data"),
    ("2.9", "demo", SERVER, "server|locked"),
    ("2.9", "demo", "/all/servers/detail", "servers|0|locked"),
    ("2.11", "admin", "/os-services", "services|0|forced_down"),
    ("2.16", "admin", SERVER, "server|host_status"),
    ("2.19", "demo", SERVER, "server|description"),
    ("2.26", "demo", SERVER, "server|tags"),
    ("2.41", "admin", "/os-aggregates", "aggregates|0|uuid"),
    ("2.47", "demo", SERVER, "server|flavor|original_name"),
    ("2.47", "demo", SERVER, "server|flavor|extra_specs"),
    ("2.51", "demo", "/servers/{server}/os-instance-actions/{request}", "instanceAction|events"),
    ("2.55", "demo", "/flavors/1", "flavor|description"),
    ("2.55", "demo", "/flavors", "flavors|0|description"),
    ("2.58", "demo", "/servers/{server}/os-instance-actions", "instanceActions|0|updated_at"),
    ("2.61", "demo", "/flavors/1", "flavor|extra_specs"),
    ("2.62", "admin", "/servers/{server}/os-instance-actions/{request}", "instanceAction|events|0|host"),
    ("2.63", "demo", SERVER, "server|trusted_image_certificates"),
    ("2.70", "demo", "/servers/{server}/os-interface", "interfaceAttachments|0|tag"),
    ("2.71", "demo", SERVER, "server|server_groups"),
    ("2.73", "demo", SERVER, "server|locked_reason"),
    ("2.84", "demo", "/servers/{server}/os-instance-actions/{request}", "instanceAction|events|0|details"),
    ("2.88", "admin", "/os-hypervisors/detail", "hypervisors|0|uptime"),
    ("2.90", "demo", SERVER, "server|OS-EXT-SRV-ATTR:hostname"),
    ("2.96", "demo", SERVER, "server|pinned_availability_zone"),
]
# (last version with it, user, path, key): present up to it, absent in the next.
REMOVED = [
    ("2.35", "demo", "/limits", "limits|absolute|maxTotalFloatingIps"),
    ("2.38", "demo", "/limits", "limits|absolute|maxImageMeta"),
    ("2.56", "demo", "/limits", "limits|absolute|maxPersonality"),
    ("2.35", "demo", "/os-quota-sets/{project}", "quota_set|floating_ips"),
    ("2.56", "demo", "/os-quota-sets/{project}", "quota_set|injected_files"),
    ("2.46", "demo", SERVER, "server|flavor|id"),
    ("2.87", "admin", "/os-hypervisors/detail", "hypervisors|0|vcpus"),
]


@pytest.fixture
def filled(cloud):
    """A server with a port, a key; what the paths above name."""
    network = add_network(cloud)
    cloud.post(f"{COMPUTE}/os-keypairs", {"keypair": {"name": "k1"}})
    cloud.post(f"{COMPUTE}/os-aggregates", {"aggregate": {"name": "a1"}}, user="admin")
    server = boot(cloud, add_image(cloud), networks=[{"uuid": network}], key_name="k1")
    request = cloud.get(f"{COMPUTE}/servers/{server}/os-instance-actions").json["instanceActions"][0]["request_id"]
    project = cloud.get(f"{COMPUTE}/servers/{server}").json["server"]["tenant_id"]
    return {"server": server, "request": request, "project": project}


def test_boundaries_of_views(cloud, filled):
    """Every field of a view appears with its version, not one earlier, and goes with its own."""
    wrong = []
    for table, at, beside in ((ADDED, 0, -1), (REMOVED, 0, 1)):
        for version, user, path, key in table:
            url = COMPUTE + path.format(**filled).removeprefix("/all")
            minor = int(version.split(".")[1])
            for number, expected in ((minor + at, True), (minor + beside, False)):
                answer = cloud.get(url, user=user, version=f"2.{number}")
                assert answer.status_code == 200, (url, number, answer.text)
                if walk(answer.json, key)[0] is not expected:
                    wrong.append((url, key, f"2.{number}", f"expected: {expected}"))
    assert wrong == []


CREATE = [
    ({"description": "x"}, "2.19", None),
    ({"tags": ["x"]}, "2.52", None),
    ({"trusted_image_certificates": None}, "2.63", None),
    ({"host": "HOST"}, "2.74", None),
    ({"hypervisor_hostname": "HOST"}, "2.74", None),
    ({"hostname": "web"}, "2.90", None),
    ({"hostname": "web.example.org"}, "2.94", None),
    ({"networks": "auto"}, "2.37", None),
    ({"networks": "none"}, "2.37", None),
    ({"networks": None}, None, "2.36"),
    ({"personality": []}, None, "2.56"),
]


@pytest.mark.parametrize(("fields", "first", "last"), CREATE, ids=str)
def test_boundaries_of_requests(cloud, fields, first, last):
    """A field of a request is taken from its first to its last version and is a 400 outside."""
    image, network = add_image(cloud), add_network(cloud)
    fields = {name: cloud.settings.kumo.hostname if value == "HOST" else value for name, value in fields.items()}
    body = build_server(image, **({"networks": [{"uuid": network}]} | fields))
    if body["server"]["networks"] is None:
        del body["server"]["networks"]
    minor = int((first or last).split(".")[1])
    inside, outside = minor, minor - 1 if first else minor + 1
    user = "admin" if "host" in str(fields) else "demo"
    for number, status in ((inside, 202), (outside, 400)):
        answer = cloud.post(f"{COMPUTE}/servers", body, user=user, version=f"2.{number}")
        assert answer.status_code == status, (number, answer.text)


ROUTES = [
    ("GET", "/servers/{server}/tags", "2.26", None),
    ("GET", "/os-hypervisors/statistics", None, "2.87"),
    ("GET", "/os-hypervisors/vm/search", None, "2.52"),
    ("PUT", "/flavors/1", "2.55", None),
    ("PUT", "/os-services/enable", None, "2.52"),
    ("PUT", "/os-services/force-down", "2.11", "2.52"),
]


@pytest.mark.parametrize(("method", "path", "first", "last"), ROUTES)
def test_boundaries_of_routes(cloud, filled, method, path, first, last):
    """Outside its versions a route is a 404."""
    for version in ("2.10", "2.25", "2.26", "2.52", "2.53", "2.54", "2.55", "2.87", "2.88", "2.96"):
        minor = int(version.split(".")[1])
        there = (not first or minor >= int(first[2:])) and (not last or minor <= int(last[2:]))
        answer = cloud.call(method, COMPUTE + path.format(**filled), {} if method == "PUT" else None, user="admin",
                            version=version)  # fmt: skip
        missing = answer.status_code == 404 and "The resource could not be found" in answer.text
        assert missing is not there, (version, answer.text)


def test_ids_of_hypervisors_and_services(cloud):
    """Numbers until 2.52, UUIDs from 2.53 on; each finds the same host."""
    for path, key in (("/os-hypervisors", "hypervisors"), ("/os-services", "services")):
        old = cloud.get(COMPUTE + path, user="admin", version="2.52").json[key][0]["id"]
        new = cloud.get(COMPUTE + path, user="admin", version="2.53").json[key][0]["id"]
        assert isinstance(old, int)
        with cloud.database.read.begin() as session:
            assert session.get(Host, new) is not None
    assert cloud.get(f"{COMPUTE}/os-hypervisors/{old}", user="admin", version="2.52").status_code == 200
    assert cloud.get(f"{COMPUTE}/os-hypervisors/{new}", user="admin", version="2.53").status_code == 200
    assert cloud.get(f"{COMPUTE}/os-hypervisors/{new}", user="admin", version="2.52").status_code == 404


def test_smaller_boundaries(cloud, filled):
    """Values that change with a version rather than come or go."""
    flavor = f"{COMPUTE}/flavors/1"
    assert cloud.get(flavor, version="2.74").json["flavor"]["swap"] == ""
    assert cloud.get(flavor, version="2.75").json["flavor"]["swap"] == 0
    hypervisors = f"{COMPUTE}/os-hypervisors/detail"
    info = [
        cloud.get(hypervisors, user="admin", version=v).json["hypervisors"][0]["cpu_info"] for v in ("2.27", "2.28")
    ]
    assert [type(one) for one in info] == [str, dict]
    path = f"{COMPUTE}/servers/{filled['server']}"
    answers = [cloud.put(path, {"server": {"name": "n"}}, version=v).json["server"] for v in ("2.74", "2.75")]
    assert ["OS-EXT-STS:vm_state" in one for one in answers] == [False, True]
    for version, status in (("2.37", 200), ("2.38", 400)):
        assert cloud.get(f"{COMPUTE}/servers?status=nice", version=version).status_code == status
    for version, status in (("2.74", 200), ("2.75", 400)):
        for url in ("servers", "flavors", "os-keypairs", "limits"):
            assert cloud.get(f"{COMPUTE}/{url}?colour=red", version=version).status_code == status, (url, version)
    for version, count in (("2.82", 1), ("2.83", 0)):
        assert len(cloud.get(f"{COMPUTE}/servers?vm_state=paused", version=version).json["servers"]) == count
    for version, count in (("2.4", 1), ("2.5", 0)):
        assert len(cloud.get(f"{COMPUTE}/servers?ip6=fd00", version=version).json["servers"]) == count
    for version, status in (("2.7", 409), ("2.6", 200)):
        body = {"addTenantAccess": {"tenant": filled["project"]}}
        assert cloud.post(f"{flavor}/action", body, user="admin", version=version).status_code == status
        cloud.post(f"{flavor}/action", {"removeTenantAccess": body["addTenantAccess"]}, user="admin", version=version)
    for version, links in (("2.34", False), ("2.35", True)):
        cloud.post(f"{COMPUTE}/os-keypairs", {"keypair": {"name": f"z{version[-2:]}"}})
        assert ("keypairs_links" in cloud.get(f"{COMPUTE}/os-keypairs?limit=1", version=version).json) is links
    for version, status in (("2.91", 201), ("2.92", 400)):
        assert cloud.post(f"{COMPUTE}/os-keypairs", {"keypair": {"name": "g"}}, version=version).status_code == status
    for version, status in (("2.1", 200), ("2.2", 201)):
        body = {"keypair": {"name": f"s{version[-1]}"}}
        assert cloud.post(f"{COMPUTE}/os-keypairs", body, version=version).status_code == status
    for version, status in (("2.1", 202), ("2.2", 204)):
        assert cloud.delete(f"{COMPUTE}/os-keypairs/s{version[-1]}", version=version).status_code == status


def test_what_is_advertised_is_what_the_tables_reach():
    """The maximum is a boundary that a test above names."""
    assert show_version(MINIMUM["compute"]) == "2.1"
    assert show_version(MAXIMUM["compute"]) in {row[0] for row in ADDED}
