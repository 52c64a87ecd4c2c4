"""What is planned for a server: what is seen and what is wanted in, verbs out."""

import copy

import pytest
from ansible.module_utils.kumo import console, core, disks, guest_password, guests, servers
from ansible.module_utils.kumo.errors import KumoError
from ansible.module_utils.kumo.server_rows import parse_server

S = "aaaaaaaa-0000-4000-8000-000000000001"
I = "aaaaaaaa-0000-4000-8000-000000000002"  # noqa: E741
P = "aaaaaaaa-0000-4000-8000-000000000003"
N = "aaaaaaaa-0000-4000-8000-000000000004"
NOW = 1000.0
KEPT = {
    "reboot_done": 0,
    "start_done": 0,
    "rebuild_done": 0,
    "off_by": None,
    "stopping_since": None,
    "pressed_at": None,
    "rebooting": None,
    "disk": {"image": I, "driver": "qcow2"},
    "move": None,
    "rescue": None,
    "password": None,
}
ROW = {"id": S, "project_id": "p1", "wanted": "present", "power": "on", "image": I, "ports": [P], "root_gb": 1}
OFF = {"power": "off"}
PASSWORD = {"password": {"wanted": 2, "user": "root", "password": "canary"}}
AGENT = {**PASSWORD, "hardware": {"guest_agent": True}}
REBUILD = {"rebuild": {"wanted": 1}}
SOFT, HARD = ({"reboot": {"wanted": 1, "type": kind}} for kind in ("SOFT", "HARD"))


def build(row=(), seen=(), kept=()):
    """A document with one server, and what is seen of it: by default defined as wanted and running."""
    document = core.parse_document(
        {
            "version": 1,
            "settings": {"state_dir": "/state", "virt_type": "qemu", "stop_timeout_s": 60},
            "networks": [{"id": N}],
            "ports": [{"id": P, "network": N, "mac": "fa:16:3e:00:00:01", "server": S, "security_groups": []}],
            "servers": [{**ROW, **dict(row)}],
        }
    )
    state = {**KEPT, **dict(kept)}
    hardware = dict(row).get("hardware", {})
    server = parse_server({**ROW, "power": "on", "hardware": hardware})
    nics = servers.domain_xml.build_nics(document, server)
    here = {"defined": True, "state": "running", "reason": "", "files": True, "disk": True, "kept": state}
    here |= {"owned": guests.build_owned(document, server, nics, state, "qemu"), "nics": None}
    here |= {"console": None, "fetching": False, "volumes": None, "defined_volumes": []}
    here |= {"tasks": {}, "persistent": True, "job": {}, "secrets": [], "disk_size": 1 << 30, "backup": False}
    here |= {"rescue_image": None, "snapshot": None, "diagnostics": None, "consoles": None, "agent": None}
    here |= {"posted": {}}
    observed = {"_now": NOW, "_virt_type": "qemu", "_taps": [], "_orphans": {"domains": [], "disks": []}, "_host": {}}
    observed["_tasks"] = {}
    return document, {**observed, S: {**here, **dict(seen)}}


def off(reason):
    return {"state": "shutoff", "reason": reason}


def agent(connected, uptime_s):
    return {"agent": {"connected": connected, "uptime_s": uptime_s}}


PAUSED = {"state": "paused", "reason": "user", **agent(False, 3)}
NOTHING = {"defined": False, "state": None, "owned": None, "files": False, "disk": False, "kept": None}

CASES = {
    # name: (row, seen, kept, verbs)
    "as wanted": ({}, {}, {}, []),
    "off as wanted": (OFF, off("shutdown"), {"off_by": "us"}, []),
    "new": ({}, NOTHING, {}, ["create", "start"]),
    "new and off": (OFF, NOTHING, {}, ["create"]),
    "its image is on its way": ({}, {**NOTHING, "fetching": True}, {}, []),
    "definition lost": ({}, {"defined": False, "state": None}, {}, ["create", "start"]),
    "state lost": ({}, {"kept": None}, {}, ["create"]),
    "host rebooted": ({}, off("unknown"), {}, ["start"]),
    "qemu died": ({}, off("crashed"), {}, ["start"]),
    "start failed before": ({}, off("failed"), {}, ["start"]),
    "somebody destroyed it": ({}, off("destroyed"), {}, ["start"]),
    "guest shut itself down": ({}, off("shutdown"), {}, ["record"]),
    "and stays down": ({}, off("shutdown"), {"off_by": "guest"}, []),
    "also when libvirt forgot why": ({}, off("unknown"), {"off_by": "guest"}, []),
    "until a start is asked": ({"start": {"wanted": 1}}, off("shutdown"), {"off_by": "guest"}, ["start"]),
    "a start not yet recorded": ({"start": {"wanted": 1}}, off("shutdown"), {}, ["start"]),
    "the document agrees it is off": (OFF, off("shutdown"), {"off_by": "guest"}, ["record"]),
    "on again after our stop": ({}, off("shutdown"), {"off_by": "us"}, ["start"]),
    "running though it was off": ({}, {}, {"off_by": "guest"}, ["record"]),
    "start counted while running": ({"start": {"wanted": 2}}, {}, {}, ["record"]),
    "stop": (OFF, {}, {}, ["stop"]),
    "stopping": (OFF, {}, {"off_by": "us", "stopping_since": NOW - 3, "pressed_at": NOW - 3}, []),
    "press again": (OFF, {}, {"stopping_since": NOW - 20, "pressed_at": NOW - 6}, ["press_power_button"]),
    "too long": (OFF, {}, {"stopping_since": NOW - 61, "pressed_at": NOW - 1}, ["destroy"]),
    "a password": (PASSWORD, {}, {}, ["set_password"]),
    "a password once": (PASSWORD, {}, {"password": {"seq": 2, "error": None}}, []),
    "another password": (PASSWORD, {}, {"password": {"seq": 1, "error": "no agent"}}, ["set_password"]),
    "a password of a guest that is off": ({**OFF, **PASSWORD}, off("shutdown"), {"off_by": "us"}, ["set_password"]),
    "a password waits for an agent": (AGENT, agent(False, 119), {}, []),
    "no longer": (AGENT, agent(False, 120), {}, ["set_password"]),
    "a password by its agent": (AGENT, agent(True, 3), {}, ["set_password"]),
    "nobody knows since when it runs": (AGENT, agent(False, None), {}, ["set_password"]),
    "a password where no agent will come": (PASSWORD, agent(False, 3), {}, ["set_password"]),
    "a password of a paused guest": ({**AGENT, "power": "paused"}, PAUSED, {}, ["set_password"]),
    "a password waits for the start": (PASSWORD, off("unknown"), {}, ["start"]),
    "clock set back": (OFF, {}, {"stopping_since": NOW + 9, "pressed_at": NOW + 9}, ["destroy"]),
    "without grace": ({**OFF, "stop": {"graceful": False}}, {}, {}, ["destroy"]),
    "paused and to be off": (OFF, {"state": "paused"}, {}, ["destroy"]),
    "stopped at last": (OFF, off("shutdown"), {"off_by": "us", "stopping_since": NOW - 9}, ["record"]),
    "off, then on, still going down": ({}, {}, {"off_by": "us", "stopping_since": NOW - 9}, []),
    "off, then on, went down": ({}, off("shutdown"), {"off_by": "us", "stopping_since": NOW - 9}, ["start"]),
    "off, then on, did not hear": ({}, {}, {"off_by": "us", "stopping_since": NOW - 61}, ["record"]),
    "paused for an error is not ours to wake": ({}, {"state": "paused", "reason": "ioerror"}, {}, []),
    "crashed": ({}, {"state": "crashed"}, {}, ["start"]),
    "hard reboot": (HARD, {}, {}, ["reboot_hard"]),
    "hard reboot done": (HARD, {}, {"reboot_done": 1}, []),
    "hard reboot of one that went off": (HARD, off("shutdown"), {}, ["start"]),
    "soft reboot": (SOFT, {}, {}, ["reboot_soft"]),
    "soft reboot going on": (SOFT, {}, {"rebooting": {"to": 1, "since": NOW - 3}, "pressed_at": NOW - 3}, []),
    "soft reboot went down": (SOFT, off("shutdown"), {"rebooting": {"to": 1, "since": NOW - 3}}, ["start"]),
    "soft reboot too long": (SOFT, {}, {"rebooting": {"to": 1, "since": NOW - 61}}, ["reboot_hard"]),
    "soft turned hard": (HARD, {}, {"rebooting": {"to": 1, "since": NOW - 3}}, ["reboot_hard"]),
    "stop during a soft reboot": ({**SOFT, **OFF}, {}, {"rebooting": {"to": 1, "since": NOW - 3}}, ["stop"]),
    "a stop ends a reboot": ({**SOFT, **OFF}, off("shutdown"), {"off_by": "us"}, ["record"]),
    "rebuild": (REBUILD, {}, {}, ["rebuild", "start"]),
    "rebuild of one that is off": ({**REBUILD, **OFF}, off("shutdown"), {"off_by": "us"}, ["rebuild"]),
    "rebuild of one that shut itself down": (REBUILD, off("shutdown"), {"off_by": "guest"}, ["rebuild", "start"]),
    "rebuild while it stops": ({**REBUILD, **OFF}, {}, {"stopping_since": NOW}, ["rebuild"]),
    "rebuild, its disk lost": (REBUILD, {"disk": False}, {}, ["rebuild", "start"]),
    "rebuild, its definition lost": (REBUILD, {"defined": False, "state": None}, {}, ["rebuild", "start"]),
    "rebuild, its image on its way": (REBUILD, {"fetching": True}, {}, []),
    "rebuilt": (REBUILD, {}, {"rebuild_done": 1}, []),
    "rebuild of what was never made": (REBUILD, NOTHING, {}, ["create", "start"]),
    "rebuild with other memory": ({**REBUILD, "memory_mb": 256}, {}, {}, ["rebuild", "start"]),
    "bad rebuild": ({"rebuild": {"wanted": "x"}}, {}, {}, ["refuse"]),
    "more memory": ({"memory_mb": 256}, {}, {}, ["redefine"]),
    "more memory and a hard reboot": ({"memory_mb": 256, **HARD}, {}, {}, ["redefine", "reboot_hard"]),
    "tombstone": ({"wanted": "absent"}, {}, {}, ["remove"]),
    "tombstone with files only": ({"wanted": "absent"}, {**NOTHING, "files": True}, {}, ["remove"]),
    "tombstone without files": ({"wanted": "absent"}, {"files": False, "disk": False}, {}, ["remove"]),
    "tombstone of what is gone": ({"wanted": "absent"}, NOTHING, {}, []),
    "tombstone with bad fields": ({"wanted": "absent", "vcpus": "?"}, NOTHING, {}, []),
    "bad field": ({"vcpus": 0}, {}, {}, ["refuse"]),
}


@pytest.mark.parametrize(("row", "seen", "kept", "verbs"), CASES.values(), ids=CASES.keys())
def test_plan(row, seen, kept, verbs):
    """The verbs of each case; planning changes nothing it was given."""
    document, observed = build(row, seen, kept)
    before = copy.deepcopy((document, observed))
    actions = servers.plan_servers(document, observed)
    assert [action.verb for action in actions] == verbs
    assert (document, observed) == before
    assert all(action.verb in {*servers.VERBS, "refuse", "remove"} for action in actions)


def test_a_recorded_change_is_the_last():
    """What a record writes leaves nothing to record: no run after run that changes something."""
    for name, (row, seen, kept, verbs) in CASES.items():
        if verbs == ["record"]:
            document, observed = build(row, seen, kept)
            [action] = servers.plan_servers(document, observed)
            document, observed = build(row, seen, {**kept, **action.args["changes"]})
            assert servers.plan_servers(document, observed) == [], name


def test_a_started_guest_is_as_wanted():
    """What starting stores leaves nothing to do, whatever was asked before."""
    for name, (row, _, _, verbs) in CASES.items():
        if verbs and verbs[-1] in ("start", "reboot_hard") and not {"memory_mb", "password"} & set(row):
            stored = guests.build_kept(parse_server({**ROW, **row})) | {"disk": KEPT["disk"]}
            assert servers.plan_servers(*build(row, {}, stored)) == [], name


ATTACHMENT = "61747461-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("row", "seen", "kept", "verbs"),
    [
        pytest.param({}, {}, {}, ["drop_secret"], id="a run was killed while it used it"),
        pytest.param({"wanted": "absent"}, NOTHING, {}, ["drop_secret"], id="and its guest is gone"),
        pytest.param({}, {}, {"move": {"side": "out", "kind": "live", "attachments": [ATTACHMENT]}}, [], id="it comes"),
    ],
)
def test_s14_a_password_that_nobody_uses_is_dropped(row, seen, kept, verbs):
    document, observed = build(row, seen, kept)
    actions = servers.plan_servers(document, {**observed, "_secrets": [ATTACHMENT]})
    assert [action.verb for action in actions] == verbs


def test_unknown_virt_type_is_no_difference():
    """Before anybody has probed, a guest's type is not compared."""
    document, observed = build()
    observed["_virt_type"] = None
    observed[S]["owned"] = {**observed[S]["owned"], "type": "kvm", "cpu": ["host-model", None]}
    assert servers.plan_servers(document, observed) == []
    observed["_virt_type"] = "qemu"
    [action] = servers.plan_servers(document, observed)
    assert action.verb == "redefine"
    assert '"type": "kvm"' in action.before
    assert '"type": "qemu"' in action.after


def test_s17_no_start_without_its_firewall():
    """A start waits for image, network, the port's rules and the host's chains; a stop for nothing."""
    [create, start] = servers.plan_servers(*build(seen=NOTHING))
    for action in (create, start):
        assert {("images", I), ("networks", N), ("firewall", P), ("firewall", "host")} == set(action.requires)
    [stop] = servers.plan_servers(*build(OFF))
    assert stop.requires == ()


def test_live_ports():
    """Ports are plugged, unplugged and their link set on a guest that runs."""
    nic = {"mac": "fa:16:3e:00:00:01", "bridge": "b", "tap": servers.names.build_tap_name(P), "mtu": 1500, "link": "up"}
    other = {**nic, "mac": "fa:16:3e:00:00:02", "tap": servers.names.build_tap_name("bbbb" + I)}
    for live, verbs in (
        ([nic], []),
        ([], ["attach_port"]),
        ([nic, other], ["detach_port"]),
        ([{**nic, "link": "down"}], ["update_port"]),
        ([nic, {**nic, "tap": "vnet7"}], []),
    ):
        assert [action.verb for action in servers.plan_servers(*build(seen={"nics": live}))] == verbs


@pytest.mark.parametrize(
    ("row", "seen", "kept", "pending"),
    [
        ({}, {}, {}, False),
        ({}, {**NOTHING, "fetching": True}, {}, True),
        (OFF, {}, {"stopping_since": NOW}, True),
        (SOFT, {}, {"rebooting": {"to": 1, "since": NOW}}, True),
        ({"wanted": "absent"}, {**NOTHING, "fetching": True}, {}, False),
        (REBUILD, {"fetching": True}, {}, True),
        (REBUILD, {"fetching": True}, {"rebuild_done": 1}, False),
        (AGENT, agent(False, 3), {}, True),
        (AGENT, agent(False, 3), {"password": {"seq": 2, "error": None}}, False),
    ],
)
def test_report_pending(row, seen, kept, pending):
    """Pending where a later run has to look again, and only there."""
    assert servers.report_servers(*build(row, seen, kept))["pending"] is pending


@pytest.mark.parametrize(("state", "connected"), [("connected", True), ("disconnected", False), (None, False)])
def test_whether_the_agent_is_there(monkeypatch, state, connected):
    """As libvirt has it in the guest's live XML, of the agent's own channel alone; read only where that is asked."""
    monkeypatch.setattr(guest_password.diagnostics, "read_uptime", {"kumo-x": 7}.get)
    said = f" state='{state}'" if state else ""
    other = "<channel><target type='virtio' name='com.example' state='connected'/></channel>"
    own = f"<channel><target type='virtio' name='org.qemu.guest_agent.0'{said}/></channel>"
    live = servers.domain_xml.parse_xml(f"<domain><devices>{other}{own}</devices></domain>")
    assert guest_password.read_agent(PASSWORD, "kumo-x", live) == {"connected": connected, "uptime_s": 7}
    assert guest_password.read_agent({}, "kumo-x", live) is None


class Agent:
    """A domain whose agent does not answer; libvirt's library is not on every machine that runs these tests."""

    class libvirtError(Exception):  # noqa: N801
        def get_error_code(self):
            return Agent.VIR_ERR_AGENT_UNRESPONSIVE

    VIR_ERR_AGENT_UNRESPONSIVE = 86

    def name(self):
        return "kumo-x"

    def agentSetResponseTimeout(self, *_):  # noqa: N802
        raise self.libvirtError("it is not connected")


@pytest.mark.parametrize(("uptime_s", "answered"), [(119, False), (120, True), (None, True)])
def test_an_agent_that_does_not_answer(monkeypatch, uptime_s, answered):
    """No answer is kept while the guest may be booting; later the reason is."""
    kept = []
    monkeypatch.setattr(guest_password, "libvirt", Agent)
    monkeypatch.setattr(guest_password.libvirt_connection, "find_domain", lambda server_id: Agent())
    monkeypatch.setattr(guest_password.libvirt_connection, "read_state", lambda domain: ("running", ""))
    monkeypatch.setattr(guest_password.diagnostics, "read_uptime", lambda name: uptime_s)
    monkeypatch.setattr(guest_password.guests, "store", lambda document, server_id, changes: kept.append(changes))
    guest_password.apply_password({}, parse_server({**ROW, **AGENT}))
    assert [one["password"]["seq"] for one in kept] == ([2] if answered else [])
    assert all("is qemu-guest-agent running in it?" in one["password"]["error"] for one in kept)


def test_report():
    """A guest, its ports by their tap, what is not there left out."""
    document, observed = build(
        seen={"console": {"seq": 2, "text": "hi"}, "consoles": {"vnc": 5900, "serial": 40001}},
        kept={"reboot_done": 3, "stopping_since": NOW},
    )
    assert servers.report_servers(document, observed)["ports"] == {P: {"state": "down"}}
    observed["_taps"] = [servers.names.build_tap_name(P)]
    report = servers.report_servers(document, observed)
    assert report["servers"][S] == {
        "state": "running",
        "reason": "",
        "reboot_done": 3,
        "start_done": 0,
        "rebuild_done": 0,
        "stop_pending": True,
        "ports": [P],
        "volumes": [],
        "volume_errors": {},
        "console": {"seq": 2, "text": "hi"},
        "diagnostics": None,
        "password": None,
        "consoles": {"vnc": 5900, "serial": 40001},
        "rescue": None,
        "snapshot": None,
    }
    assert report["ports"] == {P: {"state": "active"}}
    document["servers"][0]["ports"] = []  # it is to go out, and is still in the guest
    report = servers.report_servers(document, observed)
    assert (report["ports"], report["servers"][S]["ports"]) == ({P: {"state": "active"}}, [])
    observed["_taps"] = []
    assert servers.report_servers(document, observed)["ports"] == {P: {"state": "down"}}
    assert servers.report_servers(*build(seen=NOTHING))["servers"] == {}


def test_s07_choose_size():
    """The flavor's disk, the image's own where that is 0, and the refusal."""
    gib = 1 << 30
    server = {"id": S, "image": I, "root_gb": 1}
    assert disks.choose_size(server, 5) == gib
    assert disks.choose_size(server, gib) == gib
    assert disks.choose_size({**server, "root_gb": 0}, 5) == 5
    with pytest.raises(KumoError, match="allows 1 GiB"):
        disks.choose_size(server, gib + 1)


def test_console_tail(tmp_path):
    """Bounded, undecodable bytes replaced, the file that was turned over counted in."""
    path = tmp_path / "console.log"
    assert console.read_tail(path, 5) == ""
    path.write_bytes(b"one\r\ntwo\xff\nthree")
    assert console.read_tail(path, 2) == "two\ufffd\nthree"
    assert console.read_tail(path, 0) == ""
    (tmp_path / "console.log.0").write_bytes(b"zero\n")
    assert console.read_tail(path, None) == "zero\none\ntwo\ufffd\nthree"
    path.write_bytes(b"x" * 200000)
    assert len(console.read_tail(path, None)) == console.LIMIT_BYTES
