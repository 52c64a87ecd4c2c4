"""stack.sh: a second run changes nothing, a killed cloud comes back with its guests, mistakes are told."""

import fcntl
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPENSTACK = "/opt/kumo/client-venv/bin/openstack"
QUICK_S = 60


def run(*argv: str, timeout: float = 900, code: int = 0) -> str:
    """Run a script of the project as an operator would; both outputs."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE", "OS_", "PYTHON", "VIRTUAL"))}
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )
    assert done.returncode == code, f"{' '.join(argv)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def _cloud():
    """A cloud made by stack.sh."""
    run("./stack.sh")


def read_server() -> dict:
    return json.loads(run(OPENSTACK, "--os-cloud", "kumo", "server", "show", "first", "-f", "json"))


def read_pids(pattern: bytes) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and pattern in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found - {os.getpid()}


def test_second_run_changes_nothing_and_takes_seconds():
    """No task of the play reports a change, no service is restarted, and it is quick."""
    before = read_pids(b"/opt/kumo/venv/bin/kumo") | read_pids(b"kumo_metadata.py")
    started = time.monotonic()
    said = run("./stack.sh")
    took = time.monotonic() - started
    assert re.findall(r"result +\S+: \d+ ok, (\d+) changed, (\d+) failed", said) == [("0", "0")], said
    assert before <= read_pids(b"/opt/kumo/venv/bin/kumo") | read_pids(b"kumo_metadata.py")
    assert took < QUICK_S


def test_everything_killed_comes_back():
    """After kill -9 of supervisor, services, guests and DHCP servers, stack.sh brings all back, the guest included."""
    server = read_server()
    guest = f"guest=kumo-{server['id']}".encode()
    assert read_pids(guest)
    for pattern in (
        b"/etc/kumo/supervisord.conf",
        b"/opt/kumo/venv/bin/kumo",
        b"kumo_metadata.py",
        guest,
        b"/var/lib/kumo/host/",
    ):
        for pid in read_pids(pattern):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    assert not read_pids(guest)
    said = run("./stack.sh")
    assert "the server first answers" in said
    assert read_server()["id"] == server["id"]
    assert read_pids(guest)


def test_a_killed_service_is_started_again():
    """kill -9 of the API's parent process: supervisor starts it again, its orphans go, and it answers."""
    ask = ["/opt/kumo/venv/bin/python", "-m", "supervisor.supervisorctl", "-c", "/etc/kumo/supervisord.conf"]
    old = int(run(*ask, "pid", "kumo-api"))
    orphans = {pid for pid in read_pids(b"kumo.conf\0serve") if pid != old}
    os.kill(old, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if orphans & read_pids(b"kumo.conf\0serve"):
            time.sleep(0.2)  # an orphan's answer would say nothing of the new one
            continue
        if subprocess.run([OPENSTACK, "--os-cloud", "kumo", "token", "issue"], capture_output=True).returncode == 0:
            assert int(run(*ask, "pid", "kumo-api")) not in (0, old)
            return
        time.sleep(1)
    pytest.fail("the API did not come back within 60 s")


def test_private_files_are_private():
    """Passwords, keys, database and logs are not for other accounts; no password is in any command line or log."""
    for path, mode in {
        "/etc/kumo/passwords": 0o600,
        "/etc/kumo/openrc": 0o600,
        "/etc/openstack/clouds.yaml": 0o600,
        "/etc/kumo/keys/fernet": 0o700,
        "/var/lib/kumo/kumo.db": 0o600,
        "/var/lib/kumo/runs": 0o700,
        "/var/lib/kumo/stack-state": 0o700,
        "/var/lib/kumo/first-server": 0o700,
        "/var/log/kumo/stack.log": 0o600,
        "/etc/sudoers.d/kumo": 0o440,
    }.items():
        assert Path(path).stat().st_mode & 0o777 == mode, path
    secrets = re.findall(r"= (\S{16,})", Path("/etc/kumo/passwords").read_text())
    assert len(secrets) == 2
    for log in Path("/var/log/kumo").iterdir():
        assert not any(secret in log.read_text(errors="replace") for secret in secrets), log
    for secret in secrets:
        assert not read_pids(secret.encode())


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["./stack.sh", "--nonsense"], "unknown option --nonsense"),
        (["./stack.sh", "--inventory"], "usage"),
        (["./unstack.sh", "--nonsense"], "unknown option --nonsense"),
    ],
)
def test_mistakes_are_told(argv, word):
    """A wrong option ends with 2 and says which."""
    assert word in run(*argv, code=2)


def test_one_at_a_time():
    """A second stack.sh beside one at work ends at once and says why."""
    with open("/run/lock/kumo-stack.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another stack.sh or unstack.sh is at work" in run("./stack.sh", code=1)


def test_the_client_session_of_a_newcomer():
    """The clouds that stack.sh wrote work with the unmodified client, as member and as administrator."""
    for cloud in ("kumo", "kumo-admin"):
        assert json.loads(run(OPENSTACK, "--os-cloud", cloud, "token", "issue", "-f", "json"))["project_id"]
    sourced = run("bash", "-c", f". /etc/kumo/openrc && {OPENSTACK} server list -f value -c Name")
    assert "first" in sourced.split()
    operator = (
        f". /etc/kumo/openrc && export OS_CLOUD=kumo-admin && {OPENSTACK} compute service list -f value -c Binary"
    )
    assert "nova-compute" in run("bash", "-c", operator).split()
