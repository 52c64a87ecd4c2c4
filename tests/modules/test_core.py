"""One call: what is refused as a whole, whose failure is whose, and that nothing of the document leaks."""

import json
import os
import subprocess
import sys
import threading
import time
import types

import pytest
from ansible.module_utils import basic
from ansible.module_utils.kumo import core, deadlines, tasks
from ansible.module_utils.kumo.core import Action
from ansible.module_utils.kumo.errors import KumoError
from ansible.module_utils.testing import patch_module_args

A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "bbbbbbbb-0000-4000-8000-000000000002"


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ([], "not a mapping"),
        ({}, "version"),
        ({"version": 2}, "version"),
        ({"version": 1, "generation": "7"}, "generation"),
        ({"version": 1, "fence": -1}, "fence"),
        ({"version": 1, "settings": []}, "settings"),
        ({"version": 1, "settings": {"virt_type": "xen"}}, "virt_type"),
        ({"version": 1, "settings": {"state_dir": "relative"}}, "state_dir"),
        ({"version": 1, "settings": {"state_dir": "/a/../b"}}, "state_dir"),
        ({"version": 1, "settings": {"stop_timeout_s": "60"}}, "stop_timeout_s"),
        ({"version": 1, "servers": {}}, "servers"),
        ({"version": 1, "servers": [{}]}, r"servers\[0\]"),
        ({"version": 1, "ports": [{"id": "../../etc"}]}, r"ports\[0\]"),
        ({"version": 1, "images": [{"id": A}, {"id": A}]}, "twice"),
    ],
)
def test_parse_document_names_what_is_wrong(document, named):
    """Each refusal names its field."""
    with pytest.raises(KumoError, match=named):
        core.parse_document(document)


class Section(types.ModuleType):
    """A section that plans the given verbs; ``fail`` and ``hang`` do what they say."""

    def __init__(self, name, verbs, parallel=False, **told):
        super().__init__(f"ansible.module_utils.kumo.{name}")
        self.SECTION, self.PARALLEL, self.verbs, self.done = name, parallel, verbs, []
        setattr(self, f"read_{name}", lambda document: {"left": [verb for verb in self.verbs if verb not in self.done]})
        setattr(self, f"plan_{name}", lambda document, observed: [self.build(verb) for verb in observed["left"]])
        setattr(self, f"apply_{name}", self.apply)
        setattr(self, f"report_{name}", lambda document, observed: {name: {}, "tasks": [name], **told})

    def build(self, verb):
        requires = (("images", A),) if verb[1] == "needs" else ()
        return Action(self.SECTION, verb[0], verb[1], before="b", after="a", requires=requires)

    def apply(self, document, action):
        if action.verb == "fail":
            raise KumoError("no room")
        if action.verb == "bug":
            raise ValueError("oops")
        if action.verb == "hang":
            threading.Event().wait(30)
        self.done.append((action.object_id, action.verb))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A call over made-up sections."""

    def call(sections, check_mode=False, **document):
        for section in sections:
            monkeypatch.setitem(sys.modules, section.__name__, section)
            monkeypatch.setattr(sys.modules["ansible.module_utils.kumo"], section.SECTION, section, raising=False)
        document = {"version": 1, "settings": {"state_dir": str(tmp_path)}, **document}
        return core.run_sections(document, [section.SECTION for section in sections], check_mode)

    return call


def test_a_failure_is_its_object_s_own(run):
    """The first failure ends that object's actions, names itself in what requires it, and stops nobody else."""
    images = Section("images", [(A, "fail"), (A, "later"), (B, "fetch")])
    servers = Section("servers", [(A, "needs"), (B, "start"), (B, "bug")], parallel=True)
    result = run([servers, images], images=[{"id": A}, {"id": B}], servers=[{"id": A}, {"id": B}])
    assert [(a["object_id"], a["verb"]) for a in result["actions"]] == [(B, "fetch"), (B, "start")]
    assert result["objects"]["images"] == {A: {"ok": False, "error": "no room"}, B: {"ok": True, "error": None}}
    assert result["objects"]["servers"][A]["error"] == f"needs waits for images {A}, which failed: no room"
    assert result["objects"]["servers"][B]["error"] == "bug: ValueError: oops"
    assert result["observed"]["tasks"] == ["images", "servers"]


@pytest.mark.parametrize("waits", [("volumes",), ("servers",), ("volumes", "servers"), ()])
def test_one_section_that_waits_is_enough(run, waits):
    """Whatever a later one says: else a volume that is being copied is looked at again at the next sweep only."""
    sections = [Section(name, [], pending=name in waits) for name in ("volumes", "exports", "servers")]
    assert run(sections)["pending"] == bool(waits)


def test_a_failure_is_known_to_those_of_its_own_section(run):
    """A volume is not made larger where the snapshot that was asked for before has failed."""
    images = Section("images", [(A, "fail"), (B, "needs")])
    errors = run([images], images=[{"id": A}, {"id": B}])["objects"]["images"]
    assert errors[B]["error"] == f"needs waits for images {A}, which failed: no room"
    assert images.done == []


def test_what_a_killed_run_was_writing_is_gone_after_the_next(run, tmp_path):
    """Its own unfinished files at any depth, and nothing of a task that lives."""
    folder, ended = tmp_path / "servers" / A, subprocess.Popen(["true"])
    ended.wait()
    folder.mkdir(parents=True)
    lost, live, other = (
        folder / name for name in (f".state.json.{ended.pid}-abcd_123.new", f".x.{os.getpid()}-abcd_123.new", ".part")
    )
    for path in (lost, live, other):
        path.touch()
    images = Section("images", [(A, "fetch")])
    run([images])
    assert lost.exists(), "no run was cut: nobody looks"
    (tmp_path / "lock").write_text("123\n")
    run([images])
    assert [path.exists() for path in (lost, live, other)] == [False, True, True]
    assert (tmp_path / "lock").read_text() == ""


def test_check_mode_plans_and_touches_nothing(run, tmp_path):
    """Neither a lock nor a generation is left."""
    result = run([Section("images", [(A, "fetch")])], check_mode=True, generation=3)
    assert result["changed"]
    assert result["diff"][0]["after"] == "a"
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_changes_nothing(run):
    """What is done is not planned again."""
    images = Section("images", [(A, "fetch")])
    assert run([images])["changed"]
    again = run([images])
    assert (again["changed"], again["actions"], again["diff"]) == (False, [], [])


@pytest.mark.parametrize("older", [{"generation": 4, "fence": 9}, {"generation": 5, "fence": 8}])
def test_an_older_document_is_refused(run, older):
    """A delayed run, or a worker that lost its lease, applies nothing."""
    images = Section("images", [])
    run([images], generation=5, fence=9)
    images.verbs = [(A, "fetch")]
    with pytest.raises(KumoError, match="stale"):
        run([images], **older)
    assert images.done == []
    run([images], generation=5, fence=9)


def test_one_hung_object_blocks_no_other(run, monkeypatch):
    """After its deadline an object is a failure, and the call ends."""
    monkeypatch.setattr(core, "GROUP_DEADLINE_S", 0.3)
    begun = time.monotonic()
    verbs = [(A, "hang"), (B, "start")]
    result = run([Section("servers", verbs, parallel=True)], servers=[{"id": A}, {"id": B}])
    assert time.monotonic() - begun < 5
    assert "did not finish" in result["objects"]["servers"][A]["error"]
    assert result["objects"]["servers"][B]["ok"]


def test_side_by_side_is_bounded_and_keeps_order():
    """At most ``width`` at a time, values in the order of the works, a hung one's place given on."""
    running, most = [], []

    def work(index):
        running.append(index)
        most.append(len(running))
        time.sleep(0.02)
        running.remove(index)
        return index

    assert deadlines.run_side_by_side([lambda i=i: work(i) for i in range(12)], 3, 5) == list(range(12))
    assert max(most) <= 3
    assert deadlines.run_side_by_side([lambda: time.sleep(9), lambda: 1], 1, 0.2) == [None, 1]


def test_s37_the_document_is_in_no_log_and_no_result(monkeypatch, capsys, tmp_path):
    """A canary in the user data reaches neither syslog nor what the module prints, right or wrong."""
    from ansible.module_utils.kumo import module

    logged = []
    monkeypatch.setattr(basic.AnsibleModule, "log", lambda self, *a, **k: logged.append((a, k)))
    monkeypatch.setattr(core, "run_sections", lambda *a, **k: {"changed": False, "objects": {}})
    document = {"version": 1, "servers": [{"id": A, "metadata": {"user_data": "CANARY"}}]}
    for arguments in ({"document": document}, {"document": document, "sections": ["nonsense"]}):
        with patch_module_args(arguments), pytest.raises(SystemExit):
            module.run_module(core.SECTIONS, choosable=True)
        printed = json.loads(capsys.readouterr().out)
        assert "CANARY" not in json.dumps(printed) + str(logged)
        assert printed["invocation"] == module.HIDDEN


def _document(tmp_path):
    return core.parse_document({"version": 1, "settings": {"state_dir": str(tmp_path)}})


def test_a_task_outlives_its_call_and_leaves_no_zombie(tmp_path):
    """It runs in another session under another parent, tells its progress, and its record goes when it is done."""
    document, seen = _document(tmp_path), tmp_path / "seen"

    def work(progress):
        progress(5, 10)
        seen.write_text(f"{os.getpid()} {os.getppid()} {os.getsid(0)}")
        time.sleep(0.3)

    tasks.apply_start(document, "fetch", A, work)
    record = tasks.read_tasks(document)[f"fetch-{A}"]
    assert record["state"] == "running"
    assert tasks.wait(document, "fetch", A, time.monotonic() + 5) is None
    pid, parent, session = map(int, seen.read_text().split())
    assert (pid, os.getpid(), os.getsid(0)) != (os.getpid(), parent, session)
    assert tasks.read_tasks(document) == {}


def test_a_failed_and_a_killed_task_are_told(tmp_path):
    """The sentence of a failure stays until it is told; a killed process is recognised by pid and start time."""
    document = _document(tmp_path)

    def fails(progress):
        raise KumoError("no such host")

    tasks.apply_start(document, "fetch", A, fails)
    assert tasks.wait(document, "fetch", A, time.monotonic() + 5)["error"] == "no such host"
    tasks.apply_start(document, "fetch", B, lambda progress: time.sleep(30))
    name = f"fetch-{B}"
    os.kill(tasks.read_tasks(document)[name]["pid"], 9)
    assert tasks.wait(document, "fetch", B, time.monotonic() + 5)["state"] == "failed"
    assert tasks.read_tasks(document)[name]["error"] == tasks.INTERRUPTED
    path = tmp_path / "tasks" / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": os.getpid()}))  # the pid was used again
    assert tasks.read_tasks(document)[name]["state"] == "failed"
    tasks.apply_end(document, "fetch", B)
    tasks.apply_forget(document, "fetch", A)
    assert tasks.read_tasks(document) == {}


def test_the_last_word_of_a_task_counts_though_it_came_between_two_looks(tmp_path, monkeypatch):
    """Its record is read while it runs; it writes why it failed and ends; then it is looked for."""
    document = core.parse_document({"version": 1, "settings": {"state_dir": str(tmp_path)}})
    path = tmp_path / "tasks" / f"fetch-{A}.json"
    path.parent.mkdir()
    record = {"id": path.stem, "kind": "fetch", "object_id": A, "state": "running", "pid": 1, "progress": None}
    path.write_text(json.dumps(record))

    def end(_):
        path.write_text(json.dumps({**record, "state": "failed", "error": "no room"}))
        return False

    monkeypatch.setattr(tasks, "_is_alive", end)
    assert tasks.read_tasks(document)[path.stem]["error"] == "no room"
