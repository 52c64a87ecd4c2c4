"""What is planned and told of a guest that moves: document and what is seen in, verbs and report out."""

import contextlib
import copy
import json
import struct
from pathlib import Path

import pytest
from ansible.module_utils.kumo import core, extra_disks, files, image_formats, incoming, moves, outgoing, servers
from ansible.module_utils.kumo.errors import KumoError
from ansible.module_utils.kumo.server_rows import parse_server
from test_servers import NOTHING, OFF, ROW, I, S, build, off

M = "bbbbbbbb-0000-4000-8000-000000000001"
OTHER = "bbbbbbbb-0000-4000-8000-000000000002"
A = "bbbbbbbb-0000-4000-8000-000000000003"
V = "bbbbbbbb-0000-4000-8000-000000000004"
FROM, TO = "192.0.2.1", "192.0.2.2"
LIVE_IN = {"incoming": {"migration": M, "kind": "live", "offer": None}}
COLD_IN = {"incoming": {"migration": M, "kind": "cold", "offer": None}}
OFFER = {"incoming": {"migration": M, "kind": "cold", "offer": {"address": FROM, "port": 49216, "name": M}}}
LIVE_OUT = {"outgoing": {"migration": M, "kind": "live", "address": TO, "abort": False, "force": False}}
ABORT = {"outgoing": {**LIVE_OUT["outgoing"], "abort": True}}
FORCE = {"outgoing": {**LIVE_OUT["outgoing"], "force": True}}
COLD_OUT = {"outgoing": {**LIVE_OUT["outgoing"], "kind": "cold"}, **OFF}
HELD = {"held": True, "power": "off"}
KEEP, DROP, RESTORE = ({"backup": {"id": M, "wanted": one}} for one in ("kept", "dropped", "restored"))
VOLUME = {
    "attachment": A, "volume": V, "device": "vdb", "portal": "192.0.2.3:3260", "iqn": "iqn.2026-11.cloud.kumo:a",
    "username": "u", "password": "p", "size_gb": 1,
}  # fmt: skip
ROOT_VOLUME = {"volumes": [{**VOLUME, "device": "vda", "boot_index": 0}], "image": None}
JOB = {"memory_total": 10, "memory_remaining": 4}


def move(side, kind="live", state="begun", **more):
    made = {"migration": M, "side": side, "kind": kind, "state": state, "error": None, "port": None, "forced": False}
    return {"move": {**made, "attachments": [], **more}}


def task(kind, state="running", **more):
    return {"tasks": {kind: {"state": state, "error": "cut", "bytes": 0, "total": 0, **more}}}


IN, OUT, COLD = move("in"), move("out"), move("out", "cold")
READY = {"defined": False, "state": None}
FAILED = move("out", state="failed", error="cut")
CASES = {
    # name: (row, seen, kept, verbs, state told, pending)
    "comes: room is made": (LIVE_IN, NOTHING, {}, ["prepare"], "preparing", True),
    "comes: its image is on its way": (LIVE_IN, {**NOTHING, "fetching": True}, {}, [], "preparing", True),
    "comes: ready": (LIVE_IN, READY, IN, [], "ready", True),
    "comes: on its way in": (LIVE_IN, {"state": "paused", "reason": "migration"}, IN, [], "ready", True),
    "comes: runs, not yet to stay": (LIVE_IN, {"persistent": False}, IN, [], "ready", True),
    "comes: here": (LIVE_IN, {}, IN, [], "arrived", False),
    "comes: no room": (LIVE_IN, READY, move("in", state="failed", error="full"), [], "failed", False),
    "comes: a password is needed": ({**LIVE_IN, "volumes": [VOLUME]}, READY, IN, ["keep_secrets"], "ready", True),
    "comes: it is there": ({**LIVE_IN, "volumes": [VOLUME]}, {**READY, "secrets": [A]}, IN, [], "ready", True),
    "comes: here, with its password": (
        {**LIVE_IN, "volumes": [VOLUME]}, {"secrets": [A]}, move("in", attachments=[A]), ["drop_secrets"], "arrived",
        False,
    ),
    "comes: something of it is here already": (LIVE_IN, READY, {}, ["refuse"], "preparing", True),
    "comes: of another move": (LIVE_IN, READY, move("in", migration=OTHER), ["refuse"], "preparing", True),
    "is here, at home": ({}, {}, IN, ["settle"], None, False),
    "said to be at home, never came": ({}, READY, IN, ["refuse"], None, False),
    "leaves": (LIVE_OUT, {}, {}, ["send"], "sending", True),
    "leaves: of an older move": (LIVE_OUT, {}, move("out", state="failed", migration=OTHER), ["send"], "sending", True),
    "leaves: came here before": (LIVE_OUT, {}, move("in", migration=OTHER), ["send"], "sending", True),
    "leaves: called off before": (ABORT, {}, {}, ["note_failure"], "sending", True),
    "leaves: does not run": (LIVE_OUT, off("shutdown"), {}, ["note_failure"], "sending", True),
    "leaves: to nowhere": (
        {"outgoing": {**LIVE_OUT["outgoing"], "address": None}}, {}, {}, ["note_failure"], "sending", True
    ),
    "leaves: on its way": (LIVE_OUT, {**task("send"), "job": JOB}, OUT, [], "sending", True),
    "leaves: its task was killed, libvirt goes on": (
        LIVE_OUT, {**task("send", "failed"), "job": JOB}, OUT, [], "sending", True
    ),
    "leaves: at the last step": (LIVE_OUT, {"state": "paused", "reason": "migration", "job": JOB}, OUT, [], "sending",
                                 True),
    "leaves: gone": (LIVE_OUT, READY, OUT, [], "sent", False),
    "leaves: gone, its definition not yet": (LIVE_OUT, off("migrated"), OUT, [], "sent", False),
    "leaves: called off": (ABORT, {**task("send"), "job": JOB}, OUT, ["abort_move"], "sending", True),
    "leaves: forced": (FORCE, {**task("send"), "job": JOB}, OUT, ["force_move"], "sending", True),
    "leaves: was forced": (FORCE, {**task("send"), "job": JOB}, move("out", forced=True), [], "sending", True),
    "leaves: failed": (LIVE_OUT, task("send", "failed"), OUT, ["note_failure"], "sending", True),
    "leaves: failed without a word": (LIVE_OUT, {}, OUT, ["note_failure"], "sending", True),
    "leaves: went off on its way": (LIVE_OUT, off("crashed"), OUT, ["note_failure"], "sending", True),
    "leaves: failure is known": (LIVE_OUT, {}, FAILED, [], "failed", False),
    "leaves: failed, left paused": (LIVE_OUT, {"state": "paused", "reason": "migration"}, FAILED, [], "failed", False),
    "at home again, left paused": ({}, {"state": "paused", "reason": "migration"}, FAILED, ["resume"], None, False),
    "at home again": ({}, {}, FAILED, [], None, False),
    "paused by somebody": ({}, {"state": "paused", "reason": "user"}, FAILED, ["resume"], None, False),
    "no longer sent by the document": ({}, {**task("send"), "job": JOB}, OUT, ["end_task", "abort_move"], None, False),
    "said to be at home, has gone": ({}, READY, OUT, ["refuse"], None, False),
    "leaves cold: is stopped": (COLD_OUT, {}, {}, ["stop"], "stopping", True),
    "leaves cold: off": (COLD_OUT, off("shutdown"), {"off_by": "us"}, ["offer"], "stopping", True),
    "leaves cold: offered": (
        COLD_OUT, {**off("shutdown"), **task("offer")}, {"off_by": "us", **move("out", "cold", port=49216)}, [],
        "offered", False,
    ),
    "leaves cold: offer died": (
        COLD_OUT, {**off("shutdown"), **task("offer", "failed")}, {"off_by": "us", **move("out", "cold", port=49216)},
        ["offer"], "stopping", True,
    ),
    "leaves cold: failed": (
        COLD_OUT, off("shutdown"), {"off_by": "us", **move("out", "cold", "failed")}, [], "failed", False
    ),
    "comes cold: room is made": (COLD_IN, NOTHING, {}, ["prepare"], "preparing", False),
    "comes cold: waits for an offer": (COLD_IN, READY, move("in", "cold"), [], "preparing", False),
    "comes cold: offered": (OFFER, READY, move("in", "cold"), ["receive"], "preparing", True),
    "comes cold: is copied": (OFFER, {**READY, **task("receive")}, move("in", "cold"), [], "receiving", True),
    "comes cold: copy failed": (
        OFFER, {**READY, **task("receive", "failed")}, move("in", "cold"), ["note_failure"], "preparing", True
    ),
    "comes cold: here": (OFFER, READY, move("in", "cold", "received"), [], "received", False),
    "came cold: made and started": (
        {}, READY, move("in", "cold", "received"), ["create", "settle", "start"], None, False
    ),
    "came cold, larger": (
        {"root_gb": 2}, READY, move("in", "cold", "received"), ["create", "grow_disk", "settle", "start"], None, False
    ),
    "held: its offer ends": (HELD, {**off("shutdown"), **task("offer")}, COLD, ["end_task"], None, False),
    "held: off": (HELD, off("shutdown"), COLD, [], None, False),
    "held: nothing is made": (HELD, READY, COLD, [], None, False),
    "held: somebody started it": (HELD, {}, COLD, ["hold"], None, False),
    "held: runs since before its host was thought dead": (HELD, {}, {}, ["hold"], None, False),
    "held: a failed move came back to life": (HELD, {}, FAILED, [], None, False),
    "held: paused by its move": (HELD, {"state": "paused", "reason": "migration"}, FAILED, [], None, False),
    "let go: starts": ({}, off("shutdown"), {"off_by": "us", **COLD}, ["start"], None, False),
    "let go: starts when its offer has ended": (
        {}, {**off("shutdown"), **task("offer")}, {"off_by": "us", **COLD}, ["end_task", "start"], None, False
    ),
    "resize here: is stopped": ({**KEEP, **OFF}, {}, {}, ["stop"], "keeping", True),
    "resize here: is kept": ({**KEEP, **OFF}, off("shutdown"), {"off_by": "us"}, ["keep_backup"], "keeping", True),
    "resize here: is copied": (
        {**KEEP, **OFF}, {**off("shutdown"), **task("keep")}, {"off_by": "us"}, [], "keeping", True
    ),
    "resize here: not larger before it is kept": (
        {**KEEP, **OFF, "root_gb": 2}, {**off("shutdown"), **task("keep")}, {"off_by": "us"}, [], "keeping", True
    ),
    "resize here: copy failed": (
        {**KEEP, **OFF}, {**off("shutdown"), **task("keep", "failed")}, {"off_by": "us"}, ["note_failure"], "keeping",
        True,
    ),
    "resize here: kept": ({**KEEP, **OFF}, {**off("shutdown"), "backup": True}, {"off_by": "us"}, [], "kept", False),
    "resize here: larger": (
        {**KEEP, "root_gb": 2}, {**off("shutdown"), "backup": True}, {"off_by": "us"}, ["grow_disk", "start"], "kept",
        False,
    ),
    "resize here: runs on": (KEEP, {"backup": True}, {}, [], "kept", False),
    "confirmed": (DROP, {"backup": True}, {}, ["drop_backup"], "keeping", True),
    "confirmed and done": (DROP, {}, {}, [], "dropped", False),
    "reverted: is stopped": ({**RESTORE, **OFF}, {"backup": True}, {}, ["stop"], "keeping", True),
    "reverted": (
        {**RESTORE, **OFF}, {**off("shutdown"), "backup": True}, {"off_by": "us"}, ["restore_backup"], "keeping", True
    ),
    "reverted and done": ({**RESTORE, **OFF}, off("shutdown"), {"off_by": "us"}, [], "restored", False),
    "reverted while it was copied": (
        {**RESTORE, **OFF}, {**off("shutdown"), **task("keep")}, {"off_by": "us"}, ["end_task"], "keeping", True
    ),
    "is here, its addresses' watch is over": ({}, task("arrive"), IN, ["end_task", "settle"], None, False),
    "a tombstone ends its tasks": ({"wanted": "absent"}, {**NOTHING, **task("receive")}, {}, ["remove"], None, False),
    "an address that is none": ({"outgoing": {**LIVE_OUT["outgoing"], "address": "host;id"}}, {}, {}, ["refuse"],
                                "sending", True),
    "a move that is none": ({"outgoing": {**LIVE_OUT["outgoing"], "migration": "../x"}}, {}, {}, ["refuse"], "sending",
                            True),
}  # fmt: skip


@pytest.mark.parametrize(("row", "seen", "kept", "verbs", "state", "pending"), CASES.values(), ids=CASES.keys())
def test_plan_and_report(row, seen, kept, verbs, state, pending):
    document, observed = build(row, seen, kept)
    document["settings"]["tunnel_address"] = FROM
    if "defined" in seen and not seen["defined"] and seen is not NOTHING and "files" not in seen:
        observed[S]["owned"] = None
    before = copy.deepcopy((document, observed))
    actions = servers.plan_servers(document, observed)
    assert [action.verb for action in actions] == verbs
    assert (document, observed) == before
    report = servers.report_servers(document, observed)
    told = report["moves"].get(S)
    assert (told["state"] if told else None) == state
    if told:
        assert told["migration"] in (M, "../x")
        assert moves.is_pending(document["servers"][0], told) == pending


def test_what_is_told_of_a_move():
    document, observed = build(LIVE_OUT, {**task("send"), "job": JOB}, OUT)
    assert servers.report_servers(document, observed)["moves"][S]["progress"] == JOB
    document, observed = build(
        COLD_OUT, {**off("shutdown"), **task("offer")}, {"off_by": "us", **move("out", "cold", port=49216)}
    )
    document["settings"]["tunnel_address"] = FROM
    wanted = {"migration": M, "state": "offered", "address": FROM, "port": 49216, "name": M}
    assert servers.report_servers(document, observed)["moves"][S] == wanted
    document, observed = build(OFFER, {**READY, **task("receive", bytes=1, total=4)}, move("in", "cold"))
    progress = servers.report_servers(document, observed)["moves"][S]["progress"]
    assert progress == {"disk_total": 4, "disk_processed": 1, "disk_remaining": 3}
    document, observed = build(LIVE_OUT, {}, FAILED)
    assert servers.report_servers(document, observed)["moves"][S]["error"] == "cut"


def test_a_guest_that_comes_is_told_of_by_the_host_that_has_it():
    """Neither its state nor its port is this host's to tell, until the document says that it is at home here."""
    document, observed = build(LIVE_IN, {}, IN)
    report = servers.report_servers(document, observed)
    assert (report["servers"], report["ports"]) == ({}, {})
    document, observed = build({}, {}, IN)
    assert list(servers.report_servers(document, observed)["servers"]) == [S]


def test_a_guest_without_a_local_disk_has_nothing_to_offer():
    document, observed = build({**ROOT_VOLUME, **COLD_OUT}, {**off("shutdown"), "disk": False}, {"off_by": "us"})
    assert [action.verb for action in servers.plan_servers(document, observed)] == ["offer"]
    document, observed = build(
        {**ROOT_VOLUME, **COLD_OUT}, {**off("shutdown"), "disk": False}, {"off_by": "us", **move("out", "cold")}
    )
    assert servers.plan_servers(document, observed) == []
    assert servers.report_servers(document, observed)["moves"][S] == {"migration": M, "state": "offered"}
    assert "copy-storage" not in " ".join(outgoing.build_send(parse_server({**ROW, **ROOT_VOLUME, **LIVE_OUT})))


def test_commands_name_what_they_are_about():
    """TLS both ways, one address, formats said (security case 6), no secret in any word."""
    server = parse_server({**ROW, **LIVE_OUT, "volumes": [VOLUME]})
    words = outgoing.build_send(server)
    assert {"--live", "--p2p", "--tls", "--persistent", "--undefinesource", "--copy-storage-inc"} <= set(words)
    assert words[words.index("--migrate-disks") + 1] == "vda"
    assert words[words.index("--migrateuri") + 1] == f"tcp://{TO}"
    assert words[-2:] == [f"kumo-{S}", f"qemu+tls://{TO}/system?pkipath={outgoing.CERTIFICATES}"]
    assert VOLUME["password"] not in words
    six = parse_server({**ROW, "outgoing": {**LIVE_OUT["outgoing"], "address": "2001:db8::2"}})
    assert "tcp://[2001:db8::2]" in outgoing.build_send(six)
    words = outgoing.build_offer(FROM, 49216, M, [Path("/d/disk"), Path("/d/disk.eph0")])
    assert f"addr.type=inet,addr.host={FROM},addr.port=49216,tls-creds=tls" in words
    nodes = [json.loads(words[at + 1]) for at, word in enumerate(words) if word == "--blockdev"]
    assert [(one["driver"], one["filename"], one["read-only"]) for one in nodes] == [
        ("file", "/d/disk", True), ("file", "/d/disk.eph0", True),
    ]  # fmt: skip
    assert [word.split("name=")[-1] for word in words if word.startswith("type=nbd")] == [M, f"{M}.disk.eph0"]
    assert any("verify-peer=yes" in word and "endpoint=server" in word for word in words)
    words = incoming.build_source(OFFER["incoming"]["offer"])
    assert words[-1].startswith("driver=raw,file.driver=nbd,")
    assert "verify-peer=yes" in words[1]
    assert f"file.export={M}.disk.swap," in incoming.build_source(OFFER["incoming"]["offer"], "disk.swap")[-1]
    with pytest.raises(KumoError, match="offers no disk"):
        incoming.build_source({"address": None, "port": None, "name": None})


def build_header(
    backing: str,
    driver: str | None = "qcow2",
    incompatible: int = 0,
    data_file: str | None = None,
    size: int = 1 << 30,
) -> bytes:
    """A qcow2 header as docs/interop/qcow2.txt has it."""
    extensions = b""
    for kind, text in ((0xE2792ACA, driver), (0x44415441, data_file)):
        if text is not None:
            data = text.encode()
            extensions += struct.pack(">II", kind, len(data)) + data.ljust((len(data) + 7) // 8 * 8, b"\0")
    extensions += bytes(8)
    offset = 104 + len(extensions)
    head = b"QFI\xfb" + struct.pack(">IQI", 3, offset if backing else 0, len(backing)) + struct.pack(">I", 16)
    head += struct.pack(">QI", size, 0)
    head = head.ljust(72, b"\0") + struct.pack(">Q", incompatible)
    head = head.ljust(100, b"\0") + struct.pack(">I", 104)
    return (head + extensions + backing.encode()).ljust(4096, b"\0")


BASE = f"/state/images/{I}"


def test_a_disk_that_came_is_looked_at_before_any_tool_opens_it(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(build_header(BASE))
    incoming.check_overlay(disk, BASE, "qcow2")
    assert image_formats.parse_overlay(disk.read_bytes())["virtual_size"] == 1 << 30


@pytest.mark.parametrize(
    ("head", "because"),
    [
        (build_header("/etc/shadow"), "lies over '/etc/shadow'"),
        (build_header(BASE, "raw"), "lies over"),
        (build_header(BASE, None), "lies over"),
        (build_header(""), "lies over None"),
        (build_header("json:{}"), "lies over"),
        (build_header(BASE, data_file="/etc/shadow"), "external data file"),
        (build_header(BASE, incompatible=4), "external data file"),
        (build_header(BASE, incompatible=1 << 9), "kind of qcow2"),
        (b"QFI\xfb" + bytes(4092), "kind of qcow2"),
        (bytes(4096), "not a qcow2"),
        (b"", "not a qcow2"),
    ],
)
def test_s06_another_hosts_bytes_lead_nowhere(head, because, tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(head)
    with pytest.raises(KumoError, match=because):
        incoming.check_overlay(disk, BASE, "qcow2")


def test_a_swap_disk_is_made_anew_where_the_guest_comes_to(tmp_path):
    """What was on it means nothing to a guest that was off."""
    row = parse_server({**ROW, **OFFER, **ROOT_VOLUME, "swap_mb": 2})
    document = {"settings": {"state_dir": str(tmp_path)}}
    directory = tmp_path / "servers" / S
    directory.mkdir(parents=True)
    files.apply_json(directory / "state.json", move("in", "cold"))
    incoming.apply_receive(document, row)
    assert files.read_json(directory / "state.json")["move"]["state"] == "received"
    assert sorted(path.name for path in directory.iterdir()) == ["disk.swap", "state.json"]
    assert extra_disks.find_lost(row, directory) == []


EXTRA = {"ephemeral_gb": [1], "swap_mb": 64}


def test_disks_beside_the_root_disk_go_along():
    """Alive by their names; cold each under a name of its own, also where the root disk is a volume."""
    words = outgoing.build_send(parse_server({**ROW, **LIVE_OUT, **EXTRA}))
    assert words[words.index("--migrate-disks") + 1] == "vda,vdb,vdc"
    on_volume = {**ROOT_VOLUME, **EXTRA}
    words = outgoing.build_send(parse_server({**ROW, **LIVE_OUT, **on_volume}))
    assert words[words.index("--migrate-disks") + 1] == "vdb,vdc"
    iso = parse_server({**ROW, **LIVE_OUT, "iso": True})
    assert "vda" in outgoing.build_send(iso), "the CD-ROM is in the other host's cache"
    for begun in ({}, move("out", "cold")):  # to be offered; or its offer has ended
        seen = {**off("shutdown"), "disk": False}
        document, observed = build({**on_volume, **COLD_OUT}, seen, {"off_by": "us", **begun})
        assert [action.verb for action in servers.plan_servers(document, observed)] == ["note_failure"]
        document["settings"]["tunnel_address"] = FROM
        assert [action.verb for action in servers.plan_servers(document, observed)] == ["offer"]


@pytest.mark.parametrize(
    ("name", "head", "because"),
    [
        ("disk.eph0", build_header("", None), None),
        ("disk.swap", build_header("", None, size=64 << 20), None),
        ("disk.swap", build_header("", None), "is one of 1073741824 bytes; it has 67108864"),
        ("disk.eph0", build_header(BASE), "lies over"),
        ("disk.eph0", build_header("/etc/shadow", "raw"), "lies over"),
        ("disk.eph0", build_header("", None, data_file="/etc/shadow"), "external data file"),
        ("disk", build_header("", None), "lies over None"),
        ("disk", build_header(BASE), "lies over"),
    ],
)
def test_s06_other_disks_that_came_lie_over_nothing(name, head, because, tmp_path):
    server, document = parse_server({**ROW, **EXTRA}), {"settings": {"state_dir": str(tmp_path)}}
    part = tmp_path / "part"
    part.write_bytes(head)
    place = tmp_path / "servers" / S
    place.mkdir(parents=True)
    (place / "state.json").write_text(json.dumps({"disk": {"image": I, "driver": "qcow2"}}))
    with contextlib.ExitStack() as stack:
        if because:
            stack.enter_context(pytest.raises(KumoError, match=because))
        incoming.check_disk(document, server, name, part)


def test_a_guest_of_an_iso_has_a_root_disk_over_nothing(tmp_path):
    part = tmp_path / "part"
    part.write_bytes(build_header("", None))
    incoming.check_disk({}, parse_server({**ROW, "iso": True}), "disk", part)


def test_documents_of_before_moves_are_still_valid():
    document = core.parse_document({"version": 1, "servers": [ROW]})
    assert parse_server(document["servers"][0])["outgoing"] is None
