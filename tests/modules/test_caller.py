"""A call whose caller goes ends with all that it started, and not before."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible.module_utils.kumo import caller

PACKAGES = Path(caller.__file__).resolve().parents[1]
# A child in a session of its own, its child, and a task as tasks.py makes them (nobody's child).
CALL = """
import os, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from kumo import caller
def note(name):
    open(os.path.join(sys.argv[2], name), "w").write(str(os.getpid()))
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        note("task")
        time.sleep(60)
    os._exit(0)
os.wait()
with caller.watching(1, lambda: note("told")):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            note("grandchild")
            time.sleep(60)
        note("child")
        time.sleep(60)
    note("call")
    time.sleep(float(sys.argv[3]))
print("the answer", flush=True)
time.sleep(0.5)
"""


def start(folder: Path, seconds: float, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CALL, PACKAGES, folder, str(seconds)], **options)


def wait_for(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def notes(tmp_path):
    """{name: process} of what has noted itself; what is left of it is ended."""

    def read() -> dict[str, int]:
        return {path.name: int(path.read_text() or 0) for path in tmp_path.iterdir()}

    yield read
    for pid in read().values():
        if pid and is_alive(pid):
            os.kill(pid, 9)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_caller_that_goes_ends_the_call(tmp_path, notes, kind):
    """Over a pipe as from a local connection, over a socket as from sshd. Tasks go on."""
    if kind == "pipe":
        call = start(tmp_path, 60, stdout=subprocess.PIPE)
        close = call.stdout.close
    else:
        import socket

        ours, theirs = socket.socketpair()
        call = start(tmp_path, 60, stdout=theirs)
        theirs.close()
        close = ours.close
    wait_for(lambda: {"call", "child", "grandchild", "task"} <= set(notes()) and all(notes().values()))
    time.sleep(0.2)
    assert call.poll() is None, "not before"
    close()
    assert call.wait(5) == caller.GONE
    wait_for(lambda: not is_alive(notes()["child"]) and not is_alive(notes()["grandchild"]))
    assert notes()["told"] == notes()["call"]
    assert is_alive(notes()["task"])


def test_a_caller_that_has_its_answer_may_go(tmp_path, notes):
    call = start(tmp_path, 0.3, stdout=subprocess.PIPE, text=True)
    assert call.stdout.readline() == "the answer\n"
    call.stdout.close()
    assert call.wait(5) == 0
    assert "told" not in notes()


def test_a_file_is_no_caller(tmp_path, notes):
    with open(tmp_path.parent / f"{tmp_path.name}.out", "w") as stream:
        call = start(tmp_path, 0.5, stdout=stream)
    assert call.wait(5) == 0
    assert "told" not in notes()
