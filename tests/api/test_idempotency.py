"""Requests that are sent again under their `Idempotency-Key`: done once, answered the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from compute_cloud import COMPUTE, add_image, build_server
from fake_host import FakeHost
from sqlalchemy import func, select

from web.models import Host, IdempotentAnswer, Keypair, RequestLog, Server, now
from web.reconcile.loop import Worker

TOKEN = {"auth": {"identity": {"methods": ["password"], "password": {"user": {"id": "x", "password": "y"}}}}}
KEYPAIR = {"keypair": {"name": "laptop"}}


def post(cloud, path: str, body, key: str, **options):
    return cloud.post(path, body, headers={"Idempotency-Key": key}, **options)


def count(cloud, model) -> int:
    with cloud.database.read() as session:
        return session.scalar(select(func.count()).select_from(model))


@pytest.fixture
def body(cloud):
    return build_server(add_image(cloud), networks="none")


def create(cloud, body, key: str, version: str = "2.96", **options):
    return post(cloud, f"{COMPUTE}/servers", body, key, version=version, **options)


def test_a_create_that_is_sent_again_is_done_once(cloud, body):
    first = create(cloud, body, "order-1")
    assert first.status_code == 202
    assert "Idempotency-Replayed" not in first.headers
    with cloud.database.read() as session:
        generation = session.scalar(select(Host.generation))
    again = create(cloud, body, "order-1")
    assert (again.status_code, again.json) == (202, first.json)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["X-Openstack-Request-Id"] != first.headers["X-Openstack-Request-Id"]
    assert count(cloud, Server) == 1
    with cloud.database.read() as session:
        assert session.scalar(select(Host.generation)) == generation, "no host hears of it again"


def test_the_same_body_in_other_words_is_the_same(cloud, body):
    first = create(cloud, body, '"order-1"')
    server = body["server"]
    again = create(cloud, {"server": dict(reversed(server.items()))}, "order-1")
    assert again.json == first.json
    assert count(cloud, Server) == 1


@pytest.mark.parametrize("change", ["body", "path", "version", "query"])
def test_another_request_under_a_used_key_is_refused(cloud, body, change):
    assert create(cloud, body, "order-1").status_code == 202
    if change == "body":
        answer = create(cloud, {"server": {**body["server"], "name": "other"}}, "order-1")
    elif change == "path":
        answer = post(cloud, f"{COMPUTE}/os-keypairs", KEYPAIR, "order-1")
    elif change == "version":
        answer = create(cloud, body, "order-1", version="2.95")
    else:
        answer = post(cloud, f"{COMPUTE}/servers?x=1", body, "order-1", version="2.96")
    assert answer.status_code == 409
    message = answer.json["conflictingRequest"]["message"]
    assert message == (
        "Idempotency-Key order-1 was used for another request (POST /compute/v2.1/servers); use a new key for this one."
    )
    assert (count(cloud, Server), count(cloud, Keypair)) == (1, 0)


def test_keys_are_a_users_own_in_a_project(cloud):
    for user in ("demo", "other", "admin"):
        answer = post(cloud, f"{COMPUTE}/os-keypairs", KEYPAIR, "order-1", user=user)
        assert answer.status_code == 200
        assert "Idempotency-Replayed" not in answer.headers
    assert count(cloud, Keypair) == 3


def test_a_refused_request_may_be_tried_again(cloud, body):
    wrong = {"server": {**body["server"], "flavorRef": "no-such"}}
    assert create(cloud, wrong, "order-1").status_code == 400
    assert count(cloud, IdempotentAnswer) == 0
    assert create(cloud, body, "order-1").status_code == 202


def test_what_is_kept_is_sealed(cloud):
    """A private key that was made for the user is in no column that can be read."""
    answer = post(cloud, f"{COMPUTE}/os-keypairs", KEYPAIR, "order-1", version="2.91")
    secret = answer.json["keypair"]["private_key"]
    with cloud.database.read() as session:
        kept = session.scalar(select(IdempotentAnswer))
        assert not any(line in str(vars(kept)) for line in secret.splitlines()[1:-1])
    assert post(cloud, f"{COMPUTE}/os-keypairs", KEYPAIR, "order-1", version="2.91").json == answer.json


def test_a_deletion_that_is_sent_again_is_no_404(cloud):
    cloud.post(f"{COMPUTE}/os-keypairs", KEYPAIR)
    for _ in range(2):
        answer = cloud.delete(f"{COMPUTE}/os-keypairs/laptop", headers={"Idempotency-Key": "gone"})
        assert (answer.status_code, answer.data) == (202, b"")
    assert cloud.delete(f"{COMPUTE}/os-keypairs/laptop").status_code == 404


def test_of_many_at_the_same_time_one_is_done(cloud, body):
    cloud.login("demo")

    def send(_):
        http = cloud.app.test_client()
        headers = {"X-Auth-Token": cloud.login("demo"), "Idempotency-Key": "order-1"}
        headers["OpenStack-API-Version"] = "compute 2.96"
        return http.post(f"{COMPUTE}/servers", json=body, headers=headers)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(send, range(6)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json["server"]["id"] for answer in answers}) == 1
    assert count(cloud, Server) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 5


@pytest.mark.parametrize("key", ["", " ", "two words", "ü", "x" * 256, "a\tb"])
def test_what_is_no_key_is_refused(cloud, body, key):
    answer = create(cloud, body, key)
    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json["badRequest"]["message"]
    assert count(cloud, Server) == 0


@pytest.mark.parametrize("header", ["Idempotency-Key", "Kumo-Dry-Run"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/identity/v3/users"),
        ("PUT", "/image/v2/images/x/file"),
        ("POST", "/identity/v3/auth/tokens"),
    ],
)
def test_where_it_is_not_to_be_had_it_is_refused(cloud, header, method, path):
    """Requests with transactions of their own, and those without a user."""
    body = {"user": {"name": "new"}} if "users" in path else TOKEN
    options = {"body": body}
    if "file" in path:
        options = {"data": b"x", "content_type": "application/octet-stream"}
    answer = cloud.call(method, path, user="admin", headers={header: "true"}, **options)
    assert answer.status_code == 400
    assert f"{method} {path} cannot be asked for with the header {header}" in answer.text


def test_reads_take_no_notice(cloud):
    for _ in range(2):
        answer = cloud.get(f"{COMPUTE}/servers", headers={"Idempotency-Key": "reading", "Kumo-Dry-Run": "true"})
        assert answer.status_code == 200
    assert count(cloud, IdempotentAnswer) == 0


def test_answers_are_pruned(cloud, body):
    create(cloud, body, "old")
    with cloud.database.write.begin() as session:
        session.scalar(select(IdempotentAnswer)).created_at = now() - timedelta(seconds=86401)
    post(cloud, f"{COMPUTE}/os-keypairs", KEYPAIR, "new")
    worker = Worker(cloud.settings, cloud.database, run=FakeHost())
    worker.prune()
    worker.pool.shutdown()
    with cloud.database.read() as session:
        assert session.scalars(select(IdempotentAnswer.key)).all() == ["new"]
        assert session.scalar(select(func.count()).select_from(RequestLog)) == 2
