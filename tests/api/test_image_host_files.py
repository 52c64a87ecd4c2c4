"""Guest images for other hosts: a signature made for one host and one image, and nothing else, opens the file."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from compute_cloud import add_image, add_network, build_server
from sqlalchemy import select

from web.desired import build_document, read_rows
from web.models import Host, Image, Migration, Server, now
from web.models.host_images import build_key_path, build_source

BYTES = bytes(range(256)) * 1000


@pytest.fixture
def guest(cloud):
    """A server on a host that is reached over ssh, and the bytes of its image in the store."""
    with cloud.database.write.begin() as session:
        session.scalar(select(Host)).connection = {"ansible_host": "192.0.2.7", "ansible_user": "kumo"}
    add_network(cloud)
    image = add_image(cloud, os_hash_algo="sha512", os_hash_value="0", size=len(BYTES))
    store = Path(cloud.settings.image.store_dir)
    store.mkdir(parents=True, exist_ok=True)
    (store / image).write_bytes(BYTES)
    answer = cloud.post("/compute/v2.1/servers", build_server(image, networks="auto"), version="2.60")
    assert answer.status_code == 202, answer.text
    return answer.json["server"]["id"]


def read_document(cloud) -> dict:
    with cloud.database.read() as session:
        host = session.scalar(select(Host))
        return build_document(read_rows(session, host), cloud.settings)


def fetch(cloud, source, **headers):
    return cloud.get(
        source["url"].removeprefix(cloud.settings.api.hosts_url),
        user=None,
        headers={**source["headers"], **headers},
    )


def test_a_host_fetches_what_its_document_names(cloud, guest):
    source = read_document(cloud)["images"][0]["source"]
    assert set(source) == {"url", "headers"}
    answer = fetch(cloud, source)
    assert (answer.status_code, answer.data) == (200, BYTES)
    assert answer.headers["Content-Length"] == str(len(BYTES))
    assert read_document(cloud) == read_document(cloud)
    assert build_key_path(cloud.settings).stat().st_mode & 0o777 == 0o600


def test_a_host_on_this_machine_copies_the_file(cloud, guest):
    with cloud.database.write.begin() as session:
        session.scalar(select(Host)).connection = {"ansible_connection": "local"}
    image = read_document(cloud)["images"][0]
    assert image["source"] == {"path": f"{cloud.settings.image.store_dir}/{image['id']}"}


def test_nothing_else_opens_it(cloud, guest):
    """No signature, another's, of another image, in upper case, or of a host that is gone: one and the same 404."""
    source = read_document(cloud)["images"][0]["source"]
    good = source["headers"]["X-Kumo-Signature"]
    answers = {
        fetch(cloud, source, **{"X-Kumo-Signature": bad}).text for bad in ("", "0" * 64, good[:-1], good.upper())
    }
    other = dict(source, url=source["url"].rsplit("/", 1)[0] + f"/{uuid.uuid4()}")
    elsewhere = dict(source, url=source["url"].replace("/hosts/", "/hosts/0"))
    for wrong in (other, elsewhere, dict(source, url=source["url"].replace("/images/", "/images/../"))):
        assert fetch(cloud, wrong).status_code == 404
    assert len(answers) == 1
    assert fetch(cloud, source, **{"X-Kumo-Signature": "ü"}).status_code == 404
    # A signed-in user is no host.
    path = source["url"].removeprefix(cloud.settings.api.hosts_url)
    assert cloud.get(path, user="admin").status_code == 404


def test_a_host_that_a_guest_is_on_its_way_to_fetches_its_image_and_no_longer(cloud, guest):
    with cloud.database.write.begin() as session:
        own, server = session.scalar(select(Host)), session.scalar(select(Server))
        other = Host(name="other", roles=["hypervisor"], connection={"ansible_host": "192.0.2.8"})
        session.add(other)
        session.flush()
        source = build_source(other, server.image_id, cloud.settings)
        move = Migration(
            server_id=server.id, project_id="p", user_id="u", kind="live-migration", source_host_id=own.id,
            dest_host_id=other.id, old_flavor_id="1", old_flavor={}, new_flavor_id="1", new_flavor={},
        )  # fmt: skip
        session.add(move)
        image = session.get(Image, server.image_id)
        image.status, image.deleted_at = "deleted", now()  # its bytes are there for as long as a guest may need them
    assert fetch(cloud, source).status_code == 200
    with cloud.database.write.begin() as session:
        session.scalar(select(Migration)).phase = "undoing"
    assert fetch(cloud, source).status_code == 404


def test_it_closes_when_the_host_no_longer_needs_it(cloud, guest):
    source = read_document(cloud)["images"][0]["source"]
    with cloud.database.write.begin() as session:
        session.scalar(select(Server)).deleted_at = now()
    assert fetch(cloud, source).status_code == 404
