"""What tests/tempest brings along for the suite: images of each format, served only where the cloud may fetch them."""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "tempest"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_images_are_served_where_the_cloud_may_fetch_from():
    files = load("image_files")
    assert files.serve_images(FOLDER, [], ["0"]) is None
    assert files.serve_images(FOLDER, ["10.0.0.0/8", "::1/128"], ["0"]) is None
    assert files.serve_images(FOLDER, ["127.0.0.1/32"], []) is None
    server = files.serve_images(FOLDER, ["10.0.0.0/8", "127.0.0.0/8"], ["0"])
    try:
        uri = files.build_uri(server).replace(files.SERVED, "run.py")
        with urllib.request.urlopen(uri, timeout=10) as answer:
            assert answer.read() == (FOLDER / "run.py").read_bytes()
        taken = str(server.server_port)
        assert files.serve_images(FOLDER, ["127.0.0.1"], [taken]) is None
    finally:
        server.shutdown()
        server.server_close()


def test_one_image_of_each_format(tmp_path):
    files = load("image_files")
    for _ in range(2):
        manifest = json.loads(files.make_format_images(tmp_path / "images").read_text())
    assert [one["format"] for one in manifest["images"]] == ["raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx"]
    for one in manifest["images"]:
        assert (tmp_path / "images" / one["filename"]).stat().st_size > 0
    assert (tmp_path / "images" / files.SERVED).read_bytes().startswith(b"QFI\xfb")
