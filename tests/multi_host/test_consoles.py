"""Consoles of guests on hosts that the proxy reaches over ssh: RFB with the guest itself, and a login."""

from __future__ import annotations

import socket
from urllib.parse import parse_qs, urlsplit

import pytest
from cloud_lab import wait_for
from console_client import Client, greet


def open_console(lab, server: str, kind: str) -> Client:
    """A WebSocket by the URL that the client was given, as noVNC's page or a program opens it."""
    parts = urlsplit(lab.ask(f"console url show --{kind} {server}")["url"])
    path = f"/{parse_qs(parts.query)['path'][0]}" if kind == "novnc" else f"/?{parts.query}"
    scheme = "https" if parts.scheme in ("wss", "https") else "http"
    return Client(parts.port, path, f"{scheme}://{parts.netloc}", parts.hostname)


@pytest.mark.ci
def test_a_screen_and_a_serial_port(lab, tenant):
    """On a host that is not the controller's: nothing but ssh leads there."""
    host = lab.groups["hypervisors"][0]
    server = tenant.create_server("console", host)
    screen = open_console(lab, server, "novnc")
    assert screen.status == 101, screen.head
    assert greet(screen)[2] == f"QEMU (kumo-{lab.ask(f'server show {server}')['id']})"
    listening = lab.run(host, "ss -Hltn", root=True)
    assert "127.0.0.1:5900 " in listening
    with pytest.raises(OSError), socket.create_connection((lab.hosts[host].address, 5900), 5):
        pass
    serial = open_console(lab, server, "serial")
    assert serial.status == 101, serial.head
    wait_for("a login", lambda: "login:" in lab.openstack(f"console log show {server}"))
    serial.send(b"\n")
    serial.read_until(b"login: ", 60)


def test_a_serial_port_is_where_its_guest_is(lab, tenant):
    """Two guests on two hosts have serial ports; one of them goes to the other's host alive, and both are answered."""
    hosts = lab.groups["hypervisors"][:2]
    servers = [tenant.create_server(f"serial-{number}", host) for number, host in enumerate(hosts)]
    for server in servers:
        wait_for("a login", lambda name=server: "login:" in lab.openstack(f"console log show {name}"))
    move = f"server migrate --live-migration --host {hosts[1]} --wait {servers[0]}"
    lab.openstack(f"--os-compute-api-version 2.30 {move}")
    wait_for("it to be there", lambda: lab.find_host(servers[0]) == hosts[1])
    for server in servers:
        serial = open_console(lab, server, "serial")
        assert serial.status == 101, serial.head
        serial.send(b"\n")
        serial.read_until(b"login: ", 60)


def test_the_control_plane_s_key_leads_to_no_other_port(lab):
    """Forwarding ends at the host's own 127.0.0.1: neither to its other addresses nor from it back."""
    host = lab.groups["hypervisors"][0]
    address = lab.hosts[host].address
    ssh = "ssh -o BatchMode=yes -i /etc/kumo/ssh/id_ed25519 -o UserKnownHostsFile=/etc/kumo/ssh/known_hosts"
    refused = lab.run(lab.controller, f"sudo -u kumo {ssh} -W {address}:22 kumo@{address} </dev/null 2>&1", code=None)
    assert "prohibited" in refused
    words = f"sudo -u kumo {ssh} -o ExitOnForwardFailure=yes -R 127.0.0.1:0:127.0.0.1:22 kumo@{address} true 2>&1"
    assert "forwarding failed" in lab.run(lab.controller, words, code=None)
