"""HTTP and WebSockets of the console proxy, by websockify: noVNC's files, and one thread for each console.

A request with a token becomes a session (`admission.py`), and bytes go both ways until one side ends. What a client
does not take is not read from its guest, so that neither fills this process's memory. No line of a log and no header
has a token. Next room: `server.py`, whose process this is.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import sys
import threading
import time
from http.server import HTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn
from urllib.parse import parse_qs, urlsplit

# websockify unmasks by numpy, which costs 20 MB of memory; what clients send is a few bytes for each key.
sys.modules.setdefault("numpy", None)
import warnings  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says that it does without
    from websockify.websockifyserver import CompatibleWebSocket, WebSockifyRequestHandler

from ..models import Database  # noqa: E402
from .admission import Admission, Refused, build_origins  # noqa: E402
from .sessions import Session  # noqa: E402

LOG = logging.getLogger("kumo.console")
BUFFER = 65536
MOST_BYTES = 1 << 20  # of one message of a client's: a paste
MOST_CONNECTIONS = 400  # files and consoles: select() takes descriptors below 1024
STALLED_S = 30.0  # a side that takes nothing for so long is cut off
LAST_WORDS_S = 3.0
IDLE_S = 30  # before a client is asked whether it is there
CLOSED, REFUSED = 1000, 1008  # RFC 6455, 7.4.1
FILES = {"": "vnc_lite.html", "/": "vnc_lite.html"}


class WebSocket(CompatibleWebSocket):
    """websockify's, whose messages have an end."""

    def select_subprotocol(self, protocols):
        return next((name for name in protocols if name.strip() == "binary"), "")

    def recvmsg(self):
        if len(self._recv_buffer) + len(self._partial_msg) > MOST_BYTES:
            raise OSError("the client's message is too long")
        return super().recvmsg()


class Handler(WebSockifyRequestHandler):
    """One connection: files by GET, or a console."""

    SocketClass = WebSocket
    server_version, sys_version = "Kumo", ""
    timeout = STALLED_S
    session: Session

    # Files.

    def do_GET(self):  # noqa: N802 (http.server's name)
        self._give_file(super().do_GET)

    def do_HEAD(self):  # noqa: N802
        self._give_file(super().do_HEAD)

    def _give_file(self, give) -> None:
        """A file of noVNC's, never a folder, nor what a link leads out to."""
        self.directory = str(self.server.folder)
        path = urlsplit(self.path).path
        self.path = FILES.get(path, path)
        found = Path(self.translate_path(self.path)).resolve()
        if not found.is_file() or not found.is_relative_to(self.server.folder):
            self.send_error(404)
            return
        give()

    def end_headers(self):
        # The page's own address has a token: it goes to nobody, and the page is kept nowhere, nor shown in a
        # stranger's frame.
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        super().end_headers()

    # Consoles.

    def handle_upgrade(self):
        token = (parse_qs(urlsplit(self.path).query).get("token") or [""])[0]
        self.path = "/"
        self.close_connection = True
        try:
            self.session = self.server.admission.open(token, self.headers.get("Origin"), self.client_address[0])
        except Refused as refusal:
            LOG.info("%s: refused: %s", self.client_address[0], refusal.sentence)
            self.send_response(refusal.status, refusal.sentence)  # nothing of a page: who asked waits for frames
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        about = self.session.target
        LOG.info(
            "%s: the %s console of server %s is open, asked for by user %s in %s", self.client_address[0], about.kind,
            about.server_id, about.user_id, about.request_id,
        )  # fmt: skip
        try:
            super().handle_upgrade()
        finally:
            self.server.admission.close(self.session)
            seconds = time.monotonic() - self.session.started
            LOG.info("%s: the %s console of server %s ended after %.0f s", self.client_address[0], about.kind,
                     about.server_id, seconds)  # fmt: skip

    def new_websocket_client(self):
        """Bytes both ways, until a side ends."""
        guest = self.session.connection
        guest.settimeout(STALLED_S)
        with contextlib.suppress(OSError):
            self._relay(guest)

    def _relay(self, guest: socket.socket) -> None:
        to_guest, full = b"", False  # what the guest has not taken yet; the client has not taken all
        while True:
            ins = [side for side, wanted in ((self.request, len(to_guest) < BUFFER), (guest, not full)) if wanted]
            outs = [side for side, wanted in ((self.request, full), (guest, to_guest)) if wanted]
            readable, writable, _ = select.select(ins, outs, [], IDLE_S)
            if not readable and not writable:
                if outs:
                    return  # somebody is stuck
                self.send_ping()
            if self.request in writable:
                full = self.send_frames()
            if self.request in readable:
                parts, closed = self.recv_frames()
                to_guest += b"".join(parts)
                if closed:
                    finish_typing(guest, to_guest)
                    raise self.CClose(closed["code"], closed["reason"])
            if to_guest:
                to_guest = to_guest[guest.send(to_guest) :]
            if guest in readable:
                data = guest.recv(BUFFER)
                if not data:
                    reason = self.session.reason
                    raise self.CClose(REFUSED if reason else CLOSED, reason or "The guest has closed its console")
                full = self.send_frames([data])

    # Said to nobody: requests' lines have tokens.

    def log_message(self, format, *args):
        pass


class Proxy(ThreadingMixIn, HTTPServer):
    """The server: a thread for each connection, so many at most."""

    daemon_threads = True
    # What websockify's handlers look at.
    token_plugin = auth_plugin = None
    file_only = True

    def __init__(self, settings, listener: socket.socket):
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.folder = Path(settings.console.novnc_dir).resolve()
        self.logger = LOG
        self.admission = Admission(settings, Database(settings.database.url))
        pages = sorted(f"{scheme}://{host}:{port}" for scheme, host, port in build_origins(settings))
        self.headers = {
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": f"frame-ancestors 'self' {' '.join(pages)}",
        }
        self.tls = build_tls(settings)
        self._connections, self._lock = 0, threading.Lock()
        self.busy_at = time.monotonic()

    def is_busy(self) -> bool:
        """Whether anybody is connected."""
        return self._connections > 0

    def process_request(self, request, client_address):
        self._count(1)
        if self._connections <= MOST_CONNECTIONS:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)
            self._count(-1)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        with self._lock:
            self._connections += more
            self.busy_at = time.monotonic()

    def finish_request(self, request, client_address):
        request.settimeout(STALLED_S)
        request.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)  # in this connection's own thread
        try:
            super().finish_request(request, client_address)
        finally:
            if self.tls is not None:
                request.close()

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # those are clients that went away
            LOG.error("%s: %s: %s", client_address[0], type(error).__name__, error, exc_info=error)


def finish_typing(guest: socket.socket, last: bytes) -> None:
    """Let the guest read what was typed before its client left: QEMU forgets it on a hang-up, not on an end of file."""
    until = time.monotonic() + LAST_WORDS_S
    guest.settimeout(LAST_WORDS_S)
    guest.sendall(last)
    guest.shutdown(socket.SHUT_WR)
    while time.monotonic() < until and guest.recv(BUFFER):
        pass


def build_tls(settings) -> ssl.SSLContext | None:
    """The API's certificate; None where the API has none."""
    if not settings.api.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.api.tls_cert, settings.api.tls_key)
    return context
