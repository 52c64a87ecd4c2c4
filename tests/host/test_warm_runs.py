"""Runs of the real Ansible, forked from a warm one, on this machine: the same as cold ones, and nothing is left."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path

import ansible_runner
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from web.reconcile import run, warming
from web.settings import build_settings

ROOT = Path(__file__).resolve().parents[2]
HERE = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
RESULT = ("changed", "objects", "actions", "pending")


@pytest.fixture
def settings(tmp_path):
    made = build_settings({("kumo", "state_dir"): str(tmp_path), ("kumo", "run_dir"): str(tmp_path)})
    made.worker.ansible_dir = str(ROOT)
    return made


@pytest.fixture
def warm(settings, monkeypatch):
    """The warm one as the worker keeps it; runs' output is in ``printed``."""
    # A run's environment is the worker's, which is scrubbed.
    for name in set(os.environ) - set(run.KEPT_VARIABLES):
        monkeypatch.delenv(name)
    kept = warming.Warming(settings)
    kept.ensure()
    kept.printed = []
    start = ansible_runner.run

    def start_and_read(**options):
        runner = start(**options)
        kept.printed.append(runner.stdout.read())
        return runner

    monkeypatch.setattr(ansible_runner, "run", start_and_read)
    wait_for(lambda: os.path.exists(run.find_warm_socket(settings)), 30)
    yield kept
    kept.end()
    assert not psutil.pid_exists(kept.process.pid)


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def build_document(settings, generation: int, **more) -> dict:
    own = {"state_dir": f"{settings.kumo.state_dir}/host", "hypervisor": False}
    return {"version": 1, "host": "here", "generation": generation, "fence": 1, "settings": own, **more}


def test_a_warm_run_is_a_cold_run(settings, warm):
    """Result, tasks and sentences are those of the executable itself; and it was no fall back to it."""
    document = build_document(settings, 1, volumes=[{"id": "{{ 1 + 1 }}"}])
    seen = [run.run_host(settings, "here", HERE, document) for _ in range(2)]
    document = build_document(settings, 2)
    seen += [run.run_host(settings, "here", HERE, document) for _ in range(2)]
    assert not [text for text in warm.printed if "WARNING" in text]
    settings.worker.warm = False
    cold = run.run_host(settings, "here", HERE, build_document(settings, 3, volumes=[{"id": "{{ 1 + 1 }}"}]))
    assert "it must be a lower-case UUID" in cold.error
    assert "{{ 1 + 1 }}" in cold.error, "a document's text is never evaluated"
    assert [one.error for one in seen] == [cold.error, cold.error, None, None]
    cold = run.run_host(settings, "here", HERE, build_document(settings, 4))
    for one in seen[2:]:
        assert one.ok
        assert {name: one.result[name] for name in RESULT} == {name: cold.result[name] for name in RESULT}
        assert [(task["name"], task["state"]) for task in one.tasks] == [
            (task["name"], task["state"]) for task in cold.tasks
        ]


@pytest.mark.parametrize("kept_ready", [True, False])
def test_check_mode_shows_and_changes_nothing(settings, warm, kept_ready):
    settings.worker.warm = kept_ready
    directory = Path(settings.kumo.state_dir, "volumes")
    storage = {"backend": "file", "directory": str(directory), "portal": "127.0.0.1:3260"}
    document = build_document(settings, 1)
    document["settings"]["storage"] = storage
    volume = {"id": "aaaaaaaa-0000-4000-8000-000000000001", "project_id": "p", "wanted": "present", "size_gb": 1}
    document["volumes"] = [{**volume, "source": None, "exports": []}]
    seen = run.run_host(settings, "here", HERE, document, check=True)
    assert seen.ok, seen.error
    assert [action["object_id"] for action in seen.result["actions"]] == [volume["id"]]
    assert seen.result["diff"]
    assert not directory.exists() or not list(directory.iterdir())
    assert not [text for text in warm.printed if "WARNING" in text]


def test_a_run_that_is_cancelled_leaves_no_process(settings, warm):
    """Whatever the play had started: Ansible's own workers have sessions of their own."""
    before = {process.pid for process in psutil.process_iter()}
    cancelled = threading.Event()
    outcomes = []
    # No shell of a host, but something that lasts.
    slow = Path(settings.kumo.state_dir, "slow")
    slow.write_text("#!/bin/sh\nsleep 60\n")
    slow.chmod(0o755)
    connection = {**HERE, "ansible_shell_executable": str(slow)}

    def work():
        document = build_document(settings, 1)
        outcomes.append(run.run_host(settings, "here", connection, document, cancelled=cancelled.is_set))

    thread = threading.Thread(target=work)
    thread.start()

    def list_new() -> list[str]:
        found = [process for process in psutil.process_iter(["cmdline"]) if process.pid not in before]
        return [" ".join(process.info["cmdline"] or []) for process in found]

    wait_for(lambda: any("sleep 60" in words for words in list_new()), 30)
    cancelled.set()
    thread.join(30)
    assert outcomes[0].error == "the run was cancelled"
    wait_for(lambda: not [words for words in list_new() if "sleep 60" in words or str(slow) in words], 5)
    assert run.run_host(settings, "here", HERE, build_document(settings, 2)).ok, "the next one is well"


def test_it_does_not_grow(settings, warm):
    """Ten runs leave it with the descriptors, threads and children it had."""
    process = psutil.Process(warm.process.pid)
    assert run.run_host(settings, "here", HERE, build_document(settings, 1)).ok
    before = (process.num_fds(), process.num_threads(), process.memory_info().rss)
    for generation in range(2, 12):
        assert run.run_host(settings, "here", HERE, build_document(settings, generation)).ok
    assert (process.num_fds(), process.num_threads()) == before[:2]
    assert process.children() == []
    assert process.memory_info().rss < before[2] + (4 << 20)


def test_it_comes_back(settings, warm, monkeypatch, caplog):
    """A run goes on cold while it is away; the worker starts it again, and says so."""
    warm.process.kill()
    warm.process.wait()
    assert run.run_host(settings, "here", HERE, build_document(settings, 1)).ok
    assert "[WARNING]: the warm ansible-playbook cannot be used" in warm.printed[-1]
    warm.ensure()
    assert warm.process.poll() is not None, "not at once: it may be what ends it that is wrong"
    monkeypatch.setattr(warming, "AGAIN_S", 0)
    with caplog.at_level(logging.WARNING):
        warm.ensure()
    assert "has ended with -9; runs are cold until it is back" in caplog.text

    def is_warm() -> bool:
        assert run.run_host(settings, "here", HERE, build_document(settings, 2)).ok
        return "WARNING" not in warm.printed[-1]

    wait_for(is_warm, 30)
