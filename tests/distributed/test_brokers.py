"""Work is handed out through a broker, RabbitMQ or Redis, and goes on without it."""

from __future__ import annotations

import threading
import time

from distributed_lab import GONE_S, count_messages, end_all, wait_for


def count_all(each_cloud) -> int:
    return sum(count_messages(worker.read_log()) for worker in each_cloud.workers)


def test_what_is_asked_of_any_api_is_done_by_any_worker(each_cloud):
    before = count_all(each_cloud)
    ids: list[str] = []

    def ask(api: int) -> None:
        for _ in range(4):
            ids.append(each_cloud.create_volume(api))

    threads = [threading.Thread(target=ask, args=(api,)) for api in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    each_cloud.wait_for_volumes(ids)
    assert each_cloud.list_files() == sorted(ids)
    assert [each_cloud.count_makings(one) for one in ids] == [1] * 8
    # A worker that has just started may look by itself before it listens; what was told waits for it at the broker.
    wait_for("a message", lambda: count_all(each_cloud) > before, 20)
    each_cloud.remove_volumes(ids)


def test_a_message_wakes_within_a_second(each_cloud):
    """Three workers' own looks would take a second and a half on the average."""
    waits = []
    for _ in range(3):
        wait_for("no run", lambda: not each_cloud.find_running())
        time.sleep(0.4)
        began = time.monotonic()
        one = each_cloud.create_volume()
        wait_for("its run", each_cloud.find_running, 10)
        waits.append(time.monotonic() - began)
        each_cloud.wait_for_volumes([one])
        each_cloud.remove_volumes([one])
    assert sorted(waits)[1] < 1.0, waits


def test_each_zone_has_a_queue_of_its_own(each_cloud):
    assert wait_for("the queues", lambda: {"kumo.east", "kumo.west"} <= each_cloud.broker.list_queues())
    end_all(each_cloud.workers)
    east = each_cloud.build_worker("east", "east", zones="east").start()
    each_cloud.extra.append(east)
    west_id, east_id = each_cloud.create_volume(zone="west"), each_cloud.create_volume(zone="east")
    each_cloud.wait_for_volumes([east_id])
    time.sleep(4)  # longer than the time between looks
    assert each_cloud.read_status(west_id) == "creating"
    assert each_cloud.list_files() == [east_id]
    end_all([east])
    for worker in each_cloud.workers:
        worker.start()
    each_cloud.wait_for_volumes([west_id])
    each_cloud.remove_volumes([west_id, east_id])


def test_the_broker_may_be_gone(each_cloud):
    each_cloud.broker.kill()
    began = time.monotonic()
    ids = [each_cloud.create_volume(api) for api in (0, 1, 0, 1)]
    assert time.monotonic() - began < 4, "requests waited for the broker"
    each_cloud.wait_for_volumes(ids, seconds=GONE_S)
    # A worker that starts meanwhile works, too.
    each_cloud.workers[0].kill()
    each_cloud.workers[0].popen.wait()
    each_cloud.workers[0].start()
    ids.append(each_cloud.create_volume())
    each_cloud.wait_for_volumes(ids, seconds=GONE_S)
    assert [each_cloud.count_makings(one) for one in ids] == [1] * len(ids)
    each_cloud.remove_volumes(ids)
    before = count_all(each_cloud)
    each_cloud.broker.start()

    def is_told() -> bool:
        one = each_cloud.create_volume(int(time.monotonic()) % 2)
        each_cloud.wait_for_volumes([one])
        each_cloud.remove_volumes([one])
        return count_all(each_cloud) > before

    wait_for("messages again", is_told, 90)
