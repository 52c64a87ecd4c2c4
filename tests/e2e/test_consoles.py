"""`openstack console url show` of the unmodified client: its page in a real Chromium, its serial port by WebSocket."""

from __future__ import annotations

import subprocess
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import STATUS, Browser, compare_canvas, count_pixels
from client import ask, openstack, wait_for
from console_client import Client


@pytest.fixture(scope="module")
def server():
    """A server of this module's own, with its login on the console."""
    name = f"console-{uuid.uuid4().hex[:6]}"
    made = ask(f"server create --image kumo-guest --flavor m1.micro --network private --wait {name}")
    wait_for("a login on its console", lambda: "login:" in openstack(f"console log show {name}"), 180, 2)
    yield made["id"]
    subprocess.run(
        ["/opt/kumo/client-venv/bin/openstack", "--os-cloud", "kumo", "server", "delete", "--wait", name],
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    with Browser() as one:
        yield one


def open_websocket(url: str, origin: str | None = None) -> Client:
    parts = urlsplit(url)
    return Client(parts.port, f"{parts.path}?{parts.query}", origin, parts.hostname)


def show_url(words: str) -> str:
    return ask(f"console url show {words}")["url"]


def take_picture(server: str, path: Path) -> bytes:
    """The guest's screen, by libvirt's own client."""
    subprocess.run(
        ["virsh", "-q", "-c", "qemu:///system", "screenshot", f"kumo-{server}", str(path)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return path.read_bytes()


def test_the_page_shows_the_login(server, browser, tmp_path):
    """The same picture as libvirt's own, with text on it; keys arrive; the page opened again has no console."""
    console = ask(f"console url show --novnc {server}")
    assert (console["protocol"], console["type"]) == ("vnc", "novnc")
    browser.open(console["url"])
    browser.wait_for(f"{STATUS}.includes('Connected')")
    assert server in browser.ask(STATUS)
    wait_for("the picture has text", lambda: count_pixels(browser)[1] > 1000, 60)
    total, lit = count_pixels(browser)
    assert lit < total / 2
    kept = {}

    def is_same() -> bool:
        kept["picture"] = take_picture(server, tmp_path / "screen")
        size, different = compare_canvas(browser, kept["picture"])
        return size[0] * size[1] == total and different < total / 500  # a cursor that blinks

    wait_for("the page shows what the guest shows", is_same, 30, 1)
    browser.ask("document.querySelector('#screen canvas').focus()")
    browser.press("cirros\n")
    wait_for("what was typed is shown", lambda: compare_canvas(browser, kept["picture"])[1] > 100, 30)
    wait_for("the page shows what the guest shows", is_same, 30, 1)
    browser.open("about:blank")
    browser.open(console["url"])
    browser.wait_for(f"{STATUS}.includes('wrong')")


def test_the_serial_port(server):
    """A login by a WebSocket client; no page of anybody else's."""
    assert open_websocket(show_url(f"--serial {server}"), "http://evil.example").status == 403
    console = open_websocket(show_url(f"--serial {server}"))
    assert console.status == 101, console.head
    console.send(b"\n")
    console.read_until(b"login: ")
    console.send(b"cirros\n")
    console.read_until(b"assword: ")
    console.send(b"gocubsgo\n")
    console.read_until(b"$ ")
    console.send(b"echo is $((40 + 2))\n")
    console.read_until(b"is 42")
    wait_for("the log has it, too", lambda: "is 42" in openstack(f"console log show {server}"), 30, 2)
    console.close()


def test_a_console_ends_with_its_guest(server):
    """Stopped: what is open ends, what was asked for before leads nowhere, and there is no new one; then there is."""
    url = show_url(f"--serial {server}")
    console = open_websocket(show_url(f"--serial {server}"))
    assert console.status == 101
    openstack(f"server stop {server}")
    wait_for("it is off", lambda: ask(f"server show {server}")["status"] == "SHUTOFF", 120, 1)
    console.socket.settimeout(30)
    until = time.monotonic() + 30
    while console.receive()[0] != 8:
        assert time.monotonic() < until
    assert open_websocket(url).status == 403
    assert "409" in openstack(f"console url show --novnc {server}", code=1)
    openstack(f"server start {server}")
    wait_for("it runs", lambda: ask(f"server show {server}")["status"] == "ACTIVE", 120, 1)
    assert show_url(f"--novnc {server}").startswith("http")


def test_nothing_was_logged(server):
    """The proxy's log has the consoles that were open, and no token."""
    path = Path("/var/log/kumo/kumo-console.out")
    if not path.exists():
        log = subprocess.check_output(["journalctl", "-u", "kumo-console", "--no-pager"], text=True)
    else:
        log = path.read_text()
    assert server in log
    assert "token=" not in log
