"""A host's image cache over the admin API and by `kumo host images`: kept ahead of guests, released, fetched again."""

from __future__ import annotations

import json

import pytest
from compute_cloud import add_image
from sqlalchemy import select

from web.cli import main
from web.desired import build_document, read_rows
from web.models import Host, HostImage, Image, now
from web.models.host_images import is_needed
from web.reconcile.run import Outcome
from web.verification import FETCH, Fault, apply_repair, find_host_faults

NONE = "aaaaaaaa-0000-4000-8000-000000000009"


def read_host(cloud):
    with cloud.database.read() as session:
        return session.scalar(select(Host))


def read_images(cloud):
    """{image id: fetch} of the host's document."""
    with cloud.database.read() as session:
        document = build_document(read_rows(session, session.scalar(select(Host))), cloud.settings)
    assert document["settings"]["image_cache_max_age_s"] == 604800
    return {image["id"]: image.get("fetch", 0) for image in document["images"]}


@pytest.fixture
def kumo(cloud, tmp_path, capsys):
    config = tmp_path / "kumo.conf"
    config.write_text(
        f"[kumo]\nstate_dir = {cloud.settings.kumo.state_dir}\nrun_dir = {tmp_path}\nlog_dir =\n"
        f"[database]\nurl = {cloud.settings.database.url}\n[policy]\nfile =\n"
    )

    def run(*words):
        capsys.readouterr()
        code = main(["--config", str(config), *words])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def test_kept_and_released(cloud, kumo):
    """Each twice; the document has the image for as long as it is kept, and the host may fetch it."""
    image_id, name = add_image(cloud), read_host(cloud).name
    path = f"/admin/v1/hosts/{name}/images"
    assert cloud.get(path).status_code == cloud.put(f"{path}/{image_id}").status_code == 403
    generation = read_host(cloud).generation
    for _ in range(2):
        answer = cloud.put(f"{path}/{image_id}", user="admin")
        assert (answer.status_code, answer.json["image"]["kept"], answer.json["image"]["cached"]) == (202, True, False)
    assert read_host(cloud).generation == generation + 1
    assert read_images(cloud) == {image_id: 0}
    with cloud.database.write.begin() as session:
        host = session.scalar(select(Host))
        assert is_needed(session, host.id, image_id)
        seen = [{"id": image_id, "bytes": 7, "unused_since": None, "needed": True}]
        host.observed = {**host.observed, "image_cache": seen}
    (one,) = cloud.get(path, user="admin").json["images"]
    assert (one["id"], one["kept"], one["cached"], one["bytes"]) == (image_id, True, True, 7)
    assert cloud.post(f"{path}/{image_id}/fetch", user="admin").status_code == 202
    assert read_images(cloud) == {image_id: 1}
    code, said = kumo("host", "images", name, "--json")
    assert (code, json.loads(said)[0]["kept"]) == (0, True)
    for _ in range(2):
        assert cloud.delete(f"{path}/{image_id}", user="admin").status_code == 202
    assert read_images(cloud) == {}
    for method, where in (
        ("PUT", f"{path}/{NONE}"),
        ("POST", f"{path}/{NONE}/fetch"),
        ("GET", path.replace(name, "no")),
    ):
        assert cloud.call(method, where, {}, user="admin").status_code == 404, where


def test_the_command(cloud, kumo):
    image_id, name = add_image(cloud), read_host(cloud).name
    assert kumo("host", "images", name) == (0, "no images\n")
    code, said = kumo("host", "images", name, "--keep", image_id, "--fetch", image_id)
    assert code == 0
    assert "kept" in said
    assert "not here" in said
    assert read_images(cloud) == {image_id: 1}
    assert kumo("host", "images", name, "--keep", NONE)[0] == 1
    assert "known:" in kumo("host", "images", "nowhere")[1]
    with cloud.database.write.begin() as session:  # a deleted image is nobody's to keep, and can be released
        session.get(Image, image_id).deleted_at = now()
    assert read_images(cloud) == {}
    assert kumo("host", "images", name, "--release", image_id)[0] == 0
    with cloud.database.read() as session:
        assert not session.get(HostImage, (read_host(cloud).id, image_id)).kept


def test_changed_bytes_are_a_fault_that_repair_mends(cloud):
    """What `kumo verify --images` finds is fetched again by a host that does not read its cache whole itself."""
    image_id, host = add_image(cloud), read_host(cloud)

    class Look:
        error = None
        result = {"observed": {}, "actions": [{"section": "images", "object_id": image_id, "verb": "fetch_again"}]}

    document = {"servers": [], "volumes": [], "snapshots": []}
    (fault,) = find_host_faults(host, document, Look)
    assert fault == Fault(host.name, "image", image_id, "differs from what was asked: fetch again is due", FETCH)
    with cloud.database.write.begin() as session:
        assert apply_repair(session, [fault]) == 1
        session.get(HostImage, (host.id, image_id)).kept = True
    assert read_images(cloud) == {image_id: 1}


def test_verify_reads_caches_whole_where_it_is_said(cloud, kumo, monkeypatch):
    asked = []

    def look(settings, name, connection, document, *, check):
        asked.append((check, document["settings"].get("verify_images")))
        return Outcome(ok=True, result={"observed": {}, "actions": []})

    monkeypatch.setattr("web.reconcile.run.run_host", look)
    for words in (("verify",), ("verify", "--images"), ("repair", "--images")):
        assert kumo(*words)[0] == 0
    assert asked == [(True, None), (True, True), (True, True)]
