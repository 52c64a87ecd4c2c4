"""Where consoles are listened on, out of libvirt's XML and /proc's tables."""

import socket
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ansible.module_utils.kumo import consoles

TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:170C 00000000:0000 0A 00000000:00000000 00:00000000 00000000   107        0 11 1 0 100 0 0 10 0
   1: 0100007F:9C41 00000000:0000 0A 00000000:00000000 00:00000000 00000000   107        0 12 1 0 100 0 0 10 0
   2: 00000000:C000 00000000:0000 0A 00000000:00000000 00:00000000 00000000   107        0 13 1 0 100 0 0 10 0
   3: 0100007F:9C42 0100007F:1234 01 00000000:00000000 00:00000000 00000000   107        0 14 1 0 100 0 0 10 0
   4: 0100007F:9C43 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 15 1 0 100 0 0 10 0
"""


def test_ports_that_a_process_listens_on():
    """Its own, on 127.0.0.1, and not those of its connections."""
    assert consoles.parse_listening(TABLE, {"11", "12", "13", "14"}) == [5900, 40001]
    assert consoles.parse_listening(TABLE, {"15"}) == [40003]
    assert consoles.parse_listening("", {"11"}) == []


@pytest.mark.parametrize(
    ("listening", "vnc", "serial"),
    [([5900, 40001], 5900, 40001), ([5900], 5900, None), ([], None, None), ([5900, 40001, 40002], 5900, None)],
)
def test_the_serial_port_is_the_other_one(listening, vnc, serial):
    assert consoles.choose_serial(listening, vnc) == serial


def test_this_very_process():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert server.getsockname()[1] in consoles.read_listening(Path("/proc/self"))
    assert consoles.read_listening(Path("/proc/0")) == []


def test_a_guest_of_before(tmp_path, monkeypatch):
    """With a terminal as its serial port there is only the screen; one that is just going has none."""
    monkeypatch.setattr(consoles, "PIDS", tmp_path)
    pty = "<domain><devices><serial type='pty'/><graphics type='vnc' port='5901'/></devices></domain>"
    assert consoles.read_ports("kumo-x", ElementTree.fromstring(pty)) == {"vnc": 5901, "serial": None}
    tcp = pty.replace("<serial type='pty'/>", "<serial type='tcp'><source mode='bind'/></serial>").replace("5901", "-1")
    assert consoles.read_ports("kumo-x", ElementTree.fromstring(tcp)) == {"vnc": None, "serial": None}
