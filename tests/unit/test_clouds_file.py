"""clouds.yaml: our two clouds go in and out, and everything else stays byte for byte."""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "clouds.py"
spec = importlib.util.spec_from_file_location("clouds", SCRIPT)
clouds = importlib.util.module_from_spec(spec)
spec.loader.exec_module(clouds)

OURS = clouds.build_clouds("http://127.0.0.1:6780", "RegionOne", "", {"admin": "a'\"{{ 7*7 }}", "demo": "d: #x"})
OTHERS = {
    "nothing but others": "clouds:\n  lab:   # mine\n    auth: {auth_url: http://lab}\n",
    "four spaces": "# a comment\nclouds:\n    lab:\n        auth:\n            auth_url: http://lab\n# the end\n",
    "document start": "---\nclouds: # all\n  lab: {}\n",
    "another top key": "cache:\n  class: x\n",
    "no newline at the end": "clouds:\n  lab: {region_name: a}",
}


@pytest.mark.parametrize("before", OTHERS.values(), ids=OTHERS.keys())
def test_others_are_kept(tmp_path, before):
    """Writing adds two clouds and a second writing nothing; removing gives back what was there, mode included."""
    path = tmp_path / "clouds.yaml"
    path.write_text(before)
    path.chmod(0o644)
    assert clouds.apply_clouds(path, OURS)
    loaded = yaml.safe_load(path.read_text())
    kept = (yaml.safe_load(before) or {}).get("clouds") or {}
    assert loaded["clouds"] == {**kept, **OURS}
    assert path.stat().st_mode & 0o777 == 0o600
    assert not clouds.apply_clouds(path, OURS)
    assert clouds.remove_clouds(path)
    assert path.read_text().rstrip("\n") == before.rstrip("\n")
    assert path.stat().st_mode & 0o777 == 0o644
    assert not clouds.remove_clouds(path)


def test_a_new_file_goes_with_its_directory(tmp_path):
    """Where there was neither file nor directory there is neither afterwards."""
    path = tmp_path / "openstack" / "clouds.yaml"
    assert clouds.apply_clouds(path, OURS)
    assert yaml.safe_load(path.read_text())["clouds"] == OURS
    assert not clouds.apply_clouds(path, OURS)
    assert clouds.remove_clouds(path)
    assert not path.parent.exists()


def test_what_was_added_to_our_file_stays(tmp_path):
    """A cloud that someone put into a file we made is not removed with ours."""
    path = tmp_path / "clouds.yaml"
    clouds.apply_clouds(path, OURS)
    path.write_text(path.read_text() + "  lab: {region_name: a}\n")
    assert clouds.remove_clouds(path)
    assert yaml.safe_load(path.read_text()) == {"clouds": {"lab": {"region_name": "a"}}}


def test_new_passwords_replace_the_old(tmp_path):
    """A second writing with other passwords leaves one block."""
    path = tmp_path / "clouds.yaml"
    path.write_text(OTHERS["four spaces"])
    clouds.apply_clouds(path, OURS)
    other = clouds.build_clouds("http://127.0.0.1:1", "RegionTwo", "/ca.pem", {"admin": "x", "demo": "y"})
    assert clouds.apply_clouds(path, other)
    assert path.read_text().count(clouds.BEGIN) == 1
    assert yaml.safe_load(path.read_text())["clouds"]["kumo"] == other["kumo"]


@pytest.mark.parametrize(
    ("before", "word"),
    [("clouds: {lab: {}}\n", "one line"), ("clouds:\n  kumo: {region_name: mine}\n", "cloud kumo")],
)
def test_what_cannot_be_kept_is_refused(tmp_path, before, word):
    """A file that would lose something is left alone, with a sentence."""
    path = tmp_path / "clouds.yaml"
    path.write_text(before)
    with pytest.raises(ValueError, match=word):
        clouds.apply_clouds(path, OURS)
    assert path.read_text() == before


def test_openrc_leaves_the_choice_of_the_cloud_to_its_name():
    """Whatever OS_ variables were there, the cloud named last is the one that is used; no password is exported."""
    script = clouds.build_openrc() + "export OS_CLOUD=kumo-admin\nenv\n"
    before = {"PATH": os.environ["PATH"], "OS_USERNAME": "demo", "OS_PASSWORD": "a'b\nOS_X=1", "KEPT": "1"}
    shown = subprocess.run(["sh", "-c", script], env=before, capture_output=True, text=True, check=True).stdout
    assert [line for line in shown.splitlines() if line.startswith("OS_")] == ["OS_CLOUD=kumo-admin"]
    assert "KEPT=1" in shown.splitlines()
