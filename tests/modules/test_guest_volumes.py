"""Volumes a guest is to have, and those that it has, in; verbs and XML out."""

import uuid

import pytest
from ansible.module_utils.kumo import domain_xml, guest_volumes, server_rows
from ansible.module_utils.kumo.errors import KumoError

S, A, B, V, IMAGE = (str(uuid.UUID(int=number)) for number in range(1, 6))
GIB = 1 << 30


def build_row(attachment=A, device="vdb", **more) -> dict:
    return {
        "attachment": attachment,
        "volume": V,
        "device": device,
        "boot_index": None,
        "read_only": False,
        "portal": "192.0.2.1:3260",
        "iqn": f"iqn.2026-11.cloud.kumo:{attachment}",
        "lun": 1,
        "username": "u",
        "password": "canary-secret",
        "size_gb": 2,
        **more,
    }


@pytest.mark.parametrize(
    ("wanted", "live", "verbs"),
    [
        pytest.param([build_row()], None, [], id="nothing runs"),
        pytest.param([build_row()], {}, [("attach_volume", A)], id="new"),
        pytest.param([build_row()], {A: {"device": "vdb", "size": 2 * GIB}}, [], id="as wanted"),
        pytest.param([], {A: {"device": "vdb", "size": GIB}}, [("detach_volume", A)], id="wanted no more"),
        pytest.param([build_row()], {A: {"device": "vdb", "size": GIB}}, [("resize_volume", A)], id="larger"),
        pytest.param([build_row()], {A: {"device": "vdb", "size": 0}}, [], id="size unknown"),
        pytest.param(
            [build_row(B)],
            {A: {"device": "vdb", "size": GIB}},
            [("detach_volume", A), ("attach_volume", B)],
            id="another at the same device: the old one goes first",
        ),
    ],
)
def test_plan_live(wanted, live, verbs):
    planned = guest_volumes.plan_live(wanted, live)
    assert [(verb, args["attachment"]) for verb, args, _, _ in planned] == verbs
    assert "canary-secret" not in str(planned)


@pytest.mark.parametrize(
    "wrong",
    [
        {"attachment": "../x"},
        {"device": "sda"},
        {"device": "vdb'/>"},
        {"portal": "192.0.2.1"},
        {"iqn": "IQN x"},
        {"volume": None},
        {"size_gb": 0},
        {"password": ""},
    ],
)
def test_a_wrong_field_is_named(wrong):
    with pytest.raises(KumoError, match=next(iter(wrong))):
        server_rows.parse_server({"id": S, "image": IMAGE, "volumes": [build_row(**wrong)]})


def build_domain(*rows: dict, image: str | None = IMAGE):
    from pathlib import Path

    server = server_rows.parse_server({"id": S, "image": image, "volumes": list(rows)})
    base = {"path": "/images/i", "driver": "qcow2"} if guest_volumes.has_local_root(server) else None
    return domain_xml.build_domain(server, [], Path("/state/servers", S), base, "qemu")


def test_s14_no_password_is_in_the_definition_or_the_secret():
    text = domain_xml.build_text(build_domain(build_row())) + domain_xml.build_secret(A, "/state")
    assert "canary-secret" not in text
    assert 'ephemeral="yes"' in text
    assert 'private="yes"' in text


def test_a_volume_is_a_disk_behind_the_root():
    disks = domain_xml.parse_owned(build_domain(build_row()))["disks"]
    assert [disk["target"] for disk in disks] == ["vda", "vdb"]
    assert disks[1]["name"] == f"iqn.2026-11.cloud.kumo:{A}/1"
    assert (disks[1]["host"], disks[1]["port"], disks[1]["attachment"]) == ("192.0.2.1", "3260", A)
    assert domain_xml.parse_volumes(build_domain(build_row())) == {A: "vdb"}


def test_a_guest_that_boots_from_a_volume_has_no_file():
    tree = build_domain(build_row(B, "vdb"), build_row(A, "vda", boot_index=0), image=None)
    disks = domain_xml.parse_owned(tree)["disks"]
    assert [(disk["target"], disk["attachment"]) for disk in disks] == [("vda", A), ("vdb", B)]


def test_without_image_and_volume_there_is_nothing_to_boot():
    with pytest.raises(KumoError, match="image"):
        server_rows.parse_server({"id": S, "image": None, "volumes": [build_row()]})
