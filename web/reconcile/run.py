"""One run: a folder, one play against one host, its result. The only importer of ansible_runner.

The document travels as a host variable in the run folder's inventory (0700, removed with the run),
never in argv or environment; every text in it that could be taken for a template is marked unsafe.
Next room: `observe.py`, which stores what a run brought back.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ansible_runner
import pexpect
import yaml
from ansible_runner.config.runner import RunnerConfig

from ..ssh_options import build_connection
from .processes import build_process_name, is_in_use

KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME")

# What ansible-core 2.19 puts before ssh's own words, and in place of a traceback that it does not show.
SSH_MARK = re.compile(r"this host can be reached over ssh|Failed to connect to the host via ssh")
NO_TRACEBACK = "(traceback unavailable)"
SSH_REASONS = (
    (
        "IDENTIFICATION HAS CHANGED",
        "it shows another host key than the one that was collected from it. If it was installed anew, prepare it again"
        " (`kumo host prepare`); if not, somebody else answers at its address",
    ),
    (
        "Host key verification failed",
        "its host key is not known here; prepare it (`kumo host prepare`), which collects the key",
    ),
    (
        "Permission denied",
        "it does not let the control plane's key in (Permission denied); prepare it again (`kumo host prepare`)",
    ),
)


class Process(pexpect.spawn):
    """What ansible_runner starts. It is closed only when it has ended: the 0.1 s that ptyprocess waits help nobody.

    pexpect has the same attribute, and does not hand it on.
    """

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.ptyproc.delayafterclose = 0


pexpect.spawn = Process  # ansible_runner takes it from there, and nothing else here starts any


class UnsafeText(str):
    """A text that Ansible must not evaluate."""


class _Dumper(yaml.CSafeDumper):
    pass


_Dumper.add_representer(UnsafeText, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text), style='"'))


@dataclass
class Outcome:
    """What a run brought back. ``result`` is kumo_host's; empty where the host could not be worked on."""

    ok: bool
    result: dict = field(default_factory=dict)
    error: str | None = None
    tasks: list[dict] = field(default_factory=list)
    cancelled: bool = False


def mark_unsafe(value):
    """The same value with every text that holds a template's delimiters marked as not to be evaluated."""
    if isinstance(value, str):
        return UnsafeText(value) if any(mark in value for mark in ("{{", "{%", "{#")) else value
    if isinstance(value, dict):
        return {mark_unsafe(key): mark_unsafe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mark_unsafe(item) for item in value]
    return value


def build_inventory(name: str, connection: dict, document: dict) -> str:
    """An Ansible inventory (YAML) of one host with its document."""
    variables = {**connection, "kumo_document": mark_unsafe(document)}
    return yaml.dump({"all": {"hosts": {name: variables}}}, Dumper=_Dumper, allow_unicode=True, width=4096)


def build_document_text(document: dict) -> str:
    """The document as a host_vars file that `ansible-playbook` takes with no Kumo running."""
    return yaml.dump({"kumo_document": mark_unsafe(document)}, Dumper=_Dumper, allow_unicode=True, width=120)


def scrub_environment() -> None:
    """Leave in this process's environment only what Ansible needs (security case 39)."""
    for name in list(os.environ):
        if name not in KEPT_VARIABLES:
            del os.environ[name]


def find_playbook_executable(settings) -> str:
    """The ansible-playbook of the settings, else the one beside this Python."""
    return settings.worker.ansible_playbook or str(Path(sys.executable).parent / "ansible-playbook")


@contextlib.contextmanager
def run_folder(settings, host_name: str, connection: dict, document: dict):
    """A private folder with the run's inventory; gone afterwards whatever happens."""
    root = Path(settings.worker.runs_dir)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"run-{build_process_name()}-", dir=root))
    try:
        inventory = folder / "inventory"
        inventory.mkdir(mode=0o700)
        with open(os.open(inventory / "hosts.yml", os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as stream:
            stream.write(build_inventory(host_name, build_connection(settings, connection), document))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prune_folders(settings) -> int:
    """Remove run folders that a killed process left; how many. Other processes of this machine keep theirs."""
    folders = [path for path in Path(settings.worker.runs_dir).glob("run-*") if not is_in_use(path)]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return len(folders)


def build_environment(settings) -> dict[str, str]:
    """The variables that a run adds to the scrubbed environment."""
    ansible = Path(settings.worker.ansible_dir)
    return {
        "ANSIBLE_CONFIG": str(ansible / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "PATH": f"{Path(find_playbook_executable(settings)).parent}:{os.environ.get('PATH', '/usr/sbin:/usr/bin')}",
    }


def find_warm_socket(settings) -> str | None:
    """Where the warm ansible-playbook listens; None where the settings want none, or another than this Python's own."""
    own = find_playbook_executable(settings) == str(Path(sys.executable).parent / "ansible-playbook")
    if not own or not settings.worker.warm:
        return None
    return str(Path(settings.kumo.run_dir) / "playbook.sock")


def build_runner_environment(settings) -> dict[str, str]:
    """The environment in which ansible_runner starts a run, as far as it is the same for all."""
    with tempfile.TemporaryDirectory(prefix="kumo-environment-") as folder:
        config = RunnerConfig(
            private_data_dir=folder, playbook="-", envvars=build_environment(settings), fact_cache_type="memory"
        )
        config.prepare_env()
        return dict(config.env)


def build_start(settings, check: bool = False) -> dict:
    """What ansible_runner is to start: ansible-playbook itself, or what asks the warm one for the same.

    With ``check`` in Ansible's check mode, with the difference that a run would make.
    """
    mode = ["--check", "--diff"] if check else []
    playbook = str(Path(settings.worker.ansible_dir) / "playbooks" / "apply_host.yml")
    warm = find_warm_socket(settings)
    if warm is None:
        return {"playbook": playbook, "cmdline": shlex.join(mode) or None}
    client = str(Path(__file__).with_name("warm_client.py"))
    words = ["-I", "-S", client, warm, find_playbook_executable(settings), *mode, playbook]
    return {"binary": sys.executable, "cmdline": shlex.join(words)}


def run_host(
    settings, host_name: str, connection: dict, document: dict, cancelled: Callable[[], bool] = lambda: False, *,
    check: bool = False,
) -> Outcome:  # fmt: skip
    """Bring one host to its document by playbooks/apply_host.yml; never raises for what happens on the host.

    With ``check`` nothing is changed: the result's ``actions`` and ``diff`` are what would be.
    """
    events: list[dict] = []

    def on_event(event: dict) -> bool:
        events.append(event)
        return False  # the event's own file is not kept: it would hold what guests wrote

    with run_folder(settings, host_name, connection, document) as folder:
        runner = ansible_runner.run(
            private_data_dir=str(folder),
            inventory=str(folder / "inventory" / "hosts.yml"),
            **build_start(settings, check),
            envvars=build_environment(settings),
            event_handler=on_event,
            cancel_callback=cancelled,
            timeout=settings.worker.run_timeout_s,
            quiet=True,
            fact_cache_type="memory",  # runs gather no facts
            # pexpect_timeout: how often it asks whether the run is cancelled, in seconds.
            settings={"suppress_ansible_output": True, "suppress_env_files": True, "pexpect_timeout": 1},
        )
        printed = ""
        if runner.rc != 0:
            with contextlib.suppress(OSError, AttributeError):
                printed = runner.stdout.read()[-2000:]
    return _read_outcome(runner.status, runner.rc, events, printed)


def is_about_ssh(message: str) -> bool:
    """Whether a task failed because its host could not be reached over ssh."""
    return bool(SSH_MARK.search(message))


def build_sentence(message: str) -> str:
    """What Ansible says of a failed task, on one line; what ssh prints around its reason is left out."""
    if not is_about_ssh(message):
        return message
    reason = SSH_MARK.split(message, maxsplit=1)[1].lstrip(" :.")
    for mark, sentence in SSH_REASONS:
        if mark in reason:
            return f"cannot be reached over ssh: {sentence}"
    lines = [line.strip() for line in reason.splitlines() if line.strip() and not line.startswith("@")]
    return f"cannot be reached over ssh: {' '.join(lines)[-500:]}"


def _read_outcome(status: str, rc: int | None, events: list[dict], printed: str) -> Outcome:
    outcome = Outcome(ok=False)
    for event in events:
        data = event.get("event_data", {})
        kind = event.get("event", "")
        if kind not in ("runner_on_ok", "runner_on_failed", "runner_on_unreachable"):
            continue
        state = kind.removeprefix("runner_on_")
        outcome.tasks.append({"name": data.get("task"), "state": state, "seconds": data.get("duration")})
        answer = data.get("res") or {}
        if kind == "runner_on_ok" and "observed" in answer:
            outcome.result = answer
            outcome.ok = True
        elif kind != "runner_on_ok":
            outcome.error = build_sentence(str(answer.get("msg") or f"{data.get('task')}: {state}"))
            module_error = answer.get("module_stderr") or answer.get("exception")
            if module_error and module_error != NO_TRACEBACK and not is_about_ssh(str(answer.get("msg"))):
                outcome.error += f": {str(module_error)[-1000:]}"
    if not outcome.ok and outcome.error is None:
        if status == "timeout":
            outcome.error = "the run took longer than [worker] run_timeout_s and was ended"
        elif status == "canceled":
            outcome.error, outcome.cancelled = "the run was cancelled", True
        else:
            outcome.error = f"the play ended with {status} ({rc}) and no result: {printed.strip() or 'no output'}"
    return outcome
