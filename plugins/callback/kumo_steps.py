"""One line per task that did something: seconds since the start, what became of it, the task's sentence.

For a person who watches stack.sh. What failed is printed whole, unless the task is marked no_log.
Set as stdout callback by stack.sh alone; plays run by hand keep Ansible's own output.
"""

from __future__ import annotations

import os
import time

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: kumo_steps
type: stdout
short_description: one line per task
description:
  - Prints one line for each task with the seconds since the start.
  - The environment variable E(KUMO_STEPS_SINCE) holds seconds that had passed before.
"""

SLOW_S = 2.0
HIDDEN = ("_ansible_", "invocation", "stdout_lines", "stderr_lines", "diff")


class CallbackModule(CallbackBase):
    """Prints plays, changed and failed tasks, and tasks that took longer than SLOW_S seconds."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "kumo_steps"

    def __init__(self):
        super().__init__()
        self._began = time.monotonic() - float(os.environ.get("KUMO_STEPS_SINCE") or 0)
        self._task_began = self._began

    def _line(self, word: str, text: str) -> None:
        self._display.display(f"[{time.monotonic() - self._began:4.0f} s]   {word:<8} {text}")

    def v2_playbook_on_play_start(self, play):
        self._line("play", play.get_name())

    def v2_playbook_on_task_start(self, task, is_conditional):
        self._task_began = time.monotonic()

    def v2_runner_on_ok(self, result):
        took = time.monotonic() - self._task_began
        if result.is_changed() or took > SLOW_S:
            self._line("changed" if result.is_changed() else "ok", result.task_name)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._line("ignored" if ignore_errors else "FAILED", f"{result.host.get_name()}: {result.task_name}")
        if not ignore_errors:
            self._explain(result)

    def v2_runner_on_unreachable(self, result):
        self._line("FAILED", f"{result.host.get_name()} could not be reached: {result.task_name}")
        self._explain(result)

    def v2_playbook_on_stats(self, stats):
        for host in sorted(stats.processed):
            counts = stats.summarize(host)
            self._line("result", f"{host}: {counts['ok']} ok, {counts['changed']} changed, {counts['failures']} failed")

    def _explain(self, result) -> None:
        values = result.result
        if values.get("_ansible_no_log"):
            self._display.display("           (what it printed is private)")
            return
        for item in values.get("results") or [values]:
            if not isinstance(item, dict) or not (item is values or item.get("failed")):
                continue
            for key, value in item.items():
                if (
                    not key.startswith(HIDDEN)
                    and key not in ("results", "changed", "failed")
                    and value not in ("", None)
                ):
                    self._display.display(f"           {key}: {value}")
