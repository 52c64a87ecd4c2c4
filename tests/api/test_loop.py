"""The loop over rows: leases, requests, faults, deadlines, with hosts made of dicts."""

from __future__ import annotations

import os
import sys
import threading
from datetime import timedelta
from pathlib import Path

import jsonschema
import pytest
from sqlalchemy import select

from web.desired import build_document, read_rows
from web.desired.document import SCHEMA
from web.models import ConsoleLog, Host, HostRequest, Image, Run, Server, ServerAction, now, touch
from web.reconcile.lease import build_worker_name, is_dead, take_lease
from web.reconcile.loop import Worker

sys.path.insert(0, str(Path(__file__).parent))
from fake_host import FakeHost


@pytest.fixture
def host():
    return FakeHost()


@pytest.fixture
def worker(cloud, host):
    worker = Worker(cloud.settings, cloud.database, run=host)
    yield worker
    worker.pool.shutdown()


def make_server(cloud, **columns) -> str:
    """A server's row on the only host, as the Compute API writes it; its id."""
    with cloud.database.write.begin() as session:
        row = session.scalar(select(Host))
        image = Image(
            status="active", disk_format="qcow2", size=1, virtual_size=1, os_hash_algo="sha512", os_hash_value="0"
        )
        session.add(image)
        session.flush()
        server = Server(
            project_id="p", user_id="u", reservation_id="r-1", name="s1", hostname="s1", flavor_id="1",
            image_id=image.id, flavor={"name": "m1.tiny", "vcpus": 1, "ram_mb": 64, "disk_gb": 1}, host_id=row.id,
            operation="build", operation_deadline=now() + timedelta(seconds=600), **columns,
        )  # fmt: skip
        session.add(server)
        session.flush()
        session.add(ServerAction(server_id=server.id, action="create", request_id="req-1", user_id="u", project_id="p"))
        touch(session, row.id, "req-1")
        return server.id


def change(cloud, server_id, **columns):
    with cloud.database.write.begin() as session:
        server = session.scalar(select(Server).where(Server.id == server_id))
        for name, value in columns.items():
            setattr(server, name, value)
        touch(session, server.host_id, "req-2")


def read_server(cloud, server_id) -> Server:
    with cloud.database.read() as session:
        return session.scalar(select(Server).where(Server.id == server_id))


def read_host(cloud) -> Host:
    with cloud.database.read() as session:
        return session.scalar(select(Host))


def run(worker):
    return worker.run_once(read_host(worker).id)


def test_a_server_is_built_and_its_request_leads_to_the_run(cloud, worker):
    server_id = make_server(cloud)
    run(worker)
    server = read_server(cloud, server_id)
    assert (server.status, server.task_state, server.operation) == ("ACTIVE", None, None)
    assert server.built_at is not None
    with cloud.database.read() as session:
        request = session.scalar(select(HostRequest).where(HostRequest.request_id == "req-1"))
        assert session.get(Run, request.run_id).state == "succeeded"
        assert session.scalar(select(ServerAction)).finished_at is not None
        row = session.scalar(select(Host))
        assert row.observed_generation == row.generation
        assert row.lease_owner is None
        assert row.next_run_at > now() + timedelta(seconds=30)


def test_the_document_fits_its_schema_and_is_the_same_for_the_same_rows(cloud):
    make_server(cloud)
    with cloud.database.read() as session:
        host = session.scalar(select(Host))
        one = build_document(read_rows(session, host), cloud.settings, 1)
        jsonschema.validate(one, SCHEMA)
        assert one == build_document(read_rows(session, host), cloud.settings, 1)


def test_ten_requests_during_a_run_are_one_further_run(cloud, worker, host):
    server_id = make_server(cloud)

    def meanwhile(document):
        host.before = lambda document: None
        for _ in range(10):
            change(cloud, server_id, power="off")

    host.before = meanwhile
    run(worker)
    assert read_server(cloud, server_id).task_state == "spawning"
    assert read_host(cloud).next_run_at is None
    run(worker)
    assert read_server(cloud, server_id).status == "SHUTOFF"
    assert read_host(cloud).next_run_at is not None
    assert len(host.documents) == 2


@pytest.mark.parametrize("built", [True, False])
def test_delete_is_a_tombstone_until_seen_gone_and_works_twice(cloud, worker, host, built):
    server_id = make_server(cloud)
    if built:
        run(worker)
    change(cloud, server_id, deleted_at=now())
    assert read_server(cloud, server_id).gone_at is None
    run(worker)
    assert read_server(cloud, server_id).status == "DELETED"
    assert host.state == {}
    run(worker)
    assert host.documents[-1]["servers"] == []


def test_one_objects_failure_is_a_fault_after_its_tries_and_heals(cloud, worker, host):
    bad, good = make_server(cloud), make_server(cloud)
    host.fail[bad] = "no space left on the host"
    for _ in range(4):
        assert read_server(cloud, bad).status == "BUILD"
        run(worker)
    assert read_server(cloud, good).status == "ACTIVE"
    server = read_server(cloud, bad)
    assert (server.status, server.fault_message) == ("ERROR", "no space left on the host")
    host.fail.clear()
    run(worker)
    server = read_server(cloud, bad)
    assert (server.status, server.fault_message) == ("ACTIVE", None)


def test_a_failed_object_is_tried_again_soon_with_back_off(cloud, worker, host):
    server_id = make_server(cloud)
    host.fail[server_id] = "busy"
    waits = []
    for _ in range(3):
        run(worker)
        waits.append((read_host(cloud).next_run_at - now()).total_seconds())
    assert waits[0] <= 1 < waits[1] <= 2 < waits[2] <= 4


def test_a_host_out_of_reach_backs_off_and_past_the_deadline_is_a_fault(cloud, worker, host):
    server_id = make_server(cloud)
    host.down = "ssh: connection refused"
    run(worker)
    run(worker)
    row = read_host(cloud)
    assert (row.failures, row.error) == (2, "ssh: connection refused")
    assert read_server(cloud, server_id).status == "BUILD"
    with cloud.database.write.begin() as session:
        server = session.scalar(select(Server))
        server.operation_deadline = now() - timedelta(seconds=1)
    run(worker)
    server = read_server(cloud, server_id)
    assert server.status == "ERROR"
    assert "build took longer" in server.fault_message
    assert "connection refused" in server.fault_message


def test_a_guest_shut_down_from_inside_stays_down_until_started(cloud, worker, host):
    server_id = make_server(cloud)
    run(worker)
    host.state[server_id] |= {"state": "shutoff", "reason": "shutdown"}
    run(worker)
    assert read_server(cloud, server_id).status == "SHUTOFF"
    assert read_server(cloud, server_id).power == "off"
    change(cloud, server_id, power="on", start_wanted=1)
    run(worker)
    assert read_server(cloud, server_id).status == "ACTIVE"


def test_a_start_asked_while_the_shutdown_was_seen_wins(cloud, worker, host):
    server_id = make_server(cloud)
    run(worker)
    change(cloud, server_id, power="off")
    run(worker)

    def meanwhile(document):
        change(cloud, server_id, power="on", start_wanted=1)

    host.before = meanwhile
    run(worker)
    host.before = lambda document: None
    assert read_server(cloud, server_id).power == "on"
    run(worker)
    assert read_server(cloud, server_id).status == "ACTIVE"


def test_console_text_is_stored_once_asked(cloud, worker):
    server_id = make_server(cloud)
    run(worker)
    change(cloud, server_id, console_wanted=1)
    run(worker)
    with cloud.database.read() as session:
        assert session.get(ConsoleLog, server_id).text == "login:"
    assert read_server(cloud, server_id).observed_console_done == 1


def test_two_workers_never_hold_one_host(cloud):
    host_id = read_host(cloud).id
    taken = []

    def take(name):
        with cloud.database.write.begin() as session:
            fence = take_lease(session, host_id, name, 30)
            if fence:
                taken.append(fence)

    threads = [threading.Thread(target=take, args=(f"elsewhere:{number}:1",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_a_lost_lease_stores_nothing(cloud, worker, host):
    server_id = make_server(cloud)

    def lose(document):
        with cloud.database.write.begin() as session:
            row = session.scalar(select(Host))
            row.lease_expires_at = now() - timedelta(seconds=1)
        with cloud.database.write.begin() as session:
            assert take_lease(session, read_host(cloud).id, "elsewhere:1:1", 30)

    host.before = lose
    run(worker)
    assert read_server(cloud, server_id).status == "BUILD"
    row = read_host(cloud)
    assert row.lease_owner == "elsewhere:1:1"
    with cloud.database.read() as session:
        assert session.scalar(select(Run.state)) == "lost"


def test_the_fence_grows_with_every_lease(cloud, worker, host):
    run(worker)
    run(worker)
    assert host.documents[0]["fence"] < host.documents[1]["fence"]


def test_a_dead_workers_lease_is_taken_at_once(cloud, worker):
    dead = build_worker_name().rsplit(":", 2)[0] + ":999999999:1"
    assert is_dead(dead)
    assert not is_dead(build_worker_name())
    assert not is_dead("another-machine:1:1")
    with cloud.database.write.begin() as session:
        assert take_lease(session, session.scalar(select(Host)).id, dead, 1000)
        session.add(Run(host_id=session.scalar(select(Host)).id, generation=1, fence=1, worker=dead))
    worker.recover()
    with cloud.database.read() as session:
        assert session.scalar(select(Run.state)) == "lost"
    assert run(worker).ok


def test_the_step_starts_due_hosts_and_says_how_long_to_wait(cloud, worker, host):
    make_server(cloud)
    worker.step()
    for future in list(worker.active.values()):
        future.result(timeout=10)
    assert worker.step() > 5
    assert len(host.documents) == 1


def test_the_socket_wakes_the_worker(cloud, worker):
    worker.listen()
    path = f"{cloud.settings.kumo.run_dir}/worker.sock"
    assert os.path.exists(path)
    timer = threading.Timer(0.2, worker.wake)
    timer.start()
    started = now()
    worker._wait(10)
    assert (now() - started).total_seconds() < 5
    worker.socket.close()


def test_a_second_worker_on_the_machine_leaves_the_first_its_socket(cloud, worker, host):
    worker.listen()
    second = Worker(cloud.settings, cloud.database, run=host)
    second.listen()
    path = f"{cloud.settings.kumo.run_dir}/worker.sock"
    assert (worker.socket.getsockname(), second.lock) == (path, None)
    threading.Timer(0.2, second.wake).start()
    started = now()
    second._wait(10)
    assert (now() - started).total_seconds() < 5
    for one in (worker, second):
        one.socket.close()
    worker.lock.close()


@pytest.mark.parametrize("holder", ["alive", "dead", "expired", "itself"])
def test_a_host_whose_holder_is_gone_is_taken(cloud, worker, host, holder):
    """Another worker took it for a run (not due again for minutes), and may have died since."""
    owner = {
        "alive": "another-machine:1:1",
        "dead": build_worker_name().rsplit(":", 2)[0] + ":999999999:1",
        "expired": "another-machine:1:1",
        "itself": worker.name,
    }[holder]
    with cloud.database.write.begin() as session:
        row = session.scalar(select(Host))
        row.lease_owner, row.lease_expires_at = owner, now() + timedelta(seconds=-1 if holder == "expired" else 20)
        row.next_run_at = now() + timedelta(seconds=300)
    wait_s = worker.step()
    assert bool(worker.active) == (holder != "alive")
    assert wait_s <= 20.1 if holder == "alive" else True
    for future in list(worker.active.values()):
        future.result(timeout=10)
    assert len(host.documents) == (0 if holder == "alive" else 1)


def test_a_worker_takes_its_zones_alone(cloud, worker, host):
    cloud.settings.worker.zones = ["elsewhere"]
    make_server(cloud)
    assert worker.step() == worker.longest_wait_s
    assert not worker.active
    cloud.settings.worker.zones = ["elsewhere", "nova"]
    worker.step()
    assert worker.active


def test_old_runs_are_pruned(cloud, worker):
    cloud.settings.worker.keep_runs = 3
    for _ in range(8):
        run(worker)
    worker.prune()
    with cloud.database.read() as session:
        assert len(session.scalars(select(Run)).all()) == 3
