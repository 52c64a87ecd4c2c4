"""What a guest has posted, as its host tells and forgets it."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.kumo import metadata, posted_passwords, servers
from test_metadata import SERVER, _document
from test_servers import NOTHING, S, build

TEXT = "Canary-c2VjcmV0"


def wanted(cleared, text=""):
    return {"posted_password": {"cleared": cleared, "text": text}}


@pytest.mark.parametrize(
    ("row", "posted", "told", "forgotten"),
    [
        ({}, {}, None, None),
        ({}, {"0": TEXT}, {"cleared": 0, "text": TEXT}, None),
        (wanted(0, TEXT), {"0": TEXT}, None, None),
        (wanted(0, "another host's"), {"0": TEXT}, None, None),
        (wanted(2), {"0": TEXT, "1": TEXT}, None, [0, 1]),
        (wanted(2), {"1": TEXT, "2": "new"}, {"cleared": 2, "text": "new"}, [1]),
        (wanted(1), {"2": TEXT}, None, None),
    ],
)
def test_told_until_the_document_has_it_and_forgotten_once_cleared(row, posted, told, forgotten):
    document, observed = build(row, {"posted": posted})
    actions = servers.plan_servers(document, observed)
    assert [(one.verb, one.args["numbers"]) for one in actions] == (
        [("forget_password", forgotten)] if forgotten else []
    )
    assert all(TEXT not in one.before + one.after for one in actions)
    report = servers.report_servers(document, observed)
    assert report["posted_passwords"] == ({S: told} if told else {})
    assert TEXT not in json.dumps(report["servers"])


def test_a_host_tells_it_of_a_guest_that_has_left():
    """It was posted here just before; and nothing of one that is to be gone."""
    left = {**NOTHING, "files": True, "posted": {"0": TEXT}}
    outgoing = {"outgoing": {"migration": S, "kind": "live", "address": None, "abort": False, "force": False}}
    assert servers.report_servers(*build(outgoing, left))["posted_passwords"] == {S: {"cleared": 0, "text": TEXT}}
    assert servers.report_servers(*build({"wanted": "absent"}, left))["posted_passwords"] == {}


@pytest.mark.parametrize(
    "wrong", [{"cleared": -1}, {"cleared": "1"}, {"text": None}, {"text": "x" * 1021}, {"cleared": True}]
)
def test_a_bad_field_is_that_servers_error(wrong):
    row = {"posted_password": wrong}
    document, observed = build(row)
    assert [one.verb for one in servers.plan_servers(document, observed)] == ["refuse"]
    assert servers.report_servers(document, observed)["posted_passwords"] == {}
    assert [one.verb for one in metadata.plan_metadata(_document(**row), {})] == ["refuse"]


def test_files(tmp_path):
    """What the daemon wrote is read; anything else is not; what is forgotten is gone, and the newer one stays."""
    document = {"settings": {"state_dir": str(tmp_path)}}
    assert posted_passwords.read_posted(document, SERVER) == {}
    folder = tmp_path / "servers" / SERVER
    folder.mkdir(parents=True)
    texts = {"0": b"old\r\n", "1": b"new", "2": b"", "3": b"x" * 1021, "4": b"\xff", "x": b"x"}
    for name, text in texts.items():
        (folder / f"posted_password.{name}").write_bytes(text)
    (folder / ".posted_password").write_bytes(b"half")
    posted = posted_passwords.read_posted(document, SERVER)
    assert posted == {"0": "old\r\n", "1": "new"}
    for _ in range(2):
        posted_passwords.apply_forget(document, {"id": SERVER}, [0])
    assert posted_passwords.read_posted(document, SERVER) == {"1": "new"}


def test_the_guest_is_told_by_the_document():
    """Of what it posted while it was on another host; the config drive never has it."""
    document = _document(**wanted(3, TEXT))
    actions = metadata.plan_metadata(document, {})
    assert all(TEXT not in one.before + one.after for one in actions)
    content = json.loads(actions[0].args["text"])
    assert content["posted_password"] == {"server": SERVER, "cleared": 3, "text": TEXT}
    assert "posted_password" not in metadata.build_content(document, document["servers"][0])
