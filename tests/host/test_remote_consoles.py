"""Consoles of real guests through the real proxy: RFB and a login by WebSocket, and noVNC's page in a real Chromium."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from browser import STATUS, Browser, compare_canvas, count_pixels
from console_client import Client, greet
from libvirt_lab import ROOT, Host, virsh, wait_for

from web import console_tokens
from web.errors import Conflict
from web.models import Base, Database, Server
from web.models import Host as HostRow
from web.settings import build_settings

NOVNC = ROOT / ".cache/novnc"


@pytest.fixture(scope="module")
def novnc() -> Path:
    """noVNC's files, as the role installs them."""
    subprocess.run([ROOT / "roles/controller/files/install_novnc.sh", NOVNC], check=True)
    return NOVNC


@pytest.fixture
def host(libvirt_host, guest_image, state_dir, bridge):
    return Host(state_dir, bridge)


@pytest.fixture
def proxy(host, novnc):
    """`kumo console` as a process, and the rows that it reads, played by `see`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = host.state_dir / "proxy"
    folder.mkdir()
    config = {"console": {"listen": f"127.0.0.1:{port}", "novnc_dir": novnc},
              "database": {"url": f"sqlite:///{folder}/kumo.db"},
              "kumo": {"run_dir": folder, "state_dir": folder, "log_dir": ""}}  # fmt: skip
    lines = [line for name, options in config.items()
             for line in (f"[{name}]", *(f"{key} = {value}" for key, value in options.items()))]  # fmt: skip
    (folder / "kumo.conf").write_text("\n".join([*lines, ""]))
    settings = build_settings({(name, key): str(value) for name, one in config.items() for key, value in one.items()})
    database = Database(settings.database.url)
    Base.metadata.create_all(database.engine)
    with database.write.begin() as session:
        session.add(HostRow(id="h1", name="h1", connection={"ansible_connection": "local"}))
        session.add(
            Server(
                id=host.id, host_id="h1", project_id="p1", user_id="u1", reservation_id="r-1", name="web1",
                hostname="web1", flavor_id="1", flavor={},
            )
        )  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "web.cli", "--config", folder / "kumo.conf", "console"],
            cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

    def see(result: dict) -> dict:
        """Store what a run saw, as the worker does."""
        seen = host.seen(result)
        with database.write.begin() as session:
            row = session.query(Server).one()
            row.observed_state, row.observed_consoles = seen["state"], {"host": "h1", **(seen["consoles"] or {})}
        return seen["consoles"]

    def make(kind: str = "novnc") -> str:
        with database.write.begin() as session:
            row = session.query(Server).one()
            return console_tokens.make_token(session, settings, row, kind, "u1", "req-1")

    def connect(token: str, origin: str | None = f"http://127.0.0.1:{port}") -> Client:
        return Client(port, f"/websockify?token={token}", origin)

    def change(**columns) -> None:
        with database.write.begin() as session:
            for name, value in columns.items():
                setattr(session.query(Server).one(), name, value)

    def is_open() -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    wait_for("the proxy listens", is_open, 30)
    yield SimpleNamespace(
        see=see, make=make, connect=connect, change=change, settings=settings, port=port, pid=process.pid,
        log=lambda: (folder / "log").read_text(),
    )  # fmt: skip
    process.terminate()
    assert process.wait(10) == 0
    database.engine.dispose()


def test_a_screen_and_a_serial_port(host, proxy):
    """RFB's handshake with the guest itself; its login on the serial port, and in the log as ever; what is refused."""
    ports = proxy.see(host.call())
    assert ports == {"vnc": int(virsh("vncdisplay", host.name).stdout.split(":")[-1]) + 5900, "serial": ports["serial"]}
    assert ports["serial"] not in (None, ports["vnc"])
    listening = subprocess.check_output(["ss", "-Hltn"], text=True)
    assert f"127.0.0.1:{ports['serial']} " in listening

    token = proxy.make()
    screen = proxy.connect(token)
    assert screen.status == 101, screen.head
    width, height, name = greet(screen)
    assert (width, height) > (600, 300)
    assert name == f"QEMU ({host.name})"
    assert proxy.connect(token).status == 403
    token = proxy.make()
    assert proxy.connect(token, "http://evil.example").status == 403
    assert proxy.connect(token, None).status == 101, "no browser, so nobody's page"

    serial = proxy.connect(proxy.make("serial"), None)
    assert serial.status == 101, serial.head
    host.wait_for_login()
    serial.send(b"\n")
    serial.read_until(b"login: ")
    serial.send(b"cirros\n")
    serial.read_until(b"assword: ")
    serial.send(b"gocubsgo\n")
    serial.read_until(b"$ ")
    serial.send(b"echo is $((40 + 2))\n")
    assert b"is 42" in serial.read_until(b"is 42")
    wait_for("the log has it, too", lambda: "is 42" in host.console(), 10)
    serial.close()
    assert proxy.settings.console.token_ttl_s <= 600
    assert all(word not in proxy.log() for word in (token, "token="))


def test_consoles_follow_their_guest(host, proxy):
    """Ended with a reboot, whose ports are others; refused while it is off; of a log that goes on."""
    before = proxy.see(host.call())
    token, early = proxy.make(), proxy.make("serial")
    serial = proxy.connect(proxy.make("serial"), None)
    assert serial.status == 101
    after = proxy.see(host.call(reboot={"wanted": 1, "type": "HARD"}))
    assert after["serial"] != before["serial"]
    assert serial.receive()[0] in (2, 8)
    assert proxy.connect(early, None).status == 403
    host.wait_for_login(1)
    screen = proxy.connect(proxy.make())
    greet(screen)
    assert proxy.see(host.settle(power="off")) is None
    screen.socket.settimeout(20)
    assert screen.receive()[0] == 8
    with pytest.raises(Conflict):
        proxy.make()
    assert proxy.connect(token).status == 403


def test_a_port_that_another_guest_has_got(host, proxy, tmp_path):
    """The rows still say that it is the first one's: it is not shown, nor is its serial port."""
    ports = proxy.see(host.call())
    tokens = [proxy.make(), proxy.make("serial")]
    os.kill(host.qemu_pid(), signal.SIGKILL)
    wait_for("libvirt sees that it is gone", lambda: host.state() == "shut off")
    name = f"kumo-test-{os.getpid()}-other"
    graphics = f"<graphics type='vnc' port='{ports['vnc']}' listen='127.0.0.1'/>"
    other = tmp_path / "other.xml"
    other.write_text(
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><os><type arch='x86_64'>hvm</type></os>"
        f"<devices>{graphics}</devices></domain>"
    )
    assert virsh("create", str(other)).returncode == 0
    try:
        assert [proxy.connect(token).status for token in tokens] == [502, 502]
    finally:
        virsh("destroy", name)


def test_a_guest_defined_before_there_were_serial_ports(host, proxy):
    """Its screen is as ever; its serial port comes with its next start; the run in between changes what is stored."""
    host.call(power="off")
    text = virsh("dumpxml", "--inactive", host.name).stdout
    tree = ElementTree.fromstring(text)
    for kind in ("serial", "console"):
        device = tree.find(f"devices/{kind}")
        device.set("type", "pty")
        for name in ("source", "protocol"):
            device.remove(device.find(name))
    old = host.state_dir / "old.xml"
    old.write_bytes(ElementTree.tostring(tree))
    assert virsh("define", str(old)).returncode == 0
    assert virsh("start", host.name).returncode == 0
    host.server["power"] = "on"
    result = host.call()
    assert "redefine" in [action["verb"] for action in result["actions"]]
    ports = proxy.see(host.call())
    assert ports["serial"] is None
    greet(proxy.connect(proxy.make()))
    with pytest.raises(Conflict, match="reboot it hard"):
        proxy.make("serial")
    host.wait_for_login()
    assert proxy.see(host.call(reboot={"wanted": 1, "type": "HARD"}))["serial"]


def test_novnc_in_a_browser(host, proxy):
    """The page shows what the guest shows: the same picture as libvirt's own, with a login on it; keys arrive."""
    proxy.see(host.call())
    host.wait_for_login()
    with Browser() as browser:
        browser.open(console_tokens.build_url(proxy.settings, "novnc", proxy.make()))
        browser.wait_for(f"{STATUS}.includes('Connected')")
        assert host.id in browser.ask(STATUS)
        wait_for("the picture has text", lambda: count_pixels(browser)[1] > 1000, 30)
        total, lit = count_pixels(browser)
        assert lit < total / 2
        picture = host.state_dir / "screen"

        def is_same() -> bool:
            assert virsh("screenshot", host.name, str(picture)).returncode == 0
            size, different = compare_canvas(browser, picture.read_bytes())
            return size[0] * size[1] == total and different < total / 500  # a cursor that blinks

        wait_for("the page shows what the guest shows", is_same, 20, every=1)
        browser.ask("document.querySelector('#screen canvas').focus()")
        browser.press("cirros\n")
        before = picture.read_bytes()
        wait_for("what was typed is shown", lambda: compare_canvas(browser, before)[1] > 100, 20)
        wait_for("the page shows what the guest shows", is_same, 20, every=1)
        again = browser.ask("document.location.href")
        browser.open("about:blank")
        browser.open(again)
        browser.wait_for(f"{STATUS}.includes('wrong')")


def test_memory_at_rest_and_at_work(host, proxy):
    """Proportional memory: next to nothing before anybody came; a console costs little more than the first one."""
    rest = read_pss_mb(proxy.pid)
    proxy.see(host.call())
    screen = proxy.connect(proxy.make())
    greet(screen)
    work = read_pss_mb(proxy.pid)
    print(f"PSS of kumo console: {rest:.0f} MB at rest, {work:.0f} MB with a console")
    assert rest < 20
    assert work < 70


def read_pss_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1]) / 1024
