"""The volume service alone: `kumo serve --services identity,volume`, a worker and a storage host without a hypervisor.

As an operator sets it up: `kumo` commands only, in processes of their own. The host is this machine, with a tgtd of the
test's own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).resolve().parent / "volumes"))

from storage_lab import qemu_io, running_tgtd  # noqa: E402

PATIENCE_S = 120
CONNECTOR = {"initiator": "iqn.2026-11.example:client", "ip": "127.0.0.1", "host": "client", "multipath": False}


class Service:
    """The API at a port of loopback, and requests to it as the admin."""

    def __init__(self, port: int):
        self.base, self.headers = f"http://127.0.0.1:{port}", {"Content-Type": "application/json"}

    def call(self, method: str, path: str, body=None) -> tuple[int, dict, dict]:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.base + path, data, self.headers, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"{}"), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}"), {}

    def login(self, password: str) -> dict:
        """The token's body; further requests carry the token."""
        user = {"name": "admin", "domain": {"id": "default"}, "password": password}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        status, told, headers = self.call("POST", "/identity/v3/auth/tokens", body)
        assert status == 201, told
        self.headers |= {"X-Auth-Token": headers["X-Subject-Token"], "OpenStack-API-Version": "volume 3.44"}
        return told["token"]


def wait_for(what: str, condition):
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.3)
    raise AssertionError(f"waited {PATIENCE_S} s for {what}")


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def service(state_dir, tmp_path):
    """(the API, where the storage host keeps its files, its portal)."""
    port, password, processes = find_port(), "a-password-of-the-test", []
    host_dir = state_dir / "host"
    host_dir.mkdir(mode=0o711)
    config = tmp_path / "kumo.conf"
    config.write_text(
        f"[kumo]\nstate_dir = {state_dir}\nrun_dir = {tmp_path}\nlog_dir =\n[policy]\nfile =\n"
        f"[database]\nurl = sqlite:///{state_dir}/kumo.db\n[api]\nlisten = 127.0.0.1:{port}\nworkers = 1\n"
        f"[identity]\nkey_dir = {tmp_path}/keys\n"
        f"[worker]\nhost_state_dir = {host_dir}\nssh_dir = {tmp_path}/ssh\nsweep_s = 5\n"
    )
    (tmp_path / "passwords").write_text(f"[passwords]\nadmin = {password}\ndemo = {password}\n")
    kumo = [sys.executable, "-m", "web.cli", "--config", str(config)]
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    with running_tgtd() as (control, portal):
        storage = {"backend": "file", "portal": portal, "control_port": control}
        (tmp_path / "host.yml").write_text(json.dumps({"hypervisor": False, "storage": storage}))
        for words in (
            ["db", "upgrade"],
            ["bootstrap", "--no-hypervisor", "--passwords-file", str(tmp_path / "passwords")],
            ["host", "add", "storage1", "--local", "--role", "storage", "--settings", str(tmp_path / "host.yml")],
        ):
            done = subprocess.run([*kumo, *words], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
            assert done.returncode == 0, done.stderr
        try:
            for words in (["serve", "--services", "identity,volume"], ["worker"]):
                with open(tmp_path / f"{words[0]}.log", "wb") as log:
                    started = subprocess.Popen(
                        [*kumo, *words], env=environment, cwd="/", stdout=log, stderr=log, start_new_session=True
                    )
                processes.append(started)
            made = Service(port)
            wait_for("the API", lambda: is_answering(port))
            assert "volumev3" in {one["type"] for one in made.login(password)["catalog"]}
            yield made, host_dir, portal
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait(timeout=60)


def is_answering(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_volume_is_made_used_and_gone_with_no_compute_at_all(service, tmp_path):
    api, host_dir, portal = service
    assert api.call("GET", "/compute/v2.1/servers")[0] == 404
    assert api.call("GET", "/image/v2/images")[0] == 404

    wait_for("the storage host to be seen", lambda: has_pool(api))
    status, told, _ = api.call("POST", "/volume/v3/volumes", {"volume": {"size": 1, "name": "alone"}})
    assert status == 202, told
    path = f"/volume/v3/volumes/{told['volume']['id']}"
    wait_for("the volume", lambda: api.call("GET", path)[1]["volume"]["status"] == "available")
    volume = api.call("GET", path)[1]["volume"]
    assert volume["os-vol-host-attr:host"].startswith("storage1@file")
    file = host_dir / "volumes" / f"{volume['id']}.volume"
    assert file.stat().st_size == 1 << 30

    status, told, _ = api.call("POST", "/volume/v3/attachments", {"attachment": {"volume_uuid": volume["id"]}})
    assert status == 200, told
    how = wait_for("the export", lambda: connect(api, f"/volume/v3/attachments/{told['attachment']['id']}"))
    assert how["target_portal"] == portal
    export = {"id": how["attachment_id"], "username": how["auth_username"], "password": how["auth_password"]}
    code, text = qemu_io(tmp_path, portal, export, "write -P 6 1M 64k", "read -P 6 1M 64k", "read -P 0 2M 64k")
    assert (code, "failed" in text) == (0, False), text
    assert qemu_io(tmp_path, portal, export, "read 0 4k", password="another")[0] != 0
    assert api.call("DELETE", path)[0] == 400  # it is in use
    assert api.call("DELETE", f"/volume/v3/attachments/{export['id']}")[0] == 200
    wait_for("its target to be closed", lambda: api.call("GET", path)[1]["volume"]["status"] == "available")
    assert qemu_io(tmp_path, portal, export, "read 0 4k")[0] != 0

    assert api.call("DELETE", path)[0] == 202
    wait_for("the volume to be gone", lambda: api.call("GET", path)[0] == 404)
    assert not file.exists()


def connect(api, path: str) -> dict | None:
    """How to reach the volume; None where the host was too slow for one request (on a busy machine)."""
    status, told, _ = api.call("PUT", path, {"attachment": {"connector": CONNECTOR}})
    assert status in (200, 503), told
    return told["attachment"]["connection_info"] if status == 200 else None


def has_pool(api) -> bool:
    pools = api.call("GET", "/volume/v3/scheduler-stats/get_pools?detail=true")[1].get("pools", [])
    return any(pool["capabilities"]["total_capacity_gb"] for pool in pools)
