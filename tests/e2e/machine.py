"""What a machine is, as far as a cloud may change it: taken before stack.sh and after unstack.sh, compared.

Owns the reading and the comparison, and which differences are nobody's doing (a log that grows, a counter).
May not change anything. ``python tests/e2e/machine.py FILE`` writes a snapshot. Next room: test_unstack.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

TREES = ("/etc", "/opt", "/var/lib", "/var/log", "/var/cache", "/run", "/usr/local", "/lib/systemd/system")
# Written by the package manager, the shell and the clock on any machine; DNS may be renewed at any time.
IGNORED = re.compile(
    r"^(/var/lib/(apt|dpkg|pam|ucf|systemd|polkit-1|update-rc.d|insserv|python)|/var/cache/(apt|debconf|ldconfig|man)"
    r"|/var/log/(apt|dpkg|alternatives|lastlog|wtmp|journal|fontconfig|bootstrap)"
    r"|/etc/(xml/catalog\.old|ld\.so\.cache|mtab|resolv\.conf|passwd-|group-|shadow-|gshadow-|subuid|subgid)"
    r"|/run/(lock/kumo-stack\.lock|systemd|udev|log|user|sudo|blkid|shm|utmp|xtables\.lock|ebtables\.lock|mount)"
    r"|/var/lib/(postgresql|dbus)|/run/postgresql|/var/log/postgresql|/opt/(pypi|wheels))"
)
CONTENT = re.compile(r"^/etc/(?!ssl/|alternatives/)")
SYSCTLS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-iptables")
PROCESSES = re.compile(r"/opt/kumo|/usr/local/lib/kumo|/var/lib/kumo|/etc/kumo|libvirtd|virtlogd|qemu-system|dnsmasq")


def _run(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout
    except FileNotFoundError:
        return ""


def read_files() -> dict[str, str]:
    """{path: kind, mode, owner and for /etc the content's digest} below TREES."""
    import hashlib

    found = {}
    for tree in TREES:
        for folder, folders, files in os.walk(tree):
            folders[:] = [name for name in folders if not IGNORED.match(f"{folder}/{name}")]
            for name in folders + files:
                path = f"{folder}/{name}"
                if IGNORED.match(path) or "__pycache__" in path:
                    continue
                try:
                    status = os.lstat(path)
                    text = f"{status.st_mode:o} {status.st_uid}:{status.st_gid}"
                    if CONTENT.match(path) and os.path.isfile(path) and not os.path.islink(path):
                        text += " " + hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
                    found[path] = text
                except OSError:
                    continue
    return found


def read_rules(tool: str) -> list[str]:
    """Rules, and chains that are not built in; an empty table is the same as none."""
    return [
        line
        for line in _run(f"{tool}-save").splitlines()
        if line.startswith("-A ") or (line.startswith(":") and " - " in line)
    ]


def read_processes() -> list[str]:
    """Command lines of what a cloud is made of; numbers and paths of this test's own are left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if (
            argv[0]
            and PROCESSES.search(" ".join(argv[:3]))
            and not re.search("pytest|machine.py|stack.sh", " ".join(argv))
        ):
            found.append(" ".join(argv).strip())
    return sorted(found)


def read_machine() -> dict:
    """A snapshot: JSON-able, sorted, without what changes by itself."""
    links = json.loads(_run("ip", "-json", "address", "show") or "[]")
    return {
        "processes": read_processes(),
        "links": sorted(
            f"{row['ifname']} {' '.join(sorted(a['local'] for a in row.get('addr_info', [])))}" for row in links
        ),
        "routes": sorted(line.strip() for line in _run("ip", "route", "show").splitlines()),
        "namespaces": sorted(line.split()[0] for line in _run("ip", "netns", "list").splitlines() if line),
        "iptables": read_rules("iptables"),
        "ip6tables": read_rules("ip6tables"),
        "ebtables": read_rules("ebtables"),
        "domains": sorted(_run("virsh", "-c", "qemu:///system", "list", "--all", "--name").split()),
        "packages": sorted(
            _run("dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n").splitlines()
        ),
        "accounts": [
            line.split(":")[0] for path in ("/etc/passwd", "/etc/group") for line in Path(path).read_text().splitlines()
        ],
        "settings": {
            name: Path("/proc/sys", name).read_text().strip() for name in SYSCTLS if Path("/proc/sys", name).is_file()
        },
        "kvm": f"{os.stat('/dev/kvm').st_mode:o} {os.stat('/dev/kvm').st_gid}" if os.path.exists("/dev/kvm") else "",
        "files": read_files(),
    }


def build_differences(before: dict, after: dict) -> list[str]:
    """A line for everything that came, went or changed."""
    lines = []
    for part in before:
        old, new = before[part], after[part]
        if isinstance(old, dict):
            lines += [f"{part}: {key} was {old[key]}, is gone" for key in sorted(old.keys() - new.keys())]
            lines += [f"{part}: {key} is new" for key in sorted(new.keys() - old.keys())]
            lines += [
                f"{part}: {key} was {old[key]}, is {new[key]}"
                for key in sorted(old.keys() & new.keys())
                if old[key] != new[key]
            ]
        elif isinstance(old, list):
            lines += [f"{part}: {row} is gone" for row in old if row not in new]
            lines += [f"{part}: {row} is new" for row in new if row not in old]
        elif old != new:
            lines.append(f"{part}: was {old}, is {new}")
    return lines


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(read_machine(), indent=1, sort_keys=True))
