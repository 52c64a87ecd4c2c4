"""Workers and the database may die, stop or be cut off at any moment: nothing is lost, nothing is done twice."""

from __future__ import annotations

import signal
import time

from distributed_lab import GONE_S, LEASE_S, wait_for


def test_the_database_may_be_gone(cloud):
    ids: list[str] = []
    marks = [worker.mark() for worker in cloud.workers]

    def is_caught() -> bool:
        """Whether a run was on a host when the database went, and waits to be stored."""
        ids.append(cloud.create_volume())
        wait_for("its run", cloud.find_running, 10)
        cloud.database.stop()
        try:
            for api in (0, 1):
                for method, path, body in (
                    ("GET", "/volume/v3/volumes", None),
                    ("POST", "/volume/v3/volumes", {"volume": {"size": 1}}),
                    ("GET", "/identity/v3/projects", None),
                ):
                    status, told, headers = cloud.call(method, path, body, api)
                    assert status == 503, told
                    assert int(headers["Retry-After"]) > 0
                    assert "database" in str(told)
            time.sleep(2)
        finally:
            cloud.database.start()
        cloud.wait_for_volumes(ids, seconds=GONE_S)
        logs = [worker.read_log(mark) for worker, mark in zip(cloud.workers, marks, strict=True)]
        return any("waits to be stored" in log for log in logs)

    wait_for("a run that was under way", is_caught, 90)
    assert all(worker.popen.poll() is None for worker in cloud.workers)
    assert cloud.list_files() == sorted(ids)
    assert [cloud.count_makings(one) for one in ids] == [1] * len(ids)
    cloud.remove_volumes(ids)


def test_workers_start_while_the_database_is_gone(cloud):
    cloud.database.stop()
    try:
        for worker in cloud.workers:
            worker.kill()
            worker.popen.wait()
            worker.start()
        time.sleep(4)
        assert all(worker.popen.poll() is None for worker in cloud.workers)
    finally:
        cloud.database.start()
    one = cloud.create_volume()
    cloud.wait_for_volumes([one], seconds=GONE_S)
    cloud.remove_volumes([one])


def test_a_worker_may_be_killed_at_any_moment(cloud):
    ids = []
    for _ in range(4):
        ids.append(cloud.create_volume())
        _, victim = wait_for("a run", cloud.find_running)[0]
        victim.kill()
        victim.popen.wait()
        # The others know that it is dead, and do not wait for its lease.
        cloud.wait_for_volumes(ids, seconds=GONE_S)
        victim.start()
    assert cloud.list_files() == sorted(ids)
    assert all(cloud.count_makings(one) <= 1 for one in ids)  # none, where its run was not stored
    wait_for("no run", lambda: not cloud.database.read("select 1 from runs where state = 'running'"))
    for state, error in cloud.database.read("select state, error from runs"):
        # The successor may be there before the dead one's call on the host has noticed that its caller is gone.
        assert state in ("succeeded", "lost") or (state == "failed" and "another run holds" in error), error
    cloud.remove_volumes(ids)
    wait_for("the folders of killed runs to be gone", lambda: not list(cloud.folder.glob("workers/runs/run-*")), 10)


def test_a_worker_that_was_stopped_changes_nothing_when_it_goes_on(cloud):
    """SIGSTOP until another one has taken its host, then SIGCONT."""
    ids = [cloud.create_volume()]
    run_id, victim = wait_for("a run", cloud.find_running)[0]
    mark = victim.mark()
    victim.kill(signal.SIGSTOP)
    try:
        cloud.wait_for_volumes(ids, seconds=LEASE_S + GONE_S)
        for worker in cloud.workers:  # the host's row is changed further meanwhile
            assert worker is victim or worker.popen.poll() is None
        cloud.remove_volumes(ids)
        ids = [cloud.create_volume()]
        cloud.wait_for_volumes(ids, seconds=LEASE_S + GONE_S)
        # What a run stored may have left its host due once more: that is none of the stopped worker's doing.
        before = wait_for("hosts at rest", lambda: find_rest(cloud))
    finally:
        victim.kill(signal.SIGCONT)
    wait_for("the run that came too late", lambda: f"run {run_id}" in victim.read_log(mark))
    assert "lost its lease" in victim.read_log(mark)
    assert read_hosts(cloud) == before
    assert cloud.database.read("select state from runs where id = :id", id=run_id)[0][0] == "lost"
    assert cloud.list_files() == ids
    later = cloud.create_volume()
    cloud.wait_for_volumes([later])
    cloud.remove_volumes([*ids, later])


def read_hosts(cloud) -> list:
    return cloud.database.read(
        "select name, fence, generation, observed_generation, lease_owner from hosts order by name"
    )


def find_rest(cloud) -> list | None:
    """The hosts' rows where none is due or worked on."""
    rows = read_hosts(cloud)
    at_rest = all(generation == seen and holder is None for _, _, generation, seen, holder in rows)
    return rows if at_rest else None


def test_nothing_is_left(cloud):
    wait_for("no lease", lambda: not cloud.database.read("select 1 from hosts where lease_owner is not null"))
    assert cloud.list_files() == []
    assert not list(cloud.folder.glob("*/runs/run-*"))
