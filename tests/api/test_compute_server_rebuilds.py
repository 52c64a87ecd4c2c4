"""Rebuilds: what a request may say at which version, what is refused, and how one comes to its end."""

from __future__ import annotations

import base64

import jsonschema
import pytest
from compute_cloud import COMPUTE, add_image, find_project, read_server
from move_calls import Hosts
from sqlalchemy import select

from web.desired.document import SCHEMA
from web.image_cleanup import remove_unneeded
from web.image_store import build_path
from web.models import Image, now

DATA = base64.b64encode(b"#!/bin/sh\n").decode()
KEY = {"name": "k1", "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqkXnyGtGbGFYpVbFxPWnLEWDAfFPpFcbUNQRV2IV2Q"}


@pytest.fixture
def hosts(cloud):
    return Hosts(cloud)


def rebuild(hosts, server: str, status: int = 202, user: str = "admin", version: str = "2.96", **fields):
    body = {"imageRef": hosts.image, **fields}
    return hosts.act(server, "rebuild", body, user=user, version=version, expected=status)


def read_wanted(hosts, server: str) -> dict:
    return next(row for row in hosts.fakes["a"].documents[-1]["servers"] if row["id"] == server)


def test_a_password_without_a_drive_is_answered_alone(hosts):
    server = hosts.boot()
    image = read_server(hosts.cloud, server).image_id
    body = {"imageRef": image, "adminPass": "given-canary"}
    assert hosts.act(server, "rebuild", body).json["server"]["adminPass"] == "given-canary"
    assert read_server(hosts.cloud, server).injected == {}


def test_a_rebuild_from_another_image(hosts):
    """REBUILD until the host has done it; then ACTIVE, from the other image, with what was asked of it."""
    server, image = hosts.boot(), add_image(hosts.cloud, name="other")
    hosts.cloud.post(f"{COMPUTE}/os-keypairs", {"keypair": KEY}, user="admin", version="2.96")
    asked = {
        "imageRef": image,
        "name": "web2",
        "metadata": {"a": "1"},
        "description": "anew",
        "accessIPv4": "192.0.2.7",
    }
    asked |= {
        "accessIPv4": "192.0.2.7",
        "key_name": "k1",
        "user_data": DATA,
        "hostname": "web2.example.org",
        "preserve_ephemeral": False,
    }
    answer = rebuild(hosts, server, **asked)
    assert answer.headers["Location"].endswith(f"/servers/{server}")
    view = answer.json["server"]
    for name in ("name", "metadata", "description", "accessIPv4", "key_name", "user_data"):
        assert view[name] == asked[name]
    assert (view["id"], view["image"]["id"], view["status"]) == (server, image, "REBUILD")
    assert len(view["adminPass"]) == 12
    assert hosts.where(server) == ("a", "REBUILD", "rebuilding")
    for action in ("os-stop", "rebuild"):
        hosts.act(server, action, {"imageRef": image} if action == "rebuild" else None, expected=409)
    hosts.fakes["a"].holding = {"rebuild"}
    hosts.turn("a")
    jsonschema.validate(hosts.fakes["a"].documents[-1], SCHEMA)
    wanted = read_wanted(hosts, server)
    assert (wanted["rebuild"], wanted["image"]) == ({"wanted": 1}, image)
    assert wanted["metadata"]["user_data"] == DATA
    assert hosts.where(server)[1] == "REBUILD"
    hosts.fakes["a"].holding = set()
    hosts.turn("a")
    assert hosts.where(server) == ("a", "ACTIVE", None)
    assert hosts.fakes["a"].disks[server] == f"made of {image}"
    assert hosts.read_actions(server)[-1] == ("rebuild", True, None)
    rebuild(hosts, server, imageRef=image, key_name=None, user_data=None)
    hosts.settle()
    row = read_server(hosts.cloud, server)
    assert (row.rebuild_wanted, row.key_data, row.user_data, row.metadata_) == (2, None, None, {"a": "1"})


def test_states(hosts):
    """A stopped server stays stopped; an ERROR one comes back; what is paused, or was never placed, is refused."""
    server = hosts.boot()
    hosts.act(server, "os-stop")
    hosts.settle()
    rebuild(hosts, server)
    assert hosts.where(server) == ("a", "REBUILD", "rebuilding")
    hosts.settle()
    assert hosts.where(server) == ("a", "SHUTOFF", None)
    with hosts.cloud.database.write.begin() as session:
        row = session.merge(read_server(hosts.cloud, server))
        row.fault_message, row.fault_at, row.vm_state, row.status = "its disk is gone", now(), "error", "ERROR"
    rebuild(hosts, server)
    hosts.settle()
    assert hosts.where(server) == ("a", "SHUTOFF", None)
    for changes in ({"vm_state": "paused"}, {"vm_state": "error", "host_id": None}):
        other = hosts.boot()
        with hosts.cloud.database.write.begin() as session:
            row = session.merge(read_server(hosts.cloud, other))
            for name, value in changes.items():
                setattr(row, name, value)
        rebuild(hosts, other, 409)


def test_a_host_that_cannot_is_told_and_deadlines_hold(hosts):
    """Four tries, then ERROR with the host's words; another rebuild heals it."""
    server = hosts.boot()
    fake = hosts.fakes["a"]
    fake.fail[server] = "no room for the new disk"
    rebuild(hosts, server)
    for _ in range(4):
        hosts.worker.run_once(hosts.read_hosts()["a"].id)
    view = hosts.show(server)
    assert (view["status"], view["fault"]["message"]) == ("ERROR", "no room for the new disk")
    assert hosts.read_actions(server)[-1] == ("rebuild", True, "Error")
    fake.fail.clear()
    rebuild(hosts, server)
    hosts.settle()
    assert hosts.where(server) == ("a", "ACTIVE", None)


def test_requests(hosts):
    server = hosts.boot()
    with hosts.cloud.database.write.begin() as session:
        session.merge(read_server(hosts.cloud, server)).project_id = find_project(hosts.cloud)
    large = add_image(hosts.cloud, virtual_size=2 << 30)
    hungry = add_image(hosts.cloud, min_ram=99999)
    queued = add_image(hosts.cloud, status="queued")
    foreign = add_image(hosts.cloud, visibility="private", project_id="x")
    many = {f"k{n}": "" for n in range(129)}
    cases = [
        ({"imageRef": "x"}, {}, 400, "imageRef"),
        ({"imageRef": "0b0e8a3c-0000-4000-8000-000000000001"}, {}, 400, "imageRef"),
        ({"imageRef": foreign}, {}, 400, "imageRef"),
        ({"imageRef": queued}, {}, 400, "not active"),
        ({"imageRef": large}, {}, 400, "disk is too small"),
        ({"imageRef": hungry}, {}, 400, "memory is too small"),
        ({"name": ""}, {}, 400, "name"),
        ({"personality": [{"path": "/x", "contents": ""}]}, {"version": "2.56"}, 400, "personality"),
        ({"personality": []}, {"version": "2.57"}, 400, "personality"),
        ({"preserve_ephemeral": True}, {}, 400, "preserve_ephemeral"),
        ({"trusted_image_certificates": ["x"]}, {}, 400, "trusted_image_certificates"),
        ({"description": "x"}, {"version": "2.18"}, 400, "description"),
        ({"key_name": None}, {"version": "2.53"}, 400, "key_name"),
        ({"key_name": "none of mine"}, {}, 400, "key_name"),
        ({"user_data": DATA}, {"version": "2.56"}, 400, "user_data"),
        ({"user_data": "!"}, {}, 400, "user_data"),
        ({"hostname": "web2"}, {"version": "2.89"}, 400, "hostname"),
        ({"hostname": "web2.example.org"}, {"version": "2.93"}, 400, "hostname"),
        ({"metadata": many}, {}, 403, "metadata"),
        ({"flavorRef": "1"}, {}, 400, "flavorRef"),
        ({}, {"user": "other"}, 404, "could not be found"),
        ({}, {"user": "reader"}, 403, "rebuild"),
    ]
    for fields, options, status, said in cases:
        answer = rebuild(hosts, server, status, **{"user": "demo", **options}, **fields)
        assert said in answer.text, (fields, answer.text)
        assert "secret" not in answer.text
    assert hosts.act(server, "rebuild", {}, user="demo", expected=400)
    hosts.act(server, "lock", {})
    rebuild(hosts, server, 409, user="demo")
    hosts.act(server, "unlock")
    assert read_server(hosts.cloud, server).rebuild_wanted == 0
    for version, present, absent in (
        ("2.1", ("metadata",), ("key_name", "user_data", "description", "locked")),
        ("2.54", ("key_name", "description"), ("user_data", "OS-EXT-STS:vm_state")),
        ("2.57", ("user_data",), ("OS-EXT-STS:vm_state",)),
        ("2.75", ("user_data", "OS-EXT-STS:vm_state"), ()),
    ):
        view = rebuild(hosts, server, user="demo", version=version).json["server"]
        assert [set(present) - set(view), set(absent) & set(view)] == [set(), set()], version
        hosts.settle()


def test_a_deleted_image_s_bytes_stay_until_the_rebuild_is_done(hosts):
    """On the one hypervisor of a cloud, where those of a guest that was built go at once."""
    with hosts.cloud.database.write.begin() as session:
        for host in hosts.read_hosts().values():
            session.merge(host).roles = ["hypervisor"] if host.name == "a" else ["storage"]
    server, image = hosts.boot(), add_image(hosts.cloud)
    store = hosts.cloud.settings.image.store_dir
    rebuild(hosts, server, imageRef=image)
    path = build_path(store, image)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    with hosts.cloud.database.write.begin() as session:
        row = session.scalar(select(Image).where(Image.id == image))
        row.status, row.deleted_at = "deleted", now()
    assert remove_unneeded(hosts.cloud.database, store) == []
    hosts.settle()
    assert remove_unneeded(hosts.cloud.database, store) == [image]
