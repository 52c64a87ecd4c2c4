"""A module that is not root hands its document to the host's root helper, the one command sudo permits.

What the helper then does is decided there (roles/host_base/files/root_helper). Both sides must be of one
source: the module sends the digests of the files it was sent with. Next room: ``module.py``, which calls this.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

from .errors import KumoError

HELPER = "/usr/local/lib/kumo/root/kumo_root.py"
PREPARE = "run `kumo host prepare` for this host"


def read_digests() -> dict[str, str]:
    """{file of this package: SHA-256}, from Ansible's zip or from a directory.

    No ``__init__.py``: Ansible writes some of its own.
    """
    package = sys.modules[__package__]
    archive = getattr(package.__spec__.loader, "archive", None)
    if archive:
        prefix = __package__.replace(".", "/") + "/"
        with zipfile.ZipFile(archive) as packed:
            texts = {
                name.removeprefix(prefix): packed.read(name) for name in packed.namelist() if name.startswith(prefix)
            }
    else:
        root = Path(package.__path__[0])
        texts = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.py")}
    return {
        name: hashlib.sha256(text).hexdigest()
        for name, text in sorted(texts.items())
        if name.endswith(".py") and not name.endswith("__init__.py")
    }


def build_command(helper: str, sections: list[str] | None, check_mode: bool) -> list[str]:
    """The words that sudo is given."""
    narrowed = [f"--sections={','.join(sections)}"] if sections else []
    return ["sudo", "-n", helper, "check" if check_mode else "apply", *narrowed]


def call_helper(document: dict, sections: list[str] | None, check_mode: bool, helper: str = HELPER) -> dict:
    """The helper's result; KumoError with its sentence, or with why there is none."""
    request = json.dumps({"files": read_digests(), "document": document})
    command = build_command(helper, sections, check_mode)
    try:
        done = subprocess.run(command, input=request.encode(), capture_output=True, check=False)
    except OSError as error:
        raise KumoError(f"sudo could not be started: {error.strerror}; {PREPARE}") from None
    return parse_answer(done.returncode, done.stdout, done.stderr)


def parse_answer(status: int, output: bytes, errors: bytes) -> dict:
    """The result in the helper's answer."""
    try:
        answer = json.loads(output)
        if status == 0:
            return answer["result"]
        sentence = answer["failed"]
    except (ValueError, KeyError, TypeError):
        said = errors.decode(errors="replace").strip()[-300:] or "nothing"
        raise KumoError(f"the root helper gave no answer (status {status}), and said: {said}; {PREPARE}") from None
    raise KumoError(sentence)
