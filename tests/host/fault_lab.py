"""Runs that are cut or fail at one of their steps, and what tells two readings of a host apart.

The steps of a run are those that an undisturbed one tells of itself. A step is disturbed at its edge, and *inside*: at
each of the places where it touches the machine (starts a program, renames, writes or removes a file, asks tgtd or
libvirt to change something). Those places, too, are told by an undisturbed run, so that none can be forgotten.
For ``test_*_faults.py``.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
RECOVERY_S = 60
WAYS = ("kill", "fail")
# Does the run, and at the step [section, object id, verb, number of its kind, touch] what is asked for; notes that it
# was so. Touch 0 is the step's edge: killed right behind it, or failed before it. From 1 on it is the place inside
# where the run is killed before it touches the machine, or where that goes wrong. The way "tell" disturbs nothing and
# notes the touches of each step.
TEMPLATE = """
import collections, json, os, re, sys, threading
sys.path.insert(0, "MODULES")
import kumo.core
from kumo.errors import KumoError
document, sections, step, way, note = json.load(sys.stdin)
real, seen, lock = kumo.core._apply_group, collections.Counter(), threading.Lock()
mine, here, told, changes = os.getpid(), threading.local(), [], os.O_WRONLY | os.O_RDWR | os.O_CREAT
FILES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}

def write_note(value):
    quiet, here.quiet = getattr(here, "quiet", False), True
    with open(note, "w") as stream:
        json.dump(value, stream)
    here.quiet = quiet

def fault():
    return OSError(5, "injected")

def libvirt_fault():
    error = libvirt.libvirtError("injected")
    error.args, error.err = ("injected",), (1, 0, "injected", 2, None, None, None, 0, 0)
    return error

def touch(what, build):
    at = getattr(here, "at", None)
    if at is None or getattr(here, "quiet", False) or os.getpid() != mine:
        return
    at[1].append(what)
    if at[0] == step[:4] and len(at[1]) == step[4] and way != "tell":
        write_note([*step, what])
        if way == "kill":
            os.kill(mine, 9)
        raise build()

def look(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & changes and not str(args[0]).startswith("/dev/"):
        touch("open " + os.path.basename(str(args[0])), fault)
    elif event in FILES:
        touch(event + " " + os.path.basename(str(args[0])), fault)
    elif event == "subprocess.Popen":
        touch("program " + os.path.basename(str(args[0])), fault)
    elif event == "socket.connect" and isinstance(args[1], str):
        touch("ask " + args[1], fault)
sys.addaudithook(look)
try:
    import libvirt, libvirtmod
except ImportError:
    libvirtmod = None
CHANGES = re.compile(r"vir(Domain|Secret)(DefineXML|SetValue|Undefine|Create|Destroy|Attach|Detach|Update|Suspend|"
                     r"Resume|Shutdown|Reboot|PMWakeup|Block|Backup|Abort|ManagedSave(Remove)?$|Migrate|SetUserPassword)")
def wrap(name, function):
    def inner(*args):
        touch("libvirt " + name, libvirt_fault)
        return function(*args)
    return inner
for name in dir(libvirtmod) if libvirtmod else []:
    if CHANGES.match(name) and "Get" not in name and "Info" not in name:
        setattr(libvirtmod, name, wrap(name, getattr(libvirtmod, name)))

def apply_group(apply, document, actions, failed):
    def apply_one(document, action):
        with lock:
            name = (action.section, action.object_id, action.verb)
            seen[name] += 1
            this = [*name, seen[name]]
        edge = this == step[:4] and step[4] == 0 and way != "tell"
        if edge:
            write_note(step)
        if edge and way == "fail":
            raise KumoError("injected")
        here.at = (this, [])
        told.append(here.at)
        try:
            apply(document, action)
        finally:
            here.at = None
        if edge and way == "kill":
            os.kill(mine, 9)
    return real(apply_one, document, actions, failed)
kumo.core._apply_group = apply_group
result = kumo.core.run_sections(document, tuple(sections))
if way == "tell":
    write_note(told)
print(json.dumps(result))
"""


def build_faulty(modules) -> str:
    """The program that does a run with the package ``kumo`` below a folder, and disturbs it."""
    return TEMPLATE.replace("MODULES", str(modules))


FAULTY = build_faulty(ROOT / "module_utils")


def find_differences(one: dict, other: dict, path: str = "") -> list[str]:
    """Where two readings differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted({*one, *other})
        return [line for name in names for line in find_differences(one.get(name), other.get(name), f"{path}/{name}")]
    return [] if one == other else [f"{path}: {one!r} and {other!r}"]


def build_points(told: list, way: str, inside: tuple) -> list[list]:
    """[section, object id, verb, number, touch] of all that FAULTY told: each step's edge.

    And of the sections ``inside`` the touches, too.
    """
    points = []
    for step, touches in told:
        # To be killed before the first touch is to be killed behind the step before.
        first = 1 if way == "fail" else 2
        points += [[*step, at] for at in (0, *range(first, len(touches) + 1)) if at == 0 or step[0] in inside]
    return [point for index, point in enumerate(points) if point not in points[:index]]


def build_request(document: dict, sections, step: list, way: str, note) -> str:
    """What FAULTY reads: the document, its sections, the point, kill, fail or tell, and where it notes that."""
    return json.dumps([document, list(sections), step, way, str(note)])


def check_hit(done, step: list, way: str) -> dict | None:
    """That a run of FAULTY which reached its point ended so; its result, None where it was killed."""
    if way == "kill":
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
        return None
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    told = result["objects"][step[0]].get(step[1], {"ok": True})  # a target is told of only where something is wrong
    # What goes wrong inside may be what a step can do without; where it is told, it is told as it is.
    assert step[4] or not told["ok"], f"{step}: its failure is not told"
    assert told["ok"] or "injected" in told["error"], told
    return result


class Undisturbed(AssertionError):
    """A run that was to be disturbed did not come to the point."""


def check_each_point(lab, before, after, way: str, inside: tuple = ()) -> int:
    """Disturb the way from ``before`` to ``after`` at each of its points (``build_points``); how many there were.

    ``lab`` has ``settle(state)`` (undisturbed runs until nothing is left to do, within RECOVERY_S), ``read()``, and
    ``call(state, step, way)``: one run of FAULTY, and what it noted (None: the point was not reached).
    """
    lab.settle(before)
    began = lab.read()
    told = tell_steps(lab, after)
    wanted = lab.read()
    points = build_points(told, way, inside)
    assert points
    for point in points:
        lab.settle(before)
        check_same(lab.read(), began, f"not back where it was before {point}")
        noted = disturb(lab, after, point, way)
        lab.settle(after)
        check_same(lab.read(), wanted, f"not as undisturbed after {way} at {point}, {noted}")
    return len(points)


def tell_steps(lab, state) -> list:
    """[[section, object id, verb, number], [touches]] of all undisturbed runs that lead to a state."""
    told, deadline = [], time.monotonic() + RECOVERY_S
    while True:
        done, noted = lab.call(state, [], "tell")
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        told += noted
        if not noted and not result["pending"]:
            return told
        assert time.monotonic() < deadline, noted
        time.sleep(0.05)


def check_same(one: dict, other: dict, sentence: str) -> None:
    """Two readings are the same; else the sentence and where they differ."""
    differences = find_differences(one, other)
    assert not differences, "\n".join([sentence, *differences])


def disturb(lab, state, step: list, way: str) -> str:
    """Runs until one comes to the point, and ends as it was asked to; what the run was about to do."""
    deadline = time.monotonic() + RECOVERY_S
    while True:
        done, noted = lab.call(state, step, way)
        if noted:
            assert noted[:5] == step
            check_hit(done, step, way)
            return noted[-1]
        result = json.loads(done.stdout) if done.returncode == 0 else {}
        more = result.get("actions") or result.get("pending")
        if not more or time.monotonic() > deadline:
            raise Undisturbed(f"{step} was not reached: {done.stderr[-500:]}")
        time.sleep(0.05)
