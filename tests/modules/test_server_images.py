"""Copies of guests' disks for images: what is planned and told of them, what goes to libvirt and over the wire."""

from __future__ import annotations

import http.server
import threading

import pytest
from ansible.module_utils.kumo import server_images, servers, tasks
from ansible.module_utils.kumo.errors import KumoError
from test_servers import HARD, NOTHING, NOW, OFF, S, build, off

A, B = ("bbbbbbbb-0000-4000-8000-00000000000" + digit for digit in "12")
ORDER = {"image": A, "attempt": 1, "url": "http://192.0.2.1/image", "headers": {}}
WANTED = {"snapshot": ORDER}
RUNS = {"state": "running", "progress": 0.25, "error": None}
BROKEN = {"state": "failed", "progress": 0.1, "error": "interrupted"}


def copy(state="copying", way="job", error=None, **changes):
    return {"image": A, "attempt": 1, "way": way, "state": state, "error": error, **changes}


def seen(record=None, task=None, **more):
    return {"snapshot": record, "tasks": {"snapshot": task} if task else {}, **more}


BEGIN, END, FAIL = ["begin_snapshot"], ["end_snapshot"], ["fail_snapshot"]
CASES = {
    # name: (row, seen, kept, verbs, what is told: (state, progress, error), None: nothing)
    "none wanted": ({}, seen(), {}, [], None),
    "asked": (WANTED, seen(), {}, BEGIN, ("waiting", 0.0, None)),
    "asked of one that is off": (
        {**WANTED, **OFF}, seen(**off("shutdown")), {"off_by": "us"}, BEGIN, ("waiting", 0.0, None)
    ),
    "paused": ({**WANTED, "power": "paused"}, seen(state="paused", reason="user"), {}, BEGIN, ("waiting", 0.0, None)),
    "copying": (WANTED, seen(copy(), RUNS), {}, [], ("copying", 0.25, None)),
    "uploading": (WANTED, seen(copy("uploading"), RUNS), {}, [], ("uploading", 0.25, None)),
    "uploaded": (WANTED, seen(copy("uploaded")), {}, [], ("uploaded", 0.0, None)),
    "failed": (WANTED, seen(copy("failed", error="no room")), {}, [], ("failed", 0.0, "no room")),
    "its task was killed": (WANTED, seen(copy(), BROKEN), {}, [], ("failed", 0.0, "interrupted")),
    "killed before its task began": (WANTED, seen(copy()), {}, [], ("failed", 0.0, tasks.INTERRUPTED)),
    "tried again": ({"snapshot": {**ORDER, "attempt": 2}}, seen(copy("failed")), {}, BEGIN, ("waiting", 0.0, None)),
    "another image": ({"snapshot": {**ORDER, "image": B}}, seen(copy("uploaded")), {}, BEGIN, ("waiting", 0.0, None)),
    "wanted no more": ({}, seen(copy(), RUNS), {}, END, None),
    "nor its failure": ({}, seen(copy("failed")), {}, END, None),
    "wanted no more, elsewhere": ({"held": True, **OFF}, seen(copy(), RUNS, **off("destroyed")), {}, END, None),
    "to be off, and asked to shut down": (
        {**WANTED, **OFF}, seen(), {"stopping_since": NOW, "pressed_at": NOW}, [], ("waiting", 0.0, None)
    ),
    "to be off, and not asked yet": ({**WANTED, **OFF}, seen(), {}, ["stop"], ("waiting", 0.0, None)),
    "the guest starts first": (WANTED, seen(**off("crashed")), {}, ["start"], ("waiting", 0.0, None)),
    "and reboots first": ({**WANTED, **HARD}, seen(), {}, ["reboot_hard"], ("waiting", 0.0, None)),
    "a start ends the copy of a disk at rest": (
        WANTED, seen(copy(way="file"), RUNS, **off("crashed")), {}, [*FAIL, "start"], ("copying", 0.25, None)
    ),
    "but not its upload": (
        WANTED, seen(copy("uploading", "file"), RUNS, **off("crashed")), {}, ["start"], ("uploading", 0.25, None)
    ),
    "gone": ({**WANTED, "wanted": "absent"}, seen(copy(), RUNS), {}, ["remove"], None),
    "bad": ({"snapshot": {**ORDER, "image": "../x"}}, seen(), {}, ["refuse"], None),
}  # fmt: skip


@pytest.mark.parametrize(("row", "here", "kept", "verbs", "told"), CASES.values(), ids=CASES.keys())
def test_plan_and_report(row, here, kept, verbs, told):
    document, observed = build(row, here, kept)
    assert [action.verb for action in servers.plan_servers(document, observed)] == verbs
    if verbs == ["refuse"]:
        return
    report = servers.report_servers(document, observed)
    found = report["servers"].get(S, {}).get("snapshot")
    assert (found and (found["state"], found["progress"], found["error"])) == told
    assert not found or (found["image"], found["attempt"]) == (row["snapshot"]["image"], row["snapshot"]["attempt"])
    assert report["pending"] is (told is not None and told[0] in ("waiting", "copying", "uploading"))


def test_not_made_before_the_guest():
    assert [one.verb for one in servers.plan_servers(*build(WANTED, seen(**NOTHING)))] == ["create", "start"]


def test_what_virsh_says_of_a_job():
    """As virsh 9.0 prints it."""
    assert server_images.parse_job("Job type: 0\n\n")["type"] == "0"
    job = server_images.parse_job("Job type: 3\n\noperation: 9\ndisk_total: 10\nerrmsg: no space: left\n")
    assert job == {"type": "3", "operation": "9", "disk_total": "10", "errmsg": "no space: left"}
    assert 'name="sda"' in server_images.build_backup("sda", "/state/x")


@pytest.fixture
def service():
    """An image service that keeps what it gets, and answers ``status``."""
    kept = {"status": 204, "got": []}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self):
            data = self.rfile.read(int(self.headers["Content-Length"]))
            kept["got"].append((self.path, dict(self.headers), data))
            self.send_response(kept["status"])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {**ORDER, "url": f"http://127.0.0.1:{server.server_address[1]}/x?key=secret", "headers": {"X-Key": "k"}}, kept
    server.shutdown()
    server.server_close()


def test_upload(service, tmp_path):
    """All bytes with the order's headers; a refusal is a sentence, without what is secret in the address."""
    order, kept = service
    path, steps = tmp_path / "copy", []
    path.write_bytes(bytes(range(256)) * 10000)
    server_images.send(order, path, lambda *step: steps.append(step))
    (where, headers, data) = kept["got"][0]
    assert (where, headers["X-Key"], headers["Content-Type"]) == ("/x?key=secret", "k", "application/octet-stream")
    assert data == path.read_bytes()
    assert steps[-1] == (len(data), len(data))
    kept["status"] = 409
    with pytest.raises(KumoError, match="/x answered 409") as refusal:
        server_images.send(order, path, lambda *_: None)
    assert "secret" not in str(refusal.value)
    with pytest.raises(KumoError, match="took no image"):
        server_images.send({**order, "url": "http://127.0.0.1:1/x"}, path, lambda *_: None)
    for url in ("file:///etc/shadow", None, "ftp://x/"):
        with pytest.raises(KumoError, match="http or https"):
            server_images.check_order({**order, "url": url})
