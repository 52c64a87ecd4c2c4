#!/usr/bin/python3
"""Writes the clouds `kumo` and `kumo-admin` into /etc/openstack/clouds.yaml, and /etc/kumo/openrc.

    clouds.py write | remove [--file FILE]

Owns the lines between its two marks in clouds.yaml and nothing else there: other clouds, comments and
their order stay byte for byte, and `remove` gives back what was there before. The file holds passwords,
so its mode becomes 0600; the mode it had is kept in the mark. `write` runs with the control plane's
Python (settings, PyYAML), `remove` with any. Next room: web/settings.py, whose settings it reads.
"""

import argparse
import configparser
import json
import os
import re
import sys
from pathlib import Path

CLOUDS = Path("/etc/openstack/clouds.yaml")
OPENRC = Path("/etc/kumo/openrc")
COMMANDS = "/opt/kumo/bin"  # `openstack` and `kumo`, without the Python of their venvs
SETTINGS = "/etc/kumo/kumo.conf"
PASSWORDS = "/etc/kumo/passwords"
ACCOUNTS = {"kumo": ("demo", "demo"), "kumo-admin": ("admin", "admin")}
BEGIN = "# >>> kumo: written by stack.sh, removed by unstack.sh"
END = "# <<< kumo"
MARKED = re.compile(rf"^[ ]*{re.escape(BEGIN)}[^\n]*\n.*?^[ ]*{re.escape(END)}\n", re.DOTALL | re.MULTILINE)
HEAD = re.compile(r"^clouds:[ \t]*(#[^\n]*)?\n", re.MULTILINE)


def build_clouds(url: str, region: str, ca: str, passwords: dict[str, str]) -> dict[str, dict]:
    """The two clouds as openstacksdk reads them; ``url`` is the API's, ``ca`` a PEM file or ''."""
    clouds = {}
    for name, (user, project) in ACCOUNTS.items():
        clouds[name] = {
            "auth": {
                "auth_url": f"{url}/identity/v3",
                "username": user,
                "password": passwords[user],
                "project_name": project,
                "user_domain_id": "default",
                "project_domain_id": "default",
            },
            "region_name": region,
            "identity_api_version": 3,
            **({"cacert": ca} if ca else {}),
        }
    return clouds


def build_block(clouds: dict[str, dict], indent: str, note: str) -> str:
    """The clouds as lines of YAML (values as JSON, which YAML reads) between the marks."""
    lines = [f"{BEGIN} {note}".rstrip()]
    for name, cloud in clouds.items():
        lines.append(f"{name}:")
        for key, value in cloud.items():
            if isinstance(value, dict):
                lines += [f"  {key}:"] + [f"    {inner}: {json.dumps(text)}" for inner, text in value.items()]
            else:
                lines.append(f"  {key}: {json.dumps(value)}")
    return "".join(f"{indent}{line}\n" for line in [*lines, END])


def build_text(before: str, clouds: dict[str, dict], note: str) -> str:
    """``before`` with the block put in; ValueError where its clouds are not one block mapping."""
    text = MARKED.sub("", before)
    if text.strip() in ("", "---", "clouds:"):
        return text.replace("clouds:\n", "") + "clouds:\n" + build_block(clouds, "  ", note)
    head = HEAD.search(text)
    if head is None:
        if re.search(r"^clouds\s*:", text, re.MULTILINE):
            raise ValueError("its clouds are written on one line; write them one below the other")
        note = f"{note} alone".strip()
        return text + ("" if text.endswith("\n") else "\n") + build_whole(clouds, note)
    child = re.search(r"^( +)[^ #\n]", text[head.end() :], re.MULTILINE)
    return text[: head.end()] + build_block(clouds, child[1] if child else "  ", note) + text[head.end() :]


def build_whole(clouds: dict[str, dict], note: str) -> str:
    """A `clouds:` of our own inside the marks, for a file that has none."""
    block = build_block(clouds, "  ", "").splitlines(keepends=True)
    return f"{BEGIN} {note}\nclouds:\n" + "".join(block[1:-1]) + f"{END}\n"


def apply_private(path: Path, text: str) -> None:
    """Write ``path`` whole or not at all, root's alone."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)
    partial.replace(path)


def apply_clouds(path: Path, clouds: dict[str, dict]) -> bool:
    """Put the clouds into ``path``; whether anything changed."""
    import yaml

    before = path.read_text() if path.exists() else ""
    kept = MARKED.search(before)
    if kept:
        note = re.search(r"\[[^\]\n]*\]", kept[0].splitlines()[0])
        note = note[0] if note else ""
    elif path.exists():
        note = f"[mode {path.stat().st_mode & 0o7777:o}]"
    else:
        note = "[new directory]" if not path.parent.exists() else "[new]"
    taken = set((yaml.safe_load(MARKED.sub("", before)) or {}).get("clouds") or {}) & set(clouds)
    if taken:
        raise ValueError(f"it has a cloud {min(taken)} that stack.sh did not write; rename that one")
    text = build_text(before, clouds, note)
    if not clouds.items() <= yaml.safe_load(text)["clouds"].items():
        raise ValueError("the two clouds could not be put in")
    if text == before and path.stat().st_mode & 0o777 == 0o600:
        return False
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    apply_private(path, text)
    return True


def remove_clouds(path: Path) -> bool:
    """Take the block out of ``path``, and the file and its directory where they came with it."""
    if not path.exists():
        return False
    before = path.read_text()
    found = MARKED.search(before)
    if found is None:
        return False
    first = found[0].splitlines()[0]
    text = MARKED.sub("", before)
    if "[new" in first and text.strip() in ("", "clouds:"):
        path.unlink()
        if "[new directory]" in first and not any(path.parent.iterdir()):
            path.parent.rmdir()
        return True
    apply_private(path, text)
    mode = re.search(r"\[mode (\d+)\]", first)
    path.chmod(int(mode[1], 8) if mode else 0o600)
    return True


def build_openrc() -> str:
    """Shell lines that make the project's member the client's cloud, and our commands findable.

    By name alone: an OS_USERNAME or OS_PASSWORD in the environment would win over another cloud that is named later.
    """
    head = "# Written by stack.sh: the member's cloud. For the administrator afterwards: export OS_CLOUD=kumo-admin\n"
    path = f'case ":$PATH:" in *:{COMMANDS}:*) ;; *) export PATH="$PATH:{COMMANDS}" ;; esac\n'
    others = 'unset $(env | sed -n "s/^\\(OS_[A-Za-z0-9_]*\\)=.*/\\1/p")\n'
    return head + path + others + "export OS_CLOUD=kumo\n"


def write(path: Path) -> None:
    """Write both files from the settings and the passwords of this machine."""
    from web.settings import load_settings

    settings = load_settings(SETTINGS)
    parser = configparser.RawConfigParser()
    with open(PASSWORDS, encoding="utf-8") as stream:
        parser.read_file(stream)
    clouds = build_clouds(
        settings.api.public_url, settings.kumo.region, settings.api.tls_cert, dict(parser.items("passwords"))
    )
    apply_clouds(path, clouds)
    text = build_openrc()
    if not OPENRC.exists() or OPENRC.read_text() != text:
        apply_private(OPENRC, text)


def main() -> int:
    """0; 1 with a sentence where the file cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["write", "remove"])
    parser.add_argument("--file", type=Path, default=CLOUDS)
    arguments = parser.parse_args()
    try:
        if arguments.verb == "write":
            write(arguments.file)
        elif remove_clouds(arguments.file):
            print(f"took our clouds out of {arguments.file}")
    except (ValueError, OSError) as error:
        print(f"{arguments.file}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
