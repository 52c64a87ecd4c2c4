"""The console proxy's process: it waits for the first connection with next to nothing in memory.

Most clouds have no console open most of the time. So database, TLS and websockify are loaded when somebody comes, and
a process that had nothing to do for REST_S seconds starts itself anew, its listening socket handed on: nobody who
connects meanwhile is turned away. Next room: `proxy.py`.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

HANDED_ON = "KUMO_CONSOLE_SOCKET"
REST_S = 300.0
LOOK_S = 5.0


def serve(settings, rest_s: float = REST_S) -> int:
    """Serve until a signal ends it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    listener = open_listener(settings)
    select.select([listener], [], [])
    from .proxy import Proxy

    proxy = Proxy(settings, listener)
    while proxy.is_busy() or time.monotonic() < proxy.busy_at + rest_s:
        if select.select([listener], [], [], LOOK_S)[0]:
            proxy.handle_request()
    os.set_inheritable(listener.fileno(), True)
    os.environ[HANDED_ON] = str(listener.fileno())
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def open_listener(settings) -> socket.socket:
    """The socket of `[console] listen`, which an earlier self may have left."""
    given = os.environ.pop(HANDED_ON, None)
    if given is not None:
        listener = socket.socket(fileno=int(given))
    else:
        host, _, port = settings.console.listen.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, int(port)), family=family, backlog=128)
    listener.setblocking(False)  # one who connected and left again does not hold up who comes next
    return listener
