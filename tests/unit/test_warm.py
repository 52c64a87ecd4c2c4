"""The warm process with something else than Ansible to run: each request gets a process of its own, and its own end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from web.reconcile import warm, warm_client

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "web" / "reconcile" / "warm_client.py"
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/", "LANG": "C.UTF-8", "ANSIBLE_CONFIG": "a.cfg"}
# The words of a request are Python here.
SERVER = "import sys; from web.reconcile.warm import Warm; Warm(sys.argv[1], lambda words: exec(words[1], {})).serve()"
WITH_CHILD = """
import os, pathlib, time
if os.fork() == 0:
    os.setsid()
    pathlib.Path(os.environ["NOTE"]).write_text(f"{os.getppid()} {os.getpid()}")
time.sleep(60)
"""


class Server:
    """The process, and requests to it."""

    def __init__(self, folder: Path):
        self.path, self.note = str(folder / "playbook.sock"), folder / "note"
        self.process = subprocess.Popen([sys.executable, "-c", SERVER, self.path], env=ENVIRONMENT, cwd=ROOT)
        wait_for(lambda: os.path.exists(self.path))

    def start(self, words: str, executable: str = "/bin/echo", **options) -> subprocess.Popen:
        environment = {**ENVIRONMENT, "NOTE": str(self.note), **options.pop("environment", {})}
        command = [sys.executable, "-I", "-S", str(CLIENT), self.path, executable, words]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )

    def ask(self, words: str, **options) -> tuple[int, str]:
        """(status, what was printed) of a request."""
        asking = self.start(words, **options)
        printed = asking.communicate(timeout=20)[0]
        return asking.returncode, printed

    def start_with_child(self) -> tuple[subprocess.Popen, list[int]]:
        """A run that has a child in another session, and the ids of both."""
        asking = self.start(WITH_CHILD)
        wait_for(lambda: self.note.exists() and " " in self.note.read_text())
        return asking, [int(word) for word in self.note.read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    yield made
    made.process.kill()
    made.process.wait()


@pytest.mark.parametrize(
    ("words", "status", "printed"),
    [
        ("print('done')", 0, "done\n"),
        ("raise SystemExit(4)", 4, ""),
        ("raise SystemExit('no')", 1, ""),
        ("import os; os.kill(os.getpid(), 9)", 128 + 9, ""),
        ("import os; print(os.environ['NOTE'][-4:], os.getcwd())", 0, "note /tmp\n"),
        ("import sys; print(sys.argv[0], sys.stdin.read())", 0, "/bin/echo \n"),
        ("import os; print(os.getsid(0) == os.getpid())", 0, "True\n"),
        ("import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:4])", 0, "[0, 1, 2, 3]\n"),
    ],
)
def test_what_is_asked_for_is_run(server, words, status, printed):
    assert server.ask(words, cwd="/tmp", stdin=subprocess.DEVNULL) == (status, printed)


def test_what_fails_says_why(server):
    status, printed = server.ask("1 / 0")
    assert status == 250
    assert "ZeroDivisionError" in printed


def test_one_run_knows_nothing_of_another(server):
    assert server.ask("import os, builtins; builtins.seen = 1; os.environ['SEEN'] = 'yes'")[0] == 0
    assert (
        server.ask("import os, builtins; print(hasattr(builtins, 'seen'), 'SEEN' in os.environ)")[1] == "False False\n"
    )


def test_many_at_once_each_get_their_own_answer(server):
    asked = [(n, server.start(f"import time; time.sleep(1); print({n}); raise SystemExit({n})")) for n in range(12)]
    started = time.monotonic()
    for number, asking in asked:
        assert asking.communicate(timeout=20)[0] == f"{number}\n"
        assert asking.returncode == number
    assert time.monotonic() - started < 12, "they ran side by side"


@pytest.mark.parametrize("name", ["ANSIBLE_CONFIG", "ANSIBLE_NEW", "HOME", "LC_ALL"])
def test_another_environment_runs_cold_with_a_warning(server, name):
    status, printed = server.ask("words", environment={name: "other"})
    assert status == 0
    assert printed.splitlines()[-1] == "words"
    assert "[WARNING]: the warm ansible-playbook cannot be used (it refuses" in printed


def test_nobody_there_runs_cold_with_a_warning(server):
    server.process.kill()
    server.process.wait()
    assert os.path.exists(server.path), "what is left of it is in the way of nothing"
    status, printed = server.ask("words")
    assert (status, printed.splitlines()[-1]) == (0, "words")
    assert "[WARNING]" in printed
    assert "Connection refused" in printed


def test_a_cold_start_hands_on_its_status(server, tmp_path):
    server.process.kill()
    server.process.wait()
    assert server.ask("-c", executable="/bin/false")[0] == 1


def test_who_asks_no_longer_ends_all_of_its_run(server):
    asking, pids = server.start_with_child()
    other = server.start("import time; time.sleep(1); print('unharmed')")
    asking.kill()
    asking.communicate()
    wait_for(lambda: not any(map(is_alive, pids)))
    assert other.communicate(timeout=20)[0] == "unharmed\n"
    assert server.ask("print('next')") == (0, "next\n")


def test_what_is_another_accounts_is_left(monkeypatch):
    """The root helper below sudo: the account kumo may not kill it, and what else there is goes all the same."""
    killed = []

    class Process:
        def __init__(self, pid):
            self.pid = pid

        def children(self, recursive):
            return [Process(2), Process(3)]

        def kill(self):
            if self.pid == 2:
                raise psutil.AccessDenied(self.pid)
            killed.append(self.pid)

    monkeypatch.setattr(warm.psutil, "Process", Process)
    warm.end_tree(1)
    assert killed == [1, 3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_its_end_is_the_end_of_its_runs(server, number):
    asking, pids = server.start_with_child()
    server.process.send_signal(number)
    server.process.wait(10)
    assert asking.wait(10) == 0, "what was asked for is run by the executable itself"
    wait_for(lambda: not is_alive(pids[0]))
    if number == signal.SIGTERM:
        wait_for(lambda: not is_alive(pids[1]))
    else:
        os.kill(pids[1], signal.SIGKILL)  # in a session of its own, and nobody was left to end it
    assert "it ended during the run" in asking.communicate(timeout=10)[0]


def test_whose_own_worker_has_ended_starts_nothing_more(server, monkeypatch):
    """Its run is another worker's by now."""
    parents = iter((100, 1))
    monkeypatch.setattr(warm_client.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(warm_client, "ask", lambda *_: warm_client.LOST)
    monkeypatch.setattr(warm_client.os, "execv", lambda *_: pytest.fail("it went on"))
    assert warm_client.main([server.path, "/bin/echo"]) == 75


def test_what_is_no_request_harms_nobody(server):
    for sent in (b"", b"\xff\xff\xff\xff", b"\0\0\0\2{}", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(server.path)
            connection.sendall(sent)
    assert server.ask("print('well')") == (0, "well\n")


def test_only_its_own_account_may_ask(server):
    assert os.stat(server.path).st_mode & 0o777 == 0o600
