"""GET /servers/{id}/diagnostics in its two forms: asked of the host, answered while the request waits."""

from __future__ import annotations

import copy
import threading

import pytest
from compute_cloud import COMPUTE, add_image, boot, read_server
from fake_host import FakeHost
from sqlalchemy import select

from web.models import Host, ServerDiagnostics, now
from web.reconcile.loop import Worker
from web.resources.compute import server_console

FIGURES = {
    "hypervisor": "qemu",
    "uptime_s": 61,
    "num_cpus": 1,
    "memory_mb": 128,
    "memory_used_mb": 40,
    "memory": {"actual": 131072, "rss": 90000},
    "cpus": [{"id": 0, "time_ns": 17300000000, "utilisation": 15}],
    "nics": [{"mac": "fa:16:3e:00:00:01", "tap": "tap1", "rx_octets": 1, "rx_packets": 2, "rx_errors": 3, "rx_drop": 4,
              "tx_octets": 5, "tx_packets": 6, "tx_errors": 7, "tx_drop": 8}],
    "disks": [{"device": "vda", "read_requests": 9, "read_bytes": 10, "write_requests": 11, "write_bytes": 12,
               "errors": -1}],
}  # fmt: skip


@pytest.fixture
def host():
    fake = FakeHost()
    fake.figures = copy.deepcopy(FIGURES)
    return fake


@pytest.fixture
def server(cloud, host):
    server = boot(cloud, add_image(cloud), see=False)
    run(cloud, host)
    return server


def run(cloud, host, times: int = 2) -> None:
    with cloud.database.read() as session:
        ids = list(session.scalars(select(Host.id)))
    worker = Worker(cloud.settings, cloud.database, run=host)
    for _ in range(times):
        for host_id in ids:
            worker.run_once(host_id)


def ask(cloud, host, server, version, user="admin"):
    thread = threading.Timer(0.3, run, (cloud, host))
    thread.start()
    answer = cloud.get(f"{COMPUTE}/servers/{server}/diagnostics", user=user, version=version)
    thread.join()
    return answer


def test_until_2_47_it_is_libvirts_names(cloud, host, server):
    answer = ask(cloud, host, server, "2.47")
    assert answer.status_code == 200, answer.text
    assert answer.json == {
        "cpu0_time": 17300000000, "memory": 131072, "memory-actual": 131072, "memory-rss": 90000,
        "vda_read": 10, "vda_read_req": 9, "vda_write": 12, "vda_write_req": 11, "vda_errors": -1,
        "tap1_rx": 1, "tap1_rx_packets": 2, "tap1_rx_errors": 3, "tap1_rx_drop": 4,
        "tap1_tx": 5, "tap1_tx_packets": 6, "tap1_tx_errors": 7, "tap1_tx_drop": 8,
    }  # fmt: skip


def test_from_2_48_on_it_is_one_schema(cloud, host, server):
    answer = ask(cloud, host, server, "2.48")
    assert answer.status_code == 200, answer.text
    assert answer.json == {
        "state": "running", "driver": "libvirt", "hypervisor": "qemu", "hypervisor_os": "linux", "uptime": 61,
        "config_drive": False, "num_cpus": 1, "num_nics": 1, "num_disks": 1,
        "cpu_details": [{"id": 0, "time": 17300000000, "utilisation": 15}],
        "disk_details": [
            {"read_bytes": 10, "read_requests": 9, "write_bytes": 12, "write_requests": 11, "errors_count": -1}
        ],
        "nic_details": [
            {"mac_address": "fa:16:3e:00:00:01", "rx_octets": 1, "rx_packets": 2, "rx_errors": 3, "rx_drop": 4,
             "rx_rate": None, "tx_octets": 5, "tx_packets": 6, "tx_errors": 7, "tx_drop": 8, "tx_rate": None}
        ],
        "memory_details": {"maximum": 128, "used": 40},
    }  # fmt: skip
    host.figures["num_cpus"] = 2
    assert ask(cloud, host, server, "2.96").json["num_cpus"] == 2, "asked anew each time"
    with cloud.database.read() as session:
        assert session.get(ServerDiagnostics, server).number == 2
    assert "diagnostics" not in host.documents[-1]["servers"][0], "answered once"


def test_who_may_and_when(cloud, host, server, monkeypatch):
    path = f"{COMPUTE}/servers/{server}/diagnostics"
    assert cloud.get(path, user="demo", version="2.96").status_code == 403
    assert cloud.get(f"{COMPUTE}/servers/nope/diagnostics", user="admin").status_code == 404
    host.figures = None
    gone = ask(cloud, host, server, "2.96")
    assert gone.status_code == 409
    assert "not running any more" in gone.text
    host.figures = {"error": "no answer"}
    silent = ask(cloud, host, server, "2.96")
    assert silent.status_code == 409
    assert "(no answer)" in silent.text
    monkeypatch.setattr(server_console, "WAIT_S", 0.0)
    assert cloud.get(path, user="admin", version="2.96").status_code == 503
    cloud.post(f"{COMPUTE}/servers/{server}/action", {"os-stop": None})
    run(cloud, host)
    assert read_server(cloud, server).vm_state == "stopped"
    assert cloud.get(path, user="admin", version="2.96").status_code == 409
    cloud.post(f"{COMPUTE}/servers/{server}/action", {"os-start": None})
    run(cloud, host)
    with cloud.database.write.begin() as session:
        for row in session.scalars(select(Host)):
            row.forced_down, row.observed_at = True, now()
    down = cloud.get(path, user="admin", version="2.96")
    assert down.status_code == 409
    assert "its host is down" in down.text
