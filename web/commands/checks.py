"""`kumo status` and `kumo config check`: whether what is configured can be used, and is alive."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import netaddr
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from ..auth import TokenKeys
from ..models import Database, Host
from ..reconcile.run import find_playbook_executable


def check_settings(settings) -> list[str]:
    """What is wrong with the settings, a sentence each; an empty list where they are good."""
    problems = []
    try:
        TokenKeys(settings.identity.key_dir)
    except OSError as error:
        problems.append(f"[identity] key_dir: {error}")
    try:
        with Database(settings.database.url).read() as session:
            session.scalar(select(func.count()).select_from(Host))
    except DBAPIError as error:
        problems.append(f"[database] url: {error.orig}: run `kumo db upgrade`, or mend the URL")
    for name in ("tls_cert", "tls_key"):
        path = getattr(settings.api, name)
        if path and not os.access(path, os.R_OK):
            problems.append(f"[api] {name}: {path} cannot be read")
    if bool(settings.api.tls_cert) != bool(settings.api.tls_key):
        problems.append("[api] tls_cert and tls_key go together")
    try:
        if settings.network.public_gateway not in netaddr.IPNetwork(settings.network.public_cidr):
            problems.append("[network] public_gateway is not in public_cidr")
    except (netaddr.AddrFormatError, ValueError) as error:
        problems.append(f"[network] public_cidr or public_gateway: {error}")
    for path in (f"{settings.worker.ansible_dir}/playbooks/apply_host.yml", find_playbook_executable(settings)):
        if not Path(path).exists():
            problems.append(f"[worker]: {path} is missing")
    _, colon, port = settings.console.listen.rpartition(":")
    if not colon or not port.isdigit():
        problems.append(f"[console] listen is {settings.console.listen!r}; it must be ADDRESS:PORT")
    if not Path(settings.console.novnc_dir, "vnc_lite.html").exists():
        problems.append(
            f"[console] novnc_dir: {settings.console.novnc_dir} has no vnc_lite.html: run stack.sh or site.yml"
        )
    for option, path in (
        ("[image] store_dir", settings.image.store_dir),
        ("[worker] runs_dir", settings.worker.runs_dir),
    ):
        parent = next(p for p in [Path(path), *Path(path).parents] if p.exists())
        if not os.access(parent, os.W_OK):
            problems.append(f"{option}: {parent} cannot be written by this user")
    return problems


def status(args, settings) -> int:
    """Print a line for each part; 0 where all are alive."""
    good = True

    def say(part: str, alive: bool, text: str) -> None:
        nonlocal good
        good = good and alive
        print(f"{part:10} {'alive' if alive else 'DOWN':6} {text}")

    url = settings.api.public_url + "/identity/v3"
    try:
        context = ssl.create_default_context(cafile=settings.api.tls_cert) if settings.api.tls_cert else None
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            say("api", answer.status == 200, url)
    except (urllib.error.URLError, OSError) as error:
        say("api", False, f"{url}: {error}")
    try:
        with Database(settings.database.url).read() as session:
            hosts = session.scalars(select(Host).order_by(Host.name)).all()
        say("database", True, settings.database.url.split("@")[-1])
    except DBAPIError as error:
        say("database", False, str(error.orig))
        hosts = []
    socket_path = f"{settings.kumo.run_dir}/worker.sock"
    say("worker", _answers(socket_path), socket_path)
    port = settings.console.listen.rpartition(":")[2]
    say("console", _is_listened_on(int(port)), settings.console.listen)
    for host in hosts:
        text = f"generation {host.observed_generation} of {host.generation}" + (f": {host.error}" if host.error else "")
        say(f"host {host.name}", host.failures == 0 and host.observed_at is not None, text)
    return 0 if good else 1


def _is_listened_on(port: int) -> bool:
    """By the kernel's tables: a connection would wake the process, which rests (console/server.py)."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                    return True
    return False


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.sendto(b"", path)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True
