"""Lists of servers: filters, pages, order; patterns that cannot keep a database busy."""

from __future__ import annotations

import time
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from compute_cloud import COMPUTE, add_image, add_network, boot, see_host
from sqlalchemy import select

from web.models import Server, now


@pytest.fixture
def three(cloud):
    """Three servers, made in this order: web1 (tags a, b; a minute older), web2 (stopped), db[1] (another project)."""
    image, network = add_image(cloud), add_network(cloud)
    ids = {}
    ids["web1"] = boot(cloud, image, name="web1", tags=["a", "b"], networks=[{"uuid": network}])
    ids["web2"] = boot(cloud, image, name="web2", tags=["b"], flavorRef="n1")
    ids["db[1]"] = boot(cloud, image, name="db[1]", user="other")
    cloud.post(f"{COMPUTE}/servers/{ids['web2']}/action", {"os-stop": None})
    see_host(cloud)
    with cloud.database.write.begin() as session:
        old = session.scalar(select(Server).where(Server.id == ids["web1"]))
        old.created_at = old.updated_at = now() - timedelta(minutes=1)
    return {"image": image, **ids}


def names(answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [row["name"] for row in answer.json["servers"]]


FILTERS = [
    ("", ["web2", "web1"]),
    ("name=web", ["web2", "web1"]),
    ("name=WEB1", ["web1"]),
    ("name=^eb", []),
    ("name=^web.$", ["web2", "web1"]),
    ("name=w.*1", ["web1"]),
    ("name=%25", []),
    ("status=ACTIVE", ["web1"]),
    ("status=shutoff", ["web2"]),
    ("status=active&status=shutoff", ["web2", "web1"]),
    ("flavor=n1", ["web2"]),
    ("image=nope", []),
    ("ip=10.0.0", ["web1"]),
    ("ip6=fd00", []),
    ("tags=a,b", ["web1"]),
    ("tags=b", ["web2", "web1"]),
    ("tags-any=a,c", ["web1"]),
    ("not-tags=a,b", ["web2"]),
    ("not-tags-any=a,b", []),
    ("tags=B", []),
    ("vm_state=stopped", ["web2"]),
    ("power_state=4", ["web2"]),
    ("task_state=none", ["web2", "web1"]),
    ("availability_zone=nova", ["web2", "web1"]),
    ("availability_zone=mars", []),
    ("locked=true", []),
    ("key_name=nope", []),
    ("sort_key=display_name&sort_dir=asc", ["web1", "web2"]),
    ("sort_key=progress&sort_dir=asc", ["web2", "web1"]),
    ("sort_key=progress&sort_key=display_name&sort_dir=desc&sort_dir=asc", ["web1", "web2"]),
    ("limit=1", ["web2"]),
    ("limit=0", []),
]


@pytest.mark.parametrize(("query", "found"), FILTERS)
def test_filters(cloud, three, query, found):
    """By default the newest first, only the project's own."""
    assert names(cloud.get(f"{COMPUTE}/servers?{query}", version="2.96")) == found
    assert names(cloud.get(f"{COMPUTE}/servers/detail?{query}", version="2.96")) == found


ADMIN = [
    ("all_tenants=1", ["db[1]", "web2", "web1"]),
    ("all_tenants=0", []),
    ("all_tenants=1&name=db%5C[1]", ["db[1]"]),
    ("all_tenants=1&host=nowhere", []),
    ("all_tenants=1&deleted=true", []),
    ("all_tenants=1&status=DELETED", []),
    ("all_tenants=1&hostname=web", ["web2", "web1"]),
    ("all_tenants=1&image_ref=nope", []),
    ("all_tenants=1&display_description=nope", []),
]


@pytest.mark.parametrize(("query", "found"), ADMIN)
def test_filters_of_an_admin(cloud, three, query, found):
    assert names(cloud.get(f"{COMPUTE}/servers?{query}", user="admin", version="2.96")) == found


def test_filters_by_what_is_made(cloud, three):
    """By uuid, image, project, user; deleted servers show to admins and by changes-since."""
    assert names(cloud.get(f"{COMPUTE}/servers?image={three['image']}")) == ["web2", "web1"]
    found = cloud.get(f"{COMPUTE}/servers/{three['web1']}").json["server"]
    assert names(cloud.get(f"{COMPUTE}/servers?tenant_id={found['tenant_id']}", user="admin")) == []
    for query in (f"all_tenants=&project_id={found['tenant_id']}", f"all_tenants=1&user_id={found['user_id']}"):
        assert names(cloud.get(f"{COMPUTE}/servers?{query}", user="admin")) == ["web2", "web1"]
    assert names(cloud.get(f"{COMPUTE}/servers?all_tenants=1&uuid={three['web1']}", user="admin")) == ["web1"]
    since = (now() - timedelta(seconds=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert names(cloud.get(f"{COMPUTE}/servers?changes-since={since}")) == ["web2"]
    assert names(cloud.get(f"{COMPUTE}/servers?changes-before={since}", version="2.66")) == ["web1"]
    cloud.delete(f"{COMPUTE}/servers/{three['web2']}")
    see_host(cloud)
    assert names(cloud.get(f"{COMPUTE}/servers")) == ["web1"]
    assert names(cloud.get(f"{COMPUTE}/servers?changes-since={since}")) == ["web2"]
    assert names(cloud.get(f"{COMPUTE}/servers?deleted=true&all_tenants=1", user="admin")) == ["web2"]
    assert names(cloud.get(f"{COMPUTE}/servers?deleted=true")) == ["web1"]


WRONG = [
    ("limit=-1", 400, "2.1"),
    ("limit=x", 400, "2.1"),
    ("marker=nope", 400, "2.1"),
    ("sort_key=colour", 400, "2.1"),
    ("sort_key=uuid&sort_dir=up", 400, "2.1"),
    ("sort_key=id", 200, "2.74"),
    ("sort_key=architecture", 200, "2.74"),
    ("sort_key=architecture", 400, "2.75"),
    ("sort_key=id", 400, "2.75"),
    ("sort_key=locked", 200, "2.72"),
    ("changes-since=yesterday", 400, "2.1"),
    ("power_state=on", 400, "2.83"),
    ("locked=perhaps", 400, "2.73"),
    ("all_tenants=1", 403, "2.1"),
    ("status=DELETED", 403, "2.1"),
    ("status=NICE", 400, "2.38"),
    ("colour=red", 400, "2.75"),
]


@pytest.mark.parametrize(("query", "status", "version"), WRONG)
def test_wrong_queries(cloud, query, status, version):
    assert cloud.get(f"{COMPUTE}/servers?{query}", version=version).status_code == status


def test_pages(cloud):
    """Page after page by the links, each server once."""
    image = add_image(cloud)
    made = [boot(cloud, image, see=False) for _ in range(5)]
    seen, url = [], f"{COMPUTE}/servers?limit=2"
    for _ in range(4):
        answer = cloud.get(url).json
        seen += [row["id"] for row in answer["servers"]]
        links = answer.get("servers_links")
        if not links:
            break
        assert links[0]["rel"] == "next"
        url = links[0]["href"].removeprefix(cloud.settings.api.public_url)
    assert sorted(seen) == sorted(made)
    assert len(seen) == 5


PATTERNS = [
    ("web", ["web2", "web1"]), ("^web1$", ["web1"]), ("^WEB", ["web2", "web1"]), ("b1$", ["web1"]),
    ("w.b", ["web2", "web1"]), ("w.*1", ["web1"]), (r"w\.b", []), ("100%_", []), ("", ["web2", "web1"]),
    (r"^.*b[0-9]+$", ["web2", "web1"]),
    ("(web|db)[2-9]", ["web2"]), (r"\d{1,3}", ["web2", "web1"]), ("(?:x|e)b1", ["web1"]),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "found"), PATTERNS)
def test_patterns(cloud, three, pattern, found):
    assert names(cloud.get(f"{COMPUTE}/servers?" + urlencode({"name": pattern}))) == found


NONE = ["(a", "[", "a{300}", "a{1,999}", r"(a)\1", "(?P<x>a)", "(?i)a", r"\pL", r"\Qa", "a**", "*"]


@pytest.mark.parametrize("pattern", NONE)
def test_what_is_no_pattern(cloud, pattern):
    for name in ("name", "ip"):
        answer = cloud.get(f"{COMPUTE}/servers?" + urlencode({name: pattern}))
        assert answer.status_code == 400, answer.json
        assert f"query parameter {name}" in answer.text


def test_a_cruel_pattern_costs_nothing(cloud):
    boot(cloud, add_image(cloud), name="a" * 200)
    started = time.monotonic()
    assert cloud.get(f"{COMPUTE}/servers?name=({'a' * 20}*)*b$").json["servers"] == []
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("path", ["servers?name=%00", "servers?flavor=%00", "servers/%00", "flavors/%00"])
def test_s35_a_nul_is_a_wrong_value_not_a_fault(cloud, path):
    """PostgreSQL refuses it in a text, SQLite finds nothing: neither is the server's fault."""
    assert cloud.get(f"{COMPUTE}/{path}").status_code in (200, 400, 404)
