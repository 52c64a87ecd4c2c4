"""What tgtd shows and what is to be done about it: targets seen and exports wanted in, actions out."""

import hashlib
import uuid

import pytest
from ansible.module_utils.kumo import exports, tgt
from ansible.module_utils.kumo.errors import KumoError

VOLUME, ATTACHMENT = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
ACCOUNT = ATTACHMENT.replace("-", "")
DIGEST = hashlib.sha256(f"{ACCOUNT}\0pw".encode()).hexdigest()
GIB = 1 << 30
PATH = f"/state/volumes/{VOLUME}.volume"
SHOWN = f"""Target 1: iqn.2001-04.example:theirs
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
    LUN information:
        LUN: 0
            Type: controller
            Size: 0 MB, Block size: 1
            Readonly: No
            Backing store path: None
    Account information:
    ACL information:
        10.0.0.0/8
Target 4: {tgt.IQN}{ATTACHMENT}
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
        I_T nexus: 7
            Initiator: iqn.2008-11.org.linux-kvm alias: none
            Connection: 2
                IP Address: 127.0.0.1
    LUN information:
        LUN: 0
            Type: controller
            Size: 0 MB, Block size: 1
            Readonly: No
            Backing store path: None
        LUN: 1
            Type: disk
            Size: 1074 MB, Block size: 512
            Online: Yes
            Readonly: No
            Backing store type: rdwr
            Backing store path: {PATH}
            Backing store flags:
    Account information:
        {ACCOUNT}
    ACL information:
        ALL
"""


def build_document(*wanted: dict) -> dict:
    volumes = [{"id": VOLUME, "size_gb": 1, "exports": list(wanted)}]
    storage = {"backend": "file", "portal": "192.0.2.1:3260"}
    return {"settings": {"state_dir": "/state", "storage": storage}, "volumes": volumes, "snapshots": []}


def build_wanted(**more) -> dict:
    return {"id": ATTACHMENT, "username": ACCOUNT, "password": "pw", "read_only": False, **more}


def build_observed(targets: dict, size: int = GIB, made=None, error=None) -> dict:
    made = {ATTACHMENT: DIGEST} if made is None else made
    return {"targets": targets, "error": error, "made": made, "sizes": {VOLUME: size}, "portal": "192.0.2.1:3260"}


def test_targets_are_read_from_what_tgtd_shows():
    targets = tgt.parse_targets(SHOWN)
    assert targets[1]["acl"] == ["10.0.0.0/8"]
    assert targets[1]["path"] is None
    assert targets[4] == {
        "iqn": tgt.IQN + ATTACHMENT, "path": PATH, "size": 1074, "read_only": False, "accounts": [ACCOUNT],
        "acl": ["ALL"], "connections": [(7, 2)],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "observed", "verbs"),
    [
        pytest.param([build_wanted()], build_observed({}), ["export"], id="missing"),
        pytest.param([build_wanted()], build_observed(tgt.parse_targets(SHOWN)), [], id="as wanted"),
        pytest.param([], build_observed(tgt.parse_targets(SHOWN)), ["remove"], id="not wanted any more"),
        pytest.param([], build_observed(tgt.parse_targets(SHOWN), made={}), [], id="another state directory's"),
        pytest.param(
            [build_wanted(password="new")], build_observed(tgt.parse_targets(SHOWN)), ["remove", "export"],
            id="password",
        ),
        pytest.param(
            [build_wanted(read_only=True)], build_observed(tgt.parse_targets(SHOWN)), ["remove", "export"], id="mode"
        ),
        pytest.param([build_wanted()], build_observed(tgt.parse_targets(SHOWN), size=2 * GIB), ["grow"], id="larger"),
        pytest.param(
            [build_wanted()],
            build_observed(tgt.parse_targets(SHOWN.replace("ALL", ""))),
            ["remove", "export"],
            id="closed",
        ),
        pytest.param([build_wanted()], build_observed({}, error="tgtd is dead"), ["refuse"], id="tgtd dead"),
        pytest.param([], build_observed({}), ["forget"], id="its target went before its account"),
        pytest.param([], build_observed({}, error="tgtd is dead"), [], id="nobody knows what is left"),
    ],
)  # fmt: skip
def test_plan(wanted, observed, verbs):
    assert [action.verb for action in exports.plan_exports(build_document(*wanted), observed)] == verbs


@pytest.mark.parametrize(
    ("observed", "pending"),
    [
        pytest.param(build_observed({}, made={}), True, id="its volume was whole after the plan"),
        pytest.param(build_observed({}), False, id="it was tried, and failed"),
        pytest.param(build_observed({}, made={}) | {"sizes": {}}, False, id="its volume is being made"),
        pytest.param(build_observed({}, made={}, error="tgtd is dead"), False, id="tgtd dead"),
        pytest.param(build_observed(tgt.parse_targets(SHOWN)), False, id="there"),
    ],
)
def test_an_export_that_nobody_has_tried_yet_is_under_way(observed, pending):
    assert exports.report_exports(build_document(build_wanted()), observed)["pending"] == pending


def test_no_action_shows_a_password():
    actions = exports.plan_exports(build_document(build_wanted(password="canary-7")), build_observed({}))
    shown = [(action.before, action.after, action.summary()) for action in actions]
    assert "canary-7" not in str(shown)
    assert actions


@pytest.mark.parametrize("text", ["a,b=c", "a=b", "a\nb"])
def test_a_text_that_tgtd_would_misread_is_refused(text):
    with pytest.raises(KumoError, match="misread"):
        tgt.build_request("account", "new", user="u", password=text)
