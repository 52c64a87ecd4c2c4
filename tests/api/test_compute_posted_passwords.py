"""os-server-password: what a guest posted to the metadata service, told by its host, read and cleared by its user."""

from __future__ import annotations

import pytest
from compute_cloud import COMPUTE, add_image, boot, read_server
from fake_host import FakeHost
from move_calls import Hosts
from sqlalchemy import select
from test_compute_diagnostics import run
from test_compute_passwords import dump

from web.models import Host, Run

TEXT = "Canary-c2VjcmV0\r\n"


@pytest.fixture
def host():
    return FakeHost()


@pytest.fixture
def server(cloud, host):
    server = boot(cloud, add_image(cloud), see=False)
    run(cloud, host)
    return server


@pytest.fixture
def hosts(cloud):
    found = Hosts(cloud)
    yield found
    found.worker.pool.shutdown()


def show(cloud, server, user="demo") -> str:
    answer = cloud.get(f"{COMPUTE}/servers/{server}/os-server-password", user=user, version="2.96")
    assert answer.status_code == 200, answer.text
    assert list(answer.json) == ["password"]
    return answer.json["password"]


def clear(cloud, server, user="demo") -> int:
    answer = cloud.delete(f"{COMPUTE}/servers/{server}/os-server-password", user=user)
    assert answer.status_code != 204 or answer.text == ""
    return answer.status_code


def is_due(cloud) -> bool:
    with cloud.database.read() as session:
        return session.scalar(select(Host)).next_run_at is None


def test_what_a_guest_posted_is_shown_until_it_is_cleared(cloud, host, server):
    assert show(cloud, server) == ""
    host.posted[server] = {0: TEXT}
    run(cloud, host, 1)
    assert show(cloud, server) == show(cloud, server, "reader") == show(cloud, server, "admin") == TEXT
    assert is_due(cloud), "the document has it now"
    run(cloud, host, 1)
    assert host.documents[-1]["servers"][0]["posted_password"] == {"cleared": 0, "text": TEXT}
    host.posted[server] = {0: "another"}
    run(cloud, host)
    assert show(cloud, server) == TEXT, "the first one counts"
    assert clear(cloud, server) == 204
    assert show(cloud, server) == ""
    assert is_due(cloud)
    run(cloud, host)
    assert host.documents[-1]["servers"][0]["posted_password"] == {"cleared": 1, "text": ""}
    assert show(cloud, server) == "", "what was posted before is not taken again"
    host.posted[server] = {0: TEXT, 1: "newer"}
    run(cloud, host)
    assert show(cloud, server) == "newer"
    assert read_server(cloud, server).status == "ACTIVE"


def test_cleared_while_its_host_looks(cloud, host, server):
    """What a run saw before the clearing is not stored after it."""
    host.posted[server] = {0: TEXT}
    host.before = lambda document: clear(cloud, server)
    run(cloud, host, 1)
    assert show(cloud, server) == ""
    assert read_server(cloud, server).password_cleared == 1


def test_who_may(cloud, host, server):
    host.posted[server] = {0: TEXT}
    run(cloud, host)
    path = f"{COMPUTE}/servers/{server}/os-server-password"
    assert cloud.get(path, user="other").status_code == cloud.delete(path, user="other").status_code == 404
    assert clear(cloud, server, "reader") == 403
    assert show(cloud, server) == TEXT
    cloud.post(f"{COMPUTE}/servers/{server}/action", {"lock": None})
    assert clear(cloud, server) == 204, "a lock does not forbid it"
    assert clear(cloud, server, "admin") == 204, "there is nothing any more"
    assert clear(cloud, "nobody") == 404


def test_it_goes_with_its_server_and_is_told_nobody_else(cloud, host, server, caplog):
    host.posted[server] = {0: TEXT}
    run(cloud, host)
    shown = cloud.get(f"{COMPUTE}/servers/{server}", user="admin", version="2.96").text
    listed = cloud.get(f"{COMPUTE}/servers/detail", user="admin", version="2.96").text
    assert "Canary" not in shown + listed
    assert cloud.delete(f"{COMPUTE}/servers/{server}").status_code == 204
    run(cloud, host)
    assert cloud.get(f"{COMPUTE}/servers/{server}/os-server-password").status_code == 404
    assert read_server(cloud, server).observed_posted_password is None
    if cloud.database.is_sqlite:
        assert "Canary" not in dump(cloud)
    assert "Canary" not in caplog.text
    with cloud.database.read() as session:
        for one in session.scalars(select(Run)):
            assert "Canary" not in str(one.results) + str(one.tasks) + str(one.actions)


def find(hosts, name, server) -> dict | None:
    return next((row for row in hosts.fakes[name].documents[-1]["servers"] if row["id"] == server), None)


def test_it_goes_along_with_a_guest_that_moves(cloud, hosts):
    """Also one that the guest posted just before it left: whichever of the two hosts has it tells it."""
    server = hosts.boot()
    hosts.fakes["a"].posted[server] = {0: TEXT}
    hosts.live(server)
    hosts.settle()
    assert hosts.where(server) == ("b", "ACTIVE", None)
    assert show(cloud, server, "admin") == TEXT
    assert find(hosts, "b", server)["posted_password"] == {"cleared": 0, "text": TEXT}
    assert clear(cloud, server, "admin") == 204
    hosts.act(server, "migrate", {"host": "c"})
    hosts.settle()
    assert hosts.where(server)[:2] == ("c", "VERIFY_RESIZE")
    assert find(hosts, "c", server)["posted_password"] == {"cleared": 1, "text": ""}
    hosts.fakes["c"].posted[server] = {1: "newer"}
    hosts.act(server, "confirmResize")
    hosts.settle()
    assert show(cloud, server, "admin") == "newer"
