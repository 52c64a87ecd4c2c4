"""Images for tempest, made here by qemu-img: one of each format to upload, and one to be fetched from an address.

An image service that a cloud's users ask to fetch from loopback refuses it (security case 24). Where this cloud's
operator has allowed 127.0.0.1 and a port, images are served there for as long as tempest runs:

    [image]
    import_networks = 127.0.0.1/32
    import_ports = 80, 443, 6788

Next room: run.py.
"""

from __future__ import annotations

import functools
import http.server
import ipaddress
import json
import subprocess
import threading
from pathlib import Path

ADDRESS = "127.0.0.1"
FORMATS = {  # the Image API's name: qemu's, with its options
    "raw": ("raw",),
    "qcow2": ("qcow2",),
    "vmdk": ("vmdk", "-o", "subformat=monolithicSparse"),
    "vdi": ("vdi",),
    "vhd": ("vpc",),
    "vhdx": ("vhdx",),
}
SIZE = "1M"
SERVED = "qcow2.img"


def make_format_images(folder: Path) -> Path:
    """A manifest of images, one of each format, in the form that [image] images_manifest_file names; where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for name, (kind, *options) in FORMATS.items():
        place = folder / f"{name}.img"
        place.unlink(missing_ok=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", kind, *options, str(place), SIZE], check=True)
        images.append({"name": name, "format": name, "filename": place.name, "usable": True})
    manifest = folder / "manifest.yaml"
    manifest.write_text(json.dumps({"images": images}))  # which is YAML, too
    return manifest


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


def serve_images(folder: Path, networks: list[str], ports: list[str]) -> http.server.ThreadingHTTPServer | None:
    """A server of the folder where the cloud may fetch from (``networks``, ``ports``: its settings), else None."""
    if not any(ipaddress.ip_address(ADDRESS) in ipaddress.ip_network(one) for one in networks):
        return None
    handler = functools.partial(_Quiet, directory=str(folder))
    for port in ports:
        try:
            server = http.server.ThreadingHTTPServer((ADDRESS, int(port)), handler)
        except OSError:  # somebody else's
            continue
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server
    return None


def build_uri(server: http.server.ThreadingHTTPServer) -> str:
    """Where the image to be fetched is."""
    return f"http://{ADDRESS}:{server.server_port}/{SERVED}"
