"""changePassword: asked of the guest's agent by its host while the request waits; and that it is kept nowhere."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from compute_cloud import COMPUTE, add_image, boot, read_server
from fake_host import FakeHost
from sqlalchemy import select, text
from test_compute_diagnostics import run

from web.models import Host, Run, Server, now
from web.reconcile.observe import PENDING_S
from web.resources.compute import server_console

SECRET = "Canary-5f0c-secret"
AGENT = {"hw_qemu_guest_agent": "yes"}


@pytest.fixture
def host():
    return FakeHost()


def make(cloud, host, properties=AGENT) -> str:
    server = boot(cloud, add_image(cloud, properties=properties), see=False)
    run(cloud, host)
    return server


def ask(cloud, host, server, user="demo", password=SECRET):
    thread = threading.Timer(0.3, run, (cloud, host))
    thread.start()
    action = {"changePassword": {"adminPass": password}}
    answer = cloud.post(f"{COMPUTE}/servers/{server}/action", action, user=user, version="2.96")
    thread.join()
    return answer


def read_actions(cloud, server) -> list[dict]:
    listed = cloud.get(f"{COMPUTE}/servers/{server}/os-instance-actions", version="2.96").json["instanceActions"]
    return [one for one in listed if one["action"] == "changePassword"]


def dump(cloud) -> str:
    """Every row of every table, as text."""
    with cloud.database.read() as session:
        tables = [row[0] for row in session.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))]
        return "\n".join(str(row) for name in tables for row in session.execute(text(f'SELECT * FROM "{name}"')))


@pytest.mark.parametrize(
    ("properties", "user"),
    [
        (AGENT, "root"),
        ({**AGENT, "os_admin_user": "cirros"}, "cirros"),
        ({**AGENT, "os_type": "windows"}, "Administrator"),
        ({**AGENT, "os_type": "linux"}, "root"),
    ],
)
def test_it_is_set_in_the_guest(cloud, host, properties, user):
    server = make(cloud, host, properties)
    answer = ask(cloud, host, server)
    assert (answer.status_code, answer.text) == (202, "")
    assert host.passwords == {server: (user, SECRET)}
    assert read_server(cloud, server).status == "ACTIVE"
    [action] = read_actions(cloud, server)
    assert action["message"] is None


def test_it_is_kept_nowhere(cloud, host, caplog):
    server = make(cloud, host)
    host.agent_error = f"it refused {SECRET}"
    refused = ask(cloud, host, server)
    host.agent_error = None
    assert ask(cloud, host, server).status_code == 202
    assert host.passwords[server] == ("root", SECRET)
    assert SECRET not in refused.text
    assert "it refused ***" in refused.text
    if cloud.database.is_sqlite:
        assert SECRET not in dump(cloud)
    assert SECRET not in caplog.text
    assert "password" not in host.documents[-1]["servers"][0]
    with cloud.database.read() as session:
        assert all(SECRET not in str(one.results) + str(one.tasks) for one in session.scalars(select(Run)))


def test_a_guest_without_an_agent_is_as_it_was(cloud, host):
    server = make(cloud, host)
    host.agent_error = "the guest's agent does not answer"
    answer = ask(cloud, host, server)
    assert answer.status_code == 409
    assert "the guest's agent does not answer" in answer.json["conflictingRequest"]["message"]
    row = read_server(cloud, server)
    assert (row.status, row.fault_message, row.password_secret) == ("ACTIVE", None, None)
    [action] = read_actions(cloud, server)
    assert action["message"] == "Error: the guest's agent does not answer"


@pytest.mark.parametrize("error", [None, "the guest's agent does not answer"])
def test_a_guest_that_boots_is_waited_for(cloud, host, monkeypatch, error):
    """The request ends before its agent comes; the host is asked again soon, and the action says how it went."""
    server = make(cloud, host)
    monkeypatch.setattr(server_console, "WAIT_S", 1.0)
    host.booting.add(server)
    assert ask(cloud, host, server).status_code == 202
    row = read_server(cloud, server)
    assert (row.status, row.vm_state, row.task_state) == ("PASSWORD", "active", "updating_password")
    [action] = read_actions(cloud, server)
    assert action["message"] is None
    with cloud.database.read() as session:
        due = session.scalar(select(Host)).next_run_at
    assert due <= now() + timedelta(seconds=PENDING_S)
    run(cloud, host)
    assert read_server(cloud, server).status == "PASSWORD", "it still boots"
    host.booting.clear()
    host.agent_error = error
    run(cloud, host)
    row = read_server(cloud, server)
    assert (row.status, row.fault_message, row.password_secret) == ("ACTIVE", None, None)
    assert host.passwords == ({} if error else {server: ("root", SECRET)})
    [action] = read_actions(cloud, server)
    assert action["message"] == (error and f"Error: {error}")


def test_who_may_and_when(cloud, host, monkeypatch):
    server = make(cloud, host)
    monkeypatch.setattr(server_console, "WAIT_S", 0.0)
    path = f"{COMPUTE}/servers/{server}/action"
    action = {"changePassword": {"adminPass": SECRET}}
    for user, status in (("reader", 403), ("other", 404)):
        assert cloud.post(path, action, user=user).status_code == status
    for wrong in (
        {},
        {"adminPass": None},
        {"adminPass": SECRET, "user": "root"},
        {"adminPass": f"{SECRET}\0"},
    ):
        answer = cloud.post(path, {"changePassword": wrong})
        assert answer.status_code == 400
        assert SECRET not in answer.text
    bare = make(cloud, host, {})
    answer = cloud.post(f"{COMPUTE}/servers/{bare}/action", action)
    assert answer.status_code == 409
    assert "QEMU guest agent is not enabled" in answer.text
    assert cloud.post(path, action).status_code == 202, "the host takes its time"
    row = read_server(cloud, server)
    assert (row.status, row.vm_state, row.task_state) == ("PASSWORD", "active", "updating_password")
    assert cloud.post(path, action).status_code == 409, "it is under way"
    run(cloud, host)
    assert read_server(cloud, server).status == "ACTIVE"
    assert host.passwords == {server: ("root", SECRET)}
    cloud.post(path, {"os-stop": None})
    run(cloud, host)
    assert cloud.post(path, action).status_code == 409


def test_a_deletion_ends_it(cloud, host, monkeypatch):
    """Also one that is taken back: the server is not busy with it afterwards, and the password is gone."""
    monkeypatch.setattr(server_console, "WAIT_S", 0.0)
    cloud.settings.compute.reclaim_instance_interval_s = 600
    server = make(cloud, host)
    cloud.post(f"{COMPUTE}/servers/{server}/action", {"changePassword": {"adminPass": SECRET}})
    assert cloud.delete(f"{COMPUTE}/servers/{server}").status_code == 204
    assert read_server(cloud, server).password_secret is None
    run(cloud, host)
    cloud.post(f"{COMPUTE}/servers/{server}/action", {"restore": None})
    run(cloud, host)
    row = read_server(cloud, server)
    assert (row.status, row.task_state, host.passwords) == ("ACTIVE", None, {})
    [action] = read_actions(cloud, server)
    assert action["message"] == "Error: the server was deleted"


def test_what_no_host_came_to_set_is_forgotten(cloud, host, monkeypatch):
    server = make(cloud, host)
    monkeypatch.setattr(server_console, "WAIT_S", 0.0)
    cloud.post(f"{COMPUTE}/servers/{server}/action", {"changePassword": {"adminPass": SECRET}})
    with cloud.database.write.begin() as session:
        row = session.scalar(select(Server).where(Server.id == server))
        row.password_asked_at = now() - timedelta(seconds=cloud.settings.worker.operation_timeout_s + 1)
    host.down = "it does not answer"
    run(cloud, host, 1)
    row = read_server(cloud, server)
    assert (row.status, row.password_secret) == ("ACTIVE", None)
    [action] = read_actions(cloud, server)
    assert "did not get to it in time" in action["message"]
    with cloud.database.read() as session:
        assert session.scalar(select(Host)).failures == 1
