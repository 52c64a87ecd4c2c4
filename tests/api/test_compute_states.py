"""What each state of a server allows, by the real routes; and pause, suspend, rescue and reset as wanted state."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
from compute_cloud import COMPUTE, add_image, boot, read_server, see_host
from move_calls import Hosts
from sqlalchemy import select

from web.desired import build_document, read_rows
from web.desired.document import SCHEMA
from web.image_cleanup import remove_unneeded
from web.models import Host, Image, Server, now
from web.models.host_images import is_needed
from web.reconcile import run
from web.reconcile.status import ALLOWED, ANY, STATUS_OF_VM_STATE, refresh_status
from web.resources.compute import server_console

VERSION = "2.96"
NOWHERE = "00000000-0000-4000-8000-000000000009"
LIVE = {"host": None, "block_migration": "auto"}
VOLUME = {"volumeAttachment": {"volumeId": NOWHERE}}
# action: its request. Each is refused for another reason, or tried, where the state allows it.
REQUESTS = {
    "start": {"os-start": None},
    "stop": {"os-stop": None},
    "reboot_soft": {"reboot": {"type": "SOFT"}},
    "reboot_hard": {"reboot": {"type": "HARD"}},
    "pause": {"pause": None},
    "unpause": {"unpause": None},
    "suspend": {"suspend": None},
    "resume": {"resume": None},
    "rescue": {"rescue": None},
    "unrescue": {"unrescue": None},
    "trigger_crash_dump": {"trigger_crash_dump": None},
    "reset_state": {"os-resetState": {"state": "active"}},
    "restore": {"restore": None},
    "get_diagnostics": ("GET", "/diagnostics", None),
    "get_console_output": {"os-getConsoleOutput": None},
    "get_console": ("POST", "/remote-consoles", {"remote_console": {"protocol": "vnc", "type": "novnc"}}),
    "add_security_group": {"addSecurityGroup": {"name": "nope"}},
    "remove_security_group": {"removeSecurityGroup": {"name": "nope"}},
    "live_migrate": {"os-migrateLive": LIVE},
    "migrate": {"migrate": None},
    "resize": {"resize": {"flavorRef": "nope"}},
    "confirm_resize": {"confirmResize": None},
    "revert_resize": {"revertResize": None},
    "evacuate": {"evacuate": {}},
    "rebuild": {"rebuild": {"imageRef": NOWHERE}},
    "create_image": {"createImage": {"name": "x"}},
    "create_backup": {"createBackup": {"name": "x", "backup_type": "daily", "rotation": 1}},
    "shelve": {"shelve": None},
    "shelve_offload": {"shelveOffload": None},
    "unshelve": {"unshelve": None},
    "attach_volume": ("POST", "/os-volume_attachments", VOLUME),
    "detach_volume": ("DELETE", f"/os-volume_attachments/{NOWHERE}", None),
    "attach_interface": ("POST", "/os-interface", {"interfaceAttachment": {"net_id": NOWHERE}}),
    "detach_interface": ("DELETE", f"/os-interface/{NOWHERE}", None),
    "update": ("PUT", "", {"server": {"name": "x"}}),
    "update_metadata": ("POST", "/metadata", {"metadata": {"a": "b"}}),
    "delete": ("DELETE", "", None),
    "change_password": {"changePassword": {"adminPass": "x"}},  # the last one: this is not only tried
}
AT_ONCE = {"get_console_output", "get_diagnostics", "change_password"}  # outside of one transaction
WITHOUT_ROUTE = {"lock", "unlock", "add_floating_ip"}  # not asked of the table, or not offered
# What rows say, and the state that follows.
BASE = {"power": "on", "observed_state": "running", "observed_reason": "", "move": None, "reboot_wanted": 0,
        "reboot_type": "SOFT", "start_wanted": 0, "rescue_image_id": None, "observed_rescue": None,
        "fault_message": None, "fault_kept": False, "deleted_at": None, "built_at": now(), "rebuild_wanted": 0,
         "image_task": None, "shelve": None, "shelved_at": None, "offloaded_at": None, "soft_deleted_at": None,
         "operation": None, "password_wanted": 0, "observed_password_done": 0,
         "image_properties": {"hw_qemu_guest_agent": "yes"}}  # fmt: skip
SHELVED = {"shelve": "shelved", "shelved_at": now(), "observed_state": "shutoff"}
OFFLOADED = {**SHELVED, "shelve": "offloaded", "offloaded_at": now(), "observed_state": None}
OFF, PAUSED, SUSPENDED = ({"observed_state": state} for state in ("shutoff", "paused", "suspended"))
ROWS = {
    ("active", None): {},
    ("active", "powering-off"): {"power": "off"},
    ("active", "pausing"): {"power": "paused"},
    ("active", "suspending"): {"power": "suspended"},
    ("active", "rebooting"): {"reboot_wanted": 1},
    ("active", "rebooting_hard"): {"reboot_wanted": 1, "reboot_type": "HARD"},
    ("active", "rescuing"): {"rescue_image_id": NOWHERE},
    ("active", "migrating"): {"move": "live"},
    ("active", "resize_migrating"): {"move": "resize"},
    ("active", "rebuilding"): {"rebuild_wanted": 1},
    ("active", "image_uploading"): {"image_task": "image_uploading"},
    ("active", "deleting"): {"deleted_at": now()},
    ("stopped", None): {"power": "off", **OFF},
    ("stopped", "powering-on"): {"start_wanted": 1, **OFF},
    ("stopped", "rescuing"): {"rescue_image_id": NOWHERE, **OFF},
    ("paused", None): {"power": "paused", **PAUSED},
    ("paused", "unpausing"): {"start_wanted": 1, **PAUSED},
    ("paused", "powering-off"): {"power": "off", **PAUSED},
    ("paused", "migrating"): {"power": "paused", "move": "live", **PAUSED},
    ("suspended", None): {"power": "suspended", **SUSPENDED},
    ("suspended", "resuming"): {"start_wanted": 1, **SUSPENDED},
    ("suspended", "deleting"): {"power": "suspended", "deleted_at": now(), **SUSPENDED},
    ("rescued", None): {"rescue_image_id": NOWHERE, "observed_rescue": NOWHERE},
    ("rescued", "unrescuing"): {"observed_rescue": NOWHERE},
    ("resized", None): {"move": "verify"},
    ("active", "shelving"): {"shelve": "shelved"},
    ("active", "shelving_image_uploading"): {"shelve": "offloaded", "image_task": "shelving_image_uploading"},
    ("shelved", None): SHELVED,
    ("shelved", "shelving_offloading"): {**SHELVED, "shelve": "offloaded"},
    ("shelved", "unshelving"): {**SHELVED, "shelve": None},
    ("shelved_offloaded", None): {**OFFLOADED, "host_id": None},
    ("shelved_offloaded", "unshelving"): {**OFFLOADED, "shelve": None},
    ("building", "spawning"): {"built_at": None},
    ("active", "updating_password"): {"password_wanted": 1},
    ("active", "soft-deleting"): {"power": "off", "soft_deleted_at": now()},
    ("soft-delete", None): {"power": "off", "soft_deleted_at": now(), **OFF},
    ("soft-delete", "restoring"): {"operation": "restore", "start_wanted": 1, **OFF},
    ("error", None): {"fault_message": "it broke"},
    ("error", "deleting"): {"fault_message": "it broke", "deleted_at": now()},
}


def act(cloud, server, action, user="admin", version=VERSION, **options):
    return cloud.post(f"{COMPUTE}/servers/{server}/action", action, user=user, version=version, **options)


def show(cloud, server, user="demo") -> tuple[str, str, str | None, int]:
    view = cloud.get(f"{COMPUTE}/servers/{server}", user=user).json["server"]
    return view["status"], *(view[f"OS-EXT-STS:{name}"] for name in ("vm_state", "task_state", "power_state"))


def build_server(cloud, server) -> dict:
    """The server in its host's document."""
    with cloud.database.read() as session:
        host = session.scalar(select(Host))
        document = build_document(read_rows(session, host), cloud.settings, 1)
    jsonschema.validate(document, SCHEMA)
    known = {image["id"] for image in document["images"]}
    [row] = [row for row in document["servers"] if row["id"] == server]
    assert row["image"] in known
    assert not row.get("rescue") or row["rescue"]["image"] in known
    return row


def see(cloud, server, **columns) -> None:
    with cloud.database.write.begin() as session:
        row = session.scalar(select(Server).where(Server.id == server))
        for name, value in columns.items():
            setattr(row, name, value)
        refresh_status(row)


@pytest.fixture
def server(cloud):
    return boot(cloud, add_image(cloud))


def test_every_action_in_every_state(cloud, server, monkeypatch):
    """409 exactly where the table says; whatever else is answered, nothing is done: all is only tried."""
    assert set(REQUESTS) | WITHOUT_ROUTE == set(ALLOWED)
    assert {vm_state for vm_state, _ in ROWS} == set(STATUS_OF_VM_STATE) - {"deleted"}
    monkeypatch.setattr(server_console, "WAIT_S", 0.0)
    monkeypatch.setattr(run, "run_host", lambda *_, **__: run.Outcome(ok=True, result={"actions": [], "diff": []}))
    path = f"{COMPUTE}/servers/{server}"
    host = read_server(cloud, server).host_id
    for (vm_state, task_state), columns in ROWS.items():
        see(cloud, server, **{**BASE, "host_id": host, **columns})
        row = read_server(cloud, server)
        assert (row.vm_state, row.task_state) == (vm_state, task_state)
        for action, request in REQUESTS.items():
            vm_states, task_states = ALLOWED[action]
            allowed = (vm_states == ANY or vm_state in vm_states) and (task_states == ANY or task_state in task_states)
            allowed = allowed and (task_state != "deleting" or action == "delete")
            method, where, body = request if isinstance(request, tuple) else ("POST", "/action", request)
            headers = {} if action in AT_ONCE else {"Kumo-Dry-Run": "true"}
            answer = cloud.call(method, path + where, body, user="admin", version=VERSION, headers=headers)
            what = f"{action} while {vm_state}, {task_state}: {answer.status_code} {answer.text}"
            assert (answer.status_code != 409) == allowed, what
            assert answer.status_code < 500 or action in AT_ONCE, what
            if not allowed:
                assert server in answer.json["conflictingRequest"]["message"]
                assert answer.json["conflictingRequest"]["message"].endswith((vm_state, str(task_state))), what
    see(cloud, server, **{**BASE, "deleted_at": now(), "gone_at": now()})
    for request in REQUESTS.values():
        method, where, body = request if isinstance(request, tuple) else ("POST", "/action", request)
        assert cloud.call(method, path + where, body, user="admin", version=VERSION).status_code == 404


def test_pause_and_suspend(cloud, server):
    """Each verb is wanted power in the document, shows as a task, is recorded, and ends when the host was seen so."""
    actions = []
    for verb, wanted, before, end in (
        ("pause", "paused", ("ACTIVE", "active", "pausing", 1), ("PAUSED", "paused", None, 3)),
        ("unpause", "on", ("PAUSED", "paused", "unpausing", 3), ("ACTIVE", "active", None, 1)),
        ("suspend", "suspended", ("ACTIVE", "active", "suspending", 1), ("SUSPENDED", "suspended", None, 7)),
        ("resume", "on", ("SUSPENDED", "suspended", "resuming", 7), ("ACTIVE", "active", None, 1)),
    ):
        assert act(cloud, server, {verb: None}, user="reader").status_code == 403
        assert act(cloud, server, {verb: None}, user="other").status_code == 404
        assert act(cloud, server, {verb: None}, user="demo").status_code == 202
        assert build_server(cloud, server)["power"] == wanted
        assert show(cloud, server) == before
        assert act(cloud, server, {verb: None}, user="demo").status_code == 409, "it is under way"
        assert read_server(cloud, server).operation == verb
        see_host(cloud)
        assert show(cloud, server) == end
        actions.insert(0, verb)
        listed = cloud.get(f"{COMPUTE}/servers/{server}/os-instance-actions").json["instanceActions"]
        assert [one["action"] for one in listed] == [*actions, "create"]
    act(cloud, server, {"suspend": None}, user="demo")
    see_host(cloud)
    assert act(cloud, server, {"reboot": {"type": "HARD"}}, user="demo").status_code == 202
    row = build_server(cloud, server)
    assert (row["power"], row["reboot"]) == ("on", {"wanted": 1, "type": "HARD"})


@pytest.mark.parametrize("verb", ["pause", "suspend", "rescue"])
def test_locked_servers_refuse(cloud, server, verb):
    back = {"pause": "unpause", "suspend": "resume", "rescue": "unrescue"}[verb]
    for one in (verb, back):
        act(cloud, server, {"lock": None})
        refused = act(cloud, server, {one: None}, user="demo")
        assert refused.status_code == 409
        assert "is locked" in refused.text
        assert act(cloud, server, {"unlock": None}).status_code == 202
        key = {"Idempotency-Key": one}
        assert act(cloud, server, {one: None}, user="demo", headers={"Kumo-Dry-Run": "true"}).status_code == 200
        assert act(cloud, server, {one: None}, user="demo", headers=key).status_code in (200, 202)
        assert act(cloud, server, {one: None}, user="demo", headers=key).status_code in (200, 202), "asked again"
        see_host(cloud)
    row = read_server(cloud, server)
    assert (row.status, row.start_wanted) == ("ACTIVE", 2 if verb == "rescue" else 1)


def test_rescue(cloud, server):
    """It boots from the image named, else from its own, which its host fetches; and back."""
    own = read_server(cloud, server).image_id
    other = add_image(cloud, name="rescue")
    for body, image in ((None, own), ({"rescue_image_ref": other}, other), ({}, own)):
        answer = act(cloud, server, {"rescue": body}, user="demo")
        assert (answer.status_code, len(answer.json["adminPass"])) == (200, 12), answer.text
        assert build_server(cloud, server)["rescue"] == {"image": image}
        assert show(cloud, server) == ("ACTIVE", "active", "rescuing", 1)
        with cloud.database.read() as session:
            assert is_needed(session, session.scalar(select(Host.id)), image)
        see_host(cloud)
        assert show(cloud, server) == ("RESCUE", "rescued", None, 1)
        assert act(cloud, server, {"unrescue": None}, user="demo").status_code == 202
        assert "rescue" not in build_server(cloud, server)
        assert show(cloud, server) == ("RESCUE", "rescued", "unrescuing", 1)
        see_host(cloud)
        assert show(cloud, server) == ("ACTIVE", "active", None, 1)
    act(cloud, server, {"os-stop": None})
    see_host(cloud)
    assert act(cloud, server, {"rescue": None}, user="demo").status_code == 200
    assert build_server(cloud, server)["power"] == "on"
    assert show(cloud, server) == ("SHUTOFF", "stopped", "rescuing", 4)


def test_the_image_of_a_rescue_is_kept(cloud, server):
    """Its bytes stay though it is deleted, for as long as a server is rescued with it."""
    image = add_image(cloud)
    store = Path(cloud.settings.image.store_dir)
    store.mkdir(parents=True, exist_ok=True)
    (store / image).write_bytes(b"bytes")
    act(cloud, server, {"rescue": {"rescue_image_ref": image}})
    with cloud.database.write.begin() as session:
        row = session.get(Image, image)
        row.status, row.deleted_at = "deleted", now()
    see_host(cloud)
    assert remove_unneeded(cloud.database, str(store)) == []
    act(cloud, server, {"unrescue": None})
    assert remove_unneeded(cloud.database, str(store)) == [image]


def test_what_cannot_be_rescued(cloud, server):
    """No image that is none, no root disk on a volume: 400 and the reason, and nothing is changed."""
    foreign = add_image(cloud, visibility="private")
    queued = add_image(cloud, status="queued")
    large = add_image(cloud, virtual_size=900 << 30)
    for body, reason in (
        ({"rescue_image_ref": NOWHERE}, f"Requested rescue image '{NOWHERE}' is not supported"),
        ({"rescue_image_ref": foreign}, "is not supported: Can not find"),
        ({"rescue_image_ref": queued}, "not active; it is queued"),
        ({"rescue_image_ref": large}, "too small"),
        ({"rescue_image_ref": "tiny"}, "rescue_image_ref"),
        ({"image": foreign}, "image"),
    ):
        answer = act(cloud, server, {"rescue": body}, user="demo")
        assert answer.status_code == 400, answer.text
        assert reason in answer.json["badRequest"]["message"]
        assert "MySecretPass" not in answer.text
    assert read_server(cloud, server).rescue_image_id is None
    see(cloud, server, image_id=None)
    answer = act(cloud, server, {"rescue": None}, user="demo")
    assert answer.status_code == 400
    assert "Cannot rescue a volume-backed instance" in answer.text


def test_a_failed_rescue_is_given_up(cloud, server):
    """Out of ERROR lead another rescue, a stop and a hard reboot: the latter two without the rescue."""
    for action, status in ({"os-stop": None}, 202), ({"reboot": {"type": "HARD"}}, 202):
        assert act(cloud, server, {"rescue": None}).status_code == 200
        see(cloud, server, fault_code=500, fault_message="no room")
        assert act(cloud, server, {"rescue": None}).status_code == 200
        see(cloud, server, fault_code=500, fault_message="no room")
        assert act(cloud, server, action).status_code == status
        assert "rescue" not in build_server(cloud, server)
        see_host(cloud)
    assert show(cloud, server)[0] == "ACTIVE"


def test_reset_state(cloud, server):
    """An admin's error stays whatever hosts see, until it is reset or somebody acts; `active` forgets any fault."""
    for body in ({"state": "paused"}, {}, None, {"state": "error", "now": True}):
        assert act(cloud, server, {"os-resetState": body}).status_code == 400
    assert act(cloud, server, {"os-resetState": {"state": "error"}}, user="demo").status_code == 403
    act(cloud, server, {"lock": None})
    act(cloud, server, {"pause": None})
    for back in ({"os-resetState": {"state": "active"}}, {"reboot": {"type": "HARD"}}):
        assert act(cloud, server, {"os-resetState": {"state": "error"}}).status_code == 202
        see_host(cloud)
        assert show(cloud, server)[:3] == ("ERROR", "error", None)
        fault = cloud.get(f"{COMPUTE}/servers/{server}").json["server"]["fault"]
        assert (fault["code"], "administrator" in fault["message"]) == (500, True)
        assert read_server(cloud, server).operation is None
        assert act(cloud, server, back).status_code == 202
        row = read_server(cloud, server)
        assert (row.fault_message, row.fault_kept) == (None, False)
        see_host(cloud)
    assert show(cloud, server) == ("ACTIVE", "active", None, 1)
    assert act(cloud, server, {"os-resetState": {"state": "active"}}).status_code == 202
    assert show(cloud, server) == ("ACTIVE", "active", None, 1)


def test_reset_state_of_what_was_never_built(cloud, server):
    """It has its build before it, with a deadline; where no host was found there is nothing to wait for."""
    see(cloud, server, built_at=None, fault_code=500, fault_message="no room")
    assert act(cloud, server, {"os-resetState": {"state": "active"}}).status_code == 202
    assert show(cloud, server)[0] == "BUILD"
    assert read_server(cloud, server).operation_deadline is not None
    see(cloud, server, built_at=None, fault_code=500, fault_message="no room", host_id=None)
    assert act(cloud, server, {"os-resetState": {"state": "active"}}).status_code == 409
    assert show(cloud, server)[0] == "ERROR"


@pytest.mark.parametrize("action", ["injectNetworkInfo", "resetNetwork"])
def test_its_host_looks_after_its_network_again(cloud, server, action):
    see_host(cloud)
    assert act(cloud, server, {action: None}, user="demo").status_code == 403
    assert act(cloud, server, {action: None}).status_code == 202
    with cloud.database.read() as session:
        assert session.scalar(select(Host.next_run_at)) is None


@pytest.fixture
def hosts(cloud):
    found = Hosts(cloud)
    yield found
    found.worker.pool.shutdown()


def test_what_hosts_see(hosts):
    """By the worker: powers and rescue there and back, an admin's error that stays, a guest that shuts itself down."""
    server = hosts.boot()
    seen = hosts.fakes["a"].state[server]
    for verb, status, state in (
        ("pause", "PAUSED", "paused"), ("unpause", "ACTIVE", "running"), ("suspend", "SUSPENDED", "suspended"),
        ("resume", "ACTIVE", "running"), ("rescue", "RESCUE", "running"),
    ):  # fmt: skip
        hosts.act(server, verb)
        hosts.settle()
        assert (hosts.show(server)["status"], seen["state"]) == (status, state)
        assert hosts.read_actions(server)[-1] == (verb, True, None)
        assert read_server(hosts.cloud, server).operation is None
    # The guest in the rescue shuts itself down: it is rescued all the same, and comes back by an unrescue.
    seen.update(state="shutoff", reason="shutdown")
    hosts.turn("a")
    assert read_server(hosts.cloud, server).power == "off"
    assert show(hosts.cloud, server, "admin") == ("RESCUE", "rescued", None, 4)
    hosts.act(server, "unrescue")
    hosts.settle()
    assert (hosts.show(server)["status"], seen["state"]) == ("ACTIVE", "running")
    # One that was just stopped for a rescue has not shut itself down.
    hosts.act(server, "rescue")
    hosts.fakes["a"].before = lambda document: hosts.fakes["a"].fail.update({server: "it is stopped for its rescue"})
    seen.update(state="shutoff", reason="shutdown")
    hosts.turn("a")
    assert read_server(hosts.cloud, server).power == "on"
    hosts.fakes["a"].before = lambda document: hosts.fakes["a"].fail.clear()
    hosts.turn("a")
    hosts.act(server, "unrescue")
    hosts.settle()
    hosts.act(server, "os-resetState", {"state": "error"})
    hosts.turn("a")
    hosts.turn("a")
    assert hosts.show(server)["status"] == "ERROR"
    hosts.act(server, "os-resetState", {"state": "active"})
    hosts.turn("a")
    assert hosts.show(server)["status"] == "ACTIVE"


def test_a_guest_that_its_host_paused(hosts):
    """After an I/O error it is PAUSED, not by a wish: an unpause makes it go on; by hand it goes on by itself."""
    server = hosts.boot()
    fake = hosts.fakes["a"]
    for reason, task in (("ioerror", None), ("user", "unpausing")):
        apply = fake._apply_server
        fake._apply_server = lambda row, reason=reason: fake.state[row["id"]].update(state="paused", reason=reason)
        hosts.turn("a")
        assert show(hosts.cloud, server, "admin") == ("PAUSED", "paused", task, 3)
        fake._apply_server = apply
        if task is None:
            hosts.act(server, "unpause")
            assert show(hosts.cloud, server, "admin") == ("PAUSED", "paused", "unpausing", 3)
        hosts.turn("a")
        assert show(hosts.cloud, server, "admin") == ("ACTIVE", "active", None, 1)


def test_a_paused_guest_moves_alive_and_stays_paused(hosts):
    server = hosts.boot()
    hosts.act(server, "pause")
    hosts.settle()
    hosts.live(server)
    assert hosts.where(server) == ("a", "MIGRATING", "migrating")
    hosts.settle()
    assert hosts.where(server) == ("b", "PAUSED", None)
    assert hosts.fakes["b"].state[server]["state"] == "paused"
    assert hosts.act(server, "evacuate", {}, expected=409)


def test_no_crash_dump(cloud, server):
    answer = act(cloud, server, {"trigger_crash_dump": None}, user="demo")
    assert answer.status_code == 400
    assert "crash dump" in answer.text
    assert act(cloud, server, {"trigger_crash_dump": None}, version="2.16").status_code == 404
