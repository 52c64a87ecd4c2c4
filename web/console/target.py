"""The way to a guest's console: a connected socket, on this machine directly, to another by ssh; and whose it is.

Ports are used again: a guest that has ended may leave its port to another's before anybody has seen it. So once a
connection stands, the screen on the same host is asked for its guest's name, which QEMU tells in RFB's ServerInit:
what was connected before that can only be the same QEMU, or one that has ended. Source: RFC 6143, section 7.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time

from ..ssh_options import build_forward

ADDRESS = "127.0.0.1"
CONNECT_S = 15.0  # an ssh connection that has to be made first
ANSWER_S = 10.0
VERSION = b"RFB 003.008\n"
NO_AUTHENTICATION = 1
SHARED = b"\x01"  # nobody else is thrown out


class Unreachable(Exception):
    """The guest's console cannot be reached, or is another guest's: the message says why."""


def open_port(settings, host, port: int) -> socket.socket:
    """A socket that is joined with a port of 127.0.0.1 on the host; Unreachable where it cannot be."""
    if host.connection.get("ansible_connection") == "local":
        try:
            return socket.create_connection((ADDRESS, port), CONNECT_S)
        except OSError as error:
            raise Unreachable(f"port {port} of host {host.name}: {error.strerror or error}") from None
    ours, theirs = socket.socketpair()
    try:
        # Its complaints go to this service's log. It ends with its end of the pair.
        words = build_forward(settings, host.connection, ADDRESS, port)
        process = subprocess.Popen(words, stdin=theirs, stdout=theirs, start_new_session=True)
    except OSError as error:
        ours.close()
        raise Unreachable(f"ssh cannot be started: {error.strerror}") from None
    finally:
        theirs.close()
    threading.Thread(target=process.wait, daemon=True).start()
    ours.settimeout(CONNECT_S)
    return ours


def wait_for_words(connection: socket.socket) -> None:
    """Until the other side has said something: it is connected, which ssh does not tell; Unreachable without."""
    try:
        if connection.recv(1, socket.MSG_PEEK):
            return
    except OSError as error:
        raise Unreachable(f"the guest's screen does not answer: {error}") from None
    raise Unreachable("the guest's screen has closed the connection")


def check_guest(settings, host, vnc_port: int | None, server_id: str) -> None:
    """Unreachable unless the screen at that port of the host is the server's."""
    if vnc_port is None:
        raise Unreachable(f"host {host.name} has told of no screen of server {server_id}")
    with contextlib.closing(open_port(settings, host, vnc_port)) as connection:
        try:
            name = read_name(connection)
        except (OSError, ValueError) as error:
            reason = f"port {vnc_port} of host {host.name} does not answer as a screen: {error}"
            raise Unreachable(reason) from None
    if server_id not in name:
        raise Unreachable(f"port {vnc_port} of host {host.name} is no longer server {server_id}'s")


def read_name(connection: socket.socket) -> str:
    """The name that a VNC server gives its screen; ValueError where it is none, or wants a password."""
    until = time.monotonic() + ANSWER_S

    def read(count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            connection.settimeout(max(0.01, until - time.monotonic()))
            part = connection.recv(count - len(taken))
            if not part:
                raise ValueError("the connection was closed")
            taken += part
        return taken

    if not read(12).startswith(b"RFB 003."):
        raise ValueError("it does not speak RFB")
    connection.sendall(VERSION)
    if NO_AUTHENTICATION not in read(read(1)[0]):
        raise ValueError("it wants a password")
    connection.sendall(bytes([NO_AUTHENTICATION]))
    if read(4) != bytes(4):
        raise ValueError("it lets nobody in")
    connection.sendall(SHARED)
    head = read(24)
    return read(min(int.from_bytes(head[20:], "big"), 1024)).decode("utf-8", "replace")
