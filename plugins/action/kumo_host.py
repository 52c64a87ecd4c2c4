"""kumo_host where the account is not root: the document goes straight to the host's root helper, no module is sent.

Ansible would otherwise pack the module, start a Python on the host for it, and that Python would start the
helper's. With become, or as root, the module itself runs. Owns nothing; next rooms: `library/kumo_host.py`,
`module_utils/kumo/handoff.py`, which says what the helper is given and what it answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from functools import cache
from pathlib import Path

from ansible.plugins.action import ActionBase

PACKAGE = Path(__file__).resolve().parents[2] / "module_utils" / "kumo"
HELPER = "/usr/local/lib/kumo/root/kumo_root.py"
SAID = 300


@cache
def read_digests() -> dict[str, str]:
    """{file of module_utils/kumo: SHA-256}: the helper compares them with its own."""
    found = {path.relative_to(PACKAGE).as_posix(): path.read_bytes() for path in sorted(PACKAGE.rglob("*.py"))}
    return {name: hashlib.sha256(text).hexdigest() for name, text in found.items() if not name.endswith("__init__.py")}


def build_plain(value):
    """The same value in Python's own types: what Ansible has is evaluated on being looked at, not by json's C code."""
    if isinstance(value, dict):
        return {str(name): build_plain(value[name]) for name in value}
    if isinstance(value, list | tuple):
        return [build_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def parse_answer(status: int, output: str, errors: str) -> dict:
    """A module's result, of the helper's answer."""
    for line in reversed(output.splitlines()):  # a shell's greeting may come before it
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and status == 0 and isinstance(answer.get("result"), dict):
            return answer["result"]
        if isinstance(answer, dict) and answer.get("failed"):
            return {"failed": True, "msg": answer["failed"]}
    said = (errors or output).strip()[-SAID:] or "nothing"
    sentence = f"the root helper gave no answer (status {status}), and said: {said}"
    return {"failed": True, "msg": f"{sentence}; run `kumo host prepare` for this host"}


class ActionModule(ActionBase):
    """One command on the host, the request on its standard input."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = False

    def _is_root(self) -> bool:
        if self._task.become or self._connection.become is not None:
            return True
        if self._connection.transport == "local":
            return os.geteuid() == 0
        return self._get_remote_user() == "root"

    def _get_remote_user(self) -> str | None:
        try:
            return self._connection.get_option("remote_user")
        except KeyError:
            return self._play_context.remote_user

    def run(self, tmp=None, task_vars=None):
        """The module's result, by the helper or by the module."""
        result = super().run(tmp, task_vars)
        if self._is_root():
            result.update(self._execute_module(task_vars=task_vars))
            return result
        arguments = self._task.args
        unknown = sorted(set(arguments) - {"document", "sections", "helper"})
        if unknown or not isinstance(arguments.get("document"), dict):
            wrong = f"unknown argument {unknown[0]!r}" if unknown else "document is missing"
            return {**result, "failed": True, "msg": f"kumo_host: {wrong}"}
        sections = build_plain(arguments.get("sections") or [])
        words = ["sudo", "-n", build_plain(arguments.get("helper") or HELPER)]
        words.append("check" if self._task.check_mode else "apply")
        if sections:
            words.append(f"--sections={','.join(sections)}")
        request = json.dumps({"files": read_digests(), "document": build_plain(arguments["document"])})
        done = self._low_level_execute_command(shlex.join(words), sudoable=False, in_data=request.encode())
        result.update(parse_answer(done["rc"], done["stdout"], done["stderr"]))
        return result
