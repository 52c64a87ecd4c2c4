"""tgtd, the iSCSI target daemon, over its control socket: a secret never becomes an argument of a process.

`tgtadm` takes passwords in its argv, which every account may read; what it then sends is small: a request of
fixed size and ``name=value`` texts, an answer with an error number and a text (usr/tgtadm.h of tgt 1.0.85, as
seen with strace). Only targets whose name begins with IQN are Kumo's. Next room: ``exports.py``.
"""

from __future__ import annotations

import re
import socket
import struct

from .errors import KumoError

IQN = "iqn.2026-11.cloud.kumo:"
SOCKET = "/var/run/tgtd/socket.{}"
DEADLINE_S = 10
LUN = 1
# mode, op, lld[64], len, tid, sid, lun, cid, host_no, device_type, ac_dir, pack, force
REQUEST = struct.Struct("=II64sIiQQIIIIII")
ANSWER = struct.Struct("=II")
MODES = {"target": 1, "device": 2, "connection": 6, "account": 7}
OPS = {"new": 0, "delete": 1, "show": 2, "bind": 3, "unbind": 4, "update": 5}
NO_LUN = 0xFFFFFFFFFFFFFFFF
# usr/tgtadm_error.h; what is gone already, or there already, is no error of a repeated step.
ERRORS = {
    1: "unknown error", 2: "out of memory", 3: "no such driver", 4: "no such target", 5: "no such logical unit",
    6: "no such session", 7: "no such connection", 8: "no binding", 9: "the target exists", 10: "the binding exists",
    11: "the logical unit exists", 12: "the address is bound", 13: "the address is not bound", 14: "the account exists",
    15: "no such account", 16: "too many accounts", 17: "invalid request", 18: "an outgoing account exists",
    19: "the target is in use", 20: "the logical unit is in use", 21: "the driver is in use",
    22: "unsupported operation", 23: "unknown parameter", 24: "removal is prevented",
}  # fmt: skip


def build_request(mode: str, op: str, *, tid: int = -1, lun: int | None = None, sid: int = 0, cid: int = 0, force=False,
                  **texts: str) -> bytes:  # fmt: skip
    """A request as tgtd reads it; KumoError where a text would be read as more than one."""
    for name, text in texts.items():
        if not re.fullmatch(r"[^,=\x00-\x1f]*", text):
            raise KumoError(f"tgtd: {name} has a character that it would misread")
    joined = ",".join(f"{name}={text}" for name, text in texts.items()).encode()
    tail = joined + b"\x00" if joined else b""
    number = NO_LUN if lun is None else lun
    head = (MODES[mode], OPS[op], b"iscsi", REQUEST.size + len(tail), tid, sid, number, cid, 0, 0, 0, 0, int(force))
    return REQUEST.pack(*head) + tail


def ask(port: int, *words, **more) -> str:
    """tgtd's answer to one request; KumoError with its reason."""
    request = build_request(*words, **more)
    sentence = f"tgtd: {words[0]} {words[1]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(DEADLINE_S)
            connection.connect(SOCKET.format(port))
            connection.sendall(request)
            error, length = ANSWER.unpack(_receive(connection, ANSWER.size))
            text = _receive(connection, length - ANSWER.size) if length > ANSWER.size else b""
    except TimeoutError:
        raise KumoError(f"{sentence}: no answer within {DEADLINE_S} s") from None
    except OSError as problem:
        raise KumoError(f"{sentence}: tgtd cannot be reached ({problem.strerror or problem}); is it running?") from None
    if error:
        raise KumoError(f"{sentence}: {ERRORS.get(error, f'error {error}')}")
    return text.rstrip(b"\x00").decode(errors="replace")


def _receive(connection: socket.socket, count: int) -> bytes:
    parts = []
    while count > 0:
        part = connection.recv(min(count, 65536))
        if not part:
            raise KumoError("tgtd closed the connection in the middle of its answer")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def parse_targets(text: str) -> dict[int, dict]:
    """{tid: {iqn, path, size, read_only, accounts, acl, connections: [(sid, cid)]}} of `target show`'s text."""
    targets: dict[int, dict] = {}
    current: dict = {}
    lun = sid = None
    for line in text.splitlines():
        words = line.strip()
        if found := re.fullmatch(r"Target (\d+): (.*)", words):
            current = {"iqn": found[2], "path": None, "size": None, "read_only": False, "accounts": [], "acl": [],
                       "connections": []}  # fmt: skip
            targets[int(found[1])] = current
            part = lun = sid = None
        elif words in ("System information:", "I_T nexus information:", "LUN information:", "Account information:",
                       "ACL information:"):  # fmt: skip
            part = words.partition(" ")[0]
        elif found := re.fullmatch(r"I_T nexus: (\d+)", words):
            sid = int(found[1])
        elif found := re.fullmatch(r"Connection: (\d+)", words):
            current["connections"].append((sid, int(found[1])))
        elif found := re.fullmatch(r"LUN: (\d+)", words):
            lun = int(found[1])
        elif lun == LUN and words.startswith("Backing store path: "):
            current["path"] = words.partition(": ")[2]
        elif lun == LUN and words.startswith("Readonly: "):
            current["read_only"] = words.endswith("Yes")
        elif lun == LUN and (found := re.fullmatch(r"Size: (\d+) MB, Block size: \d+", words)):
            current["size"] = int(found[1])  # millions of bytes, as tgtd rounds it
        elif words and part == "Account":
            current["accounts"].append(words.partition(" ")[0])
        elif words and part == "ACL":
            current["acl"].append(words)
    return targets


def read_targets(port: int) -> dict[int, dict]:
    """Every target of this tgtd, those of others included (their numbers are taken)."""
    return parse_targets(ask(port, "target", "show"))


def apply_removal(port: int, tid: int, target: dict) -> None:
    """Close the door, cut the sessions, take a target and its accounts away."""
    for address in target["acl"]:
        ask(port, "target", "unbind", tid=tid, **{"initiator-address": address})
    for sid, cid in target["connections"]:
        try:
            ask(port, "connection", "delete", tid=tid, sid=sid, cid=cid)
        except KumoError:
            continue  # it ended by itself; the target's removal below has the last word
    ask(port, "target", "delete", tid=tid, force=True)
    for user in target["accounts"]:
        apply_forget_account(port, user)


def apply_forget_account(port: int, user: str) -> None:
    """Take an account away; no error where there is none."""
    try:
        ask(port, "account", "delete", user=user)
    except KumoError as error:
        if "no such account" not in str(error):
            raise
