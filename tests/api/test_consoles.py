"""The console proxy over real sockets: a screen and a serial port played by threads, clients by websockify's own code.

What the API answers is in test_compute_consoles.py; real guests are in tests/host/test_remote_consoles.py.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import console_client
import pytest
from compute_cloud import add_image, boot
from console_client import greet
from sqlalchemy import update

from web import console_tokens
from web.console import target
from web.console.admission import Admission, Refused, build_origins, parse_origin
from web.console.proxy import Proxy
from web.models import Host, Server, now
from web.settings import build_settings
from web.ssh_options import build_forward

PAGE = "http://127.0.0.1:6080"


class Screen:
    """A VNC server without a password (RFC 6143) that names a guest; then it gives back what it gets, in capitals."""

    def __init__(self, guest: str):
        self.name = f"QEMU (kumo-{guest})".encode()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, one):
        with contextlib.suppress(OSError):
            self._talk(one)

    def _talk(self, one):
        one.sendall(b"RFB 003.008\n")
        one.recv(12)
        one.sendall(b"\x01\x01")
        one.recv(1)
        one.sendall(bytes(4))
        one.recv(1)
        one.sendall(struct.pack(">HH16xI", 8, 8, len(self.name)) + self.name)
        while data := one.recv(100):
            one.sendall(data.upper())
        one.close()


class Serial:
    """A serial port as QEMU has it: one client at a time."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            one, _ = self.listener.accept()
            with contextlib.suppress(OSError):
                one.sendall(b"login: ")
                while data := one.recv(100):
                    one.sendall(data.upper())
            one.close()


class Client(console_client.Client):
    """noVNC's page with a token, at the address that pages are allowed at."""

    def __init__(self, port: int, token: str, origin: str | None = PAGE, path: str = "/websockify"):
        super().__init__(port, f"{path}?token={token}", origin)


@pytest.fixture
def server(cloud, monkeypatch):
    """A guest whose ports are ours."""
    guest = boot(cloud, add_image(cloud))
    screen, serial = Screen(guest), Serial()
    with cloud.database.write.begin() as session:
        host = session.query(Host).one()
        host.connection = {"ansible_connection": "local"}
        ports = {"host": host.id, "vnc": screen.port, "serial": serial.port}
        session.execute(update(Server).values(observed_consoles=ports))
    return SimpleNamespace(id=guest, screen=screen, serial=serial)


@pytest.fixture
def proxy(cloud, tmp_path):
    folder = tmp_path / "novnc"
    folder.mkdir()
    (folder / "vnc_lite.html").write_text("<title>noVNC</title>")
    (folder / "core").mkdir()
    (folder / "core/rfb.js").write_text("export default 1;")
    (folder / "out").symlink_to("/etc/hostname")
    cloud.settings.console.novnc_dir = str(folder)
    listener = socket.create_server(("127.0.0.1", 0))
    one = Proxy(cloud.settings, listener)
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield SimpleNamespace(port=listener.getsockname()[1], sessions=one.admission.sessions)
    one.shutdown()
    listener.close()
    one.admission.database.engine.dispose()


def make(cloud, server, kind="novnc", user="u1") -> str:
    with cloud.database.write.begin() as session:
        row = session.query(Server).filter(Server.id == server.id).one()
        return console_tokens.make_token(session, cloud.settings, row, kind, user, "req-1")


def wait_for(check):
    until = time.monotonic() + 10
    while not check():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_screen_once(cloud, server, proxy, caplog):
    caplog.set_level(logging.DEBUG)
    token = make(cloud, server)
    client = Client(proxy.port, token)
    assert client.status == 101
    assert greet(client) == (8, 8, f"QEMU (kumo-{server.id})")
    client.send(b"hello")
    assert client.read(5) == b"HELLO"
    assert Client(proxy.port, token).status == 403
    assert len(proxy.sessions) == 1
    client.socket.close()
    wait_for(lambda: not len(proxy.sessions))
    assert server.id in caplog.text
    assert token not in caplog.text


def test_a_serial_port_with_and_without_a_page(cloud, server, proxy):
    """A second client takes the port over: QEMU has one at a time."""
    first = Client(proxy.port, make(cloud, server, "serial"), path="/")
    assert first.read(7) == b"login: "
    first.send(b"x")
    assert first.read(1) == b"X"
    second = Client(proxy.port, make(cloud, server, "serial"), origin=None, path="/")
    opcode, reason = first.receive()
    assert opcode == 8
    assert b"opened anew" in reason
    assert second.read(7) == b"login: "


def test_a_program_that_is_no_browser_is_let_in_by_its_token(cloud, server, proxy):
    assert Client(proxy.port, make(cloud, server), origin=None).status == 101


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://127.0.0.1:6081",
        "https://127.0.0.1:6080",
        "null",
        "http://127.0.0.1:6080.evil",
    ],
)
def test_pages_of_others_are_refused(cloud, server, proxy, origin):
    """And the token is still there for who it was made for."""
    token = make(cloud, server)
    client = Client(proxy.port, token, origin=origin)
    assert client.status == 403
    assert token.encode() not in client.head
    assert Client(proxy.port, token, origin="HTTP://127.0.0.1:6080").status == 101


def test_expired_unknown_and_none(cloud, server, proxy):
    token = make(cloud, server)
    with cloud.database.write.begin() as session:
        session.query(console_tokens.ConsoleToken).update({"expires_at": now()})
    for given in (token, "nope", "", "%00"):
        assert Client(proxy.port, given).status == 403


def test_another_guest_has_got_the_port(cloud, server, proxy):
    """Nothing of its screen is shown, nor is anything told but that it cannot be reached."""
    with cloud.database.write.begin() as session:
        row = session.query(Server).one()
        row.observed_consoles = {**row.observed_consoles, "vnc": Screen("another").port}
    for kind in ("novnc", "serial"):
        client = Client(proxy.port, make(cloud, server, kind))
        assert client.status == 502
        assert b"another" not in client.head
    assert len(proxy.sessions) == 0


def test_a_guest_that_does_not_answer(cloud, server, proxy, monkeypatch):
    monkeypatch.setattr(target, "CONNECT_S", 0.2)
    monkeypatch.setattr(target, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, cloud.database.write.begin() as session:
        row = session.query(Server).one()
        row.observed_consoles = {**row.observed_consoles, "vnc": silent.getsockname()[1]}
        session.commit()
        assert Client(proxy.port, make(cloud, server)).status == 502
    assert Client(proxy.port, make(cloud, server)).status == 502


@pytest.mark.parametrize("columns", [{"deleted_at": now()}, {"observed_state": "shutoff"}, {"observed_consoles": {}}])
def test_open_consoles_end_with_their_guest(cloud, server, proxy, columns):
    client = Client(proxy.port, make(cloud, server))
    greet(client)
    with cloud.database.write.begin() as session:
        session.execute(update(Server).values(**columns))
    opcode, reason = client.receive()
    assert opcode == 8
    assert b"the guest has ended" in reason


def test_so_many_at_most(cloud, server, proxy):
    cloud.settings.console.sessions_per_user = 1
    cloud.settings.console.sessions = 2
    first = Client(proxy.port, make(cloud, server))
    assert first.status == 101
    kept = make(cloud, server)
    assert Client(proxy.port, kept).status == 429
    second = Client(proxy.port, make(cloud, server, user="u2"))
    assert second.status == 101
    assert Client(proxy.port, make(cloud, server, user="u3")).status == 429
    first.socket.close()
    wait_for(lambda: len(proxy.sessions) == 1)
    assert Client(proxy.port, kept).status == 101


def test_messages_have_an_end(cloud, server, proxy):
    """A client that announces a gigabyte and begins to send it is cut off."""
    client = Client(proxy.port, make(cloud, server))
    greet(client)
    client.socket.sendall(b"\x82\xff" + (1 << 30).to_bytes(8, "big") + bytes(4))
    with pytest.raises(OSError):
        client.socket.sendall(bytes(64 << 20))
    wait_for(lambda: not len(proxy.sessions))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/vnc_lite.html?path=websockify%3Ftoken%3Dsecret", 200), ("/", 200), ("/core/rfb.js", 200), ("/core/", 404),
        ("/core", 404), ("/nope", 404), ("/../../../../etc/hostname", 404), ("/%2e%2e/%2e%2e/etc/hostname", 404),
        ("/out", 404), ("//evil.example/%2F..", 404), ("//core", 404),
    ],
)  # fmt: skip
def test_files(proxy, path, status):
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == status
    assert answer.getheader("Location") is None
    assert answer.getheader("Referrer-Policy") == "no-referrer"
    assert "frame-ancestors 'self' http://127.0.0.1:6080" in answer.getheader("Content-Security-Policy")
    text = answer.read()
    assert b"secret" not in text
    if status == 200:
        assert text.startswith((b"<title>", b"export"))
    connection.request("POST", "/")
    assert connection.getresponse().status in (405, 501)


def test_origins():
    settings = build_settings({("console", "allowed_origins"): "https://cloud.example, nonsense, http://a:99999"})
    assert build_origins(settings) == {
        ("http", "127.0.0.1", 6080), ("http", "127.0.0.1", 6780), ("https", "cloud.example", 443),
    }  # fmt: skip
    assert parse_origin("https://cloud.example:443") == ("https", "cloud.example", 443)


def test_the_way_to_another_host():
    """By the control plane's own key, to hosts whose keys are known, to their 127.0.0.1 alone."""
    settings = build_settings({})
    connection = {"ansible_host": "192.0.2.1", "ansible_user": "kumo", "ansible_port": 2222,
                  "ansible_ssh_private_key_file": "/k"}  # fmt: skip
    words = build_forward(settings, connection, "127.0.0.1", 5900)
    assert words[-4:] == ["-W", "127.0.0.1:5900", "--", "192.0.2.1"]
    assert {"StrictHostKeyChecking=yes", "BatchMode=yes", "ControlPath=/run/kumo/ssh-%C"} <= set(words)
    assert words[words.index("-i") + 1] == "/k"
    assert words[words.index("-p") + 1] == "2222"


def test_a_host_that_ssh_does_not_reach(cloud, server, tmp_path, monkeypatch):
    """The token is used up, and who asked is told to ask again."""
    (tmp_path / "ssh").write_text("#!/bin/sh\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with cloud.database.write.begin() as session:
        session.query(Host).one().connection = {"ansible_host": "192.0.2.1"}
    admission = Admission(cloud.settings, cloud.database)
    with pytest.raises(Refused) as refused:
        admission.open(make(cloud, server), PAGE, "a")
    assert refused.value.status == 502
    assert len(admission.sessions) == 0


def test_the_process_rests_and_wakes(cloud, tmp_path, monkeypatch):
    """It starts itself anew once it has nothing to do, and who connects meanwhile is served."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "kumo.conf"
    config.write_text(f"[console]\nlisten = 127.0.0.1:{port}\nnovnc_dir = {tmp_path}\n[database]\nurl = sqlite://\n")
    code = (
        "import sys\nfrom web.console import server\nfrom web.settings import load_settings\nserver.LOOK_S = 0.1\n"
        "sys.exit(server.serve(load_settings(sys.argv[1]), 0.5))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, config], cwd=os.getcwd())

    def count_modules() -> bool:
        with open(f"/proc/{process.pid}/maps") as stream:
            return "_ssl" in stream.read()

    def ask() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/nope")
        return connection.getresponse().status

    try:
        for _ in range(2):
            wait_for(lambda: _is_open(port))
            assert ask() == 404
            assert count_modules()
            wait_for(lambda: not count_modules())
        assert ask() == 404
    finally:
        process.terminate()
        assert process.wait(10) == 0


def _is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
