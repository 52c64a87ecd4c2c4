"""What the parts of bench/run work out of what they read: the log of stack.sh, a guest's twin, sizes, percentiles."""

from __future__ import annotations

import os
import threading
import xml.etree.ElementTree as ElementTree
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench import install, rates, rest, runs

FIRST = "[  93 s]   $ openstack --os-cloud kumo server create --image kumo-guest --wait first\n"


def build_log(*sessions: tuple[str, str, bool, int | None]) -> str:
    return "".join(
        f"stack.sh {day}T23:24:53+00:00\n[   0 s] Debian packages\n{FIRST if first else ''}"
        + (f"[ {seconds} s] Done\n" if seconds else "stack.sh: stopped\n")
        for day, _, first, seconds in sessions
    )


@pytest.mark.parametrize(
    ("sessions", "found"),
    [
        ([], None),
        ([("2026-11-01", "whole", True, 108)], (108, "2026-11-01")),
        ([("2026-11-01", "whole", True, 108), ("2026-11-02", "again", False, 20)], (108, "2026-11-01")),
        ([("2026-11-01", "whole", True, 108), ("2026-11-02", "fell", True, None)], (108, "2026-11-01")),
        ([("2026-11-01", "whole", True, 108), ("2026-11-02", "whole", True, 1139)], (1139, "2026-11-02")),
        ([("2026-11-02", "no first server", False, 90)], None),
    ],
    ids=lambda value: "+".join(one[1] for one in value) if isinstance(value, list) else None,
)
def test_the_last_installation_in_whole_is_found(sessions, found):
    assert install.parse_log(build_log(*sessions)) == found


def test_a_file_of_two_names_counts_once(tmp_path):
    (tmp_path / "one").write_bytes(b"x" * 8192)
    alone = install.read_size(str(tmp_path))
    os.link(tmp_path / "one", tmp_path / "two")
    assert alone >= 8192
    assert install.read_size(str(tmp_path)) == alone


GUEST = """<domain type='qemu'><name>kumo-1</name><uuid>1</uuid><metadata><x/></metadata><devices>
<disk type='file'><source file='/servers/1/disk'/>
<backingStore type='file'><source file='/images/2'/></backingStore></disk>
<interface type='bridge'><mac address='fa:16:3e:63:d4:e7'/><source bridge='br'/><target dev='tap'/></interface>
<serial type='tcp'><log file='/servers/1/console.log'/></serial>
<console type='tcp'><log file='/servers/1/console.log'/></console></devices></domain>"""


def test_a_twin_shares_nothing_with_its_model_but_the_bridge():
    pytest.importorskip("openstack")
    from bench.by_hand import build_twin

    text = build_twin(GUEST, Path("/tmp/bench/disk"), Path("/tmp/bench/console.log"))
    twin = ElementTree.fromstring(text)
    assert twin.find("name").text.startswith("bench-")
    assert twin.find("metadata") is None
    assert twin.find(".//interface/source").get("bridge") == "br"
    assert {part.get("file") for part in twin.iter("log")} == {"/tmp/bench/console.log"}
    assert not [word for word in ("kumo", "/servers/", "/images/", "fa:16:3e", "tap") if word in text]


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        ("/opt/kumo/venv/bin/python /opt/kumo/venv/bin/kumo --config /etc/kumo/kumo.conf serve", True),
        ("dnsmasq --conf-file=/var/lib/kumo/host/networks/1/dnsmasq.conf", True),
        ("/usr/bin/python3 /usr/local/lib/kumo/kumo_metadata.py", True),
        ("/usr/bin/qemu-system-x86_64 -name guest=kumo-1 /opt/kumo", False),
        ("/opt/kumo/client-venv/bin/python -m bench.part servers", False),
        ("/opt/kumo/venv/bin/python -m bench.part rates", False),
        ("/usr/sbin/libvirtd -d", False),
    ],
)
def test_what_is_ours(line, ours):
    assert bool(rest.OURS.search(line) and not rest.OTHERS.search(line)) == ours


def test_the_overhead_is_what_the_helper_leaves_of_a_warm_run():
    whole, overhead, strict = runs.build_figures(warm=0.5, cold=1.25, helper=0.25, sections=0.125)
    assert (whole.value, whole.ratio) == (0.5, 0.4)
    assert (overhead.value, overhead.ratio, overhead.missed) == (0.25, 0.2, False)
    assert (strict.value, strict.ratio, strict.has_aim) == (0.375, 0.3, False)
    assert runs.build_figures(warm=0.6, cold=1.25, helper=0.25, sections=0.125)[1].missed


def test_percentiles_are_of_the_slowest():
    load = rates.Load(1.0, [float(number) for number in range(200)])
    assert load.find_percentile(99) == 198.0
    assert rates.Load(1.0, [3.0]).find_percentile(99) == 3.0


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b'{"a": 1, "a": 2}'
        self.send_response(200 if self.path == "/right" else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nothing to be printed."""


@pytest.fixture
def port():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_only_right_answers_are_counted(port):
    load = rates.ask(port, 3, 0.2, "/right", {}, mark=b'"a"', count=2)
    assert load.rate > 0
    assert load.seconds == sorted(load.seconds)
    for path, count in (("/right", 3), ("/wrong", 2)):
        with pytest.raises(SystemExit, match="unexpected answer"):
            rates.ask(port, 3, 0.2, path, {}, mark=b'"a"', count=count)
