"""Credentials, OS-EC2 ones, ec2tokens and s3tokens: whose they are, what they open, and that they are sealed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from urllib.parse import quote

import pytest
from sqlalchemy import select

from web.models import Credential, Project, User, now
from web.signatures import STEP_S, _build_passcode

V3 = "/identity/v3"
DEFAULT = {"id": "default"}
CANARY = "canary-4711-secret"


def read_id(cloud, model, name):
    with cloud.database.read() as session:
        return session.scalar(select(model.id).where(model.name == name))


@pytest.fixture
def ids(cloud):
    return {name: read_id(cloud, User, name) for name in ("demo", "other", "admin")} | {
        f"p_{name}": read_id(cloud, Project, name) for name in ("demo", "other", "admin")
    }


def test_a_life(cloud, ids):
    """Made, listed, changed, gone; sealed at rest; everybody has one's own, admins have all."""
    body = {"type": "cert", "blob": CANARY}
    made = cloud.post(f"{V3}/credentials", {"credential": body})
    assert made.status_code == 201, made.text
    made = made.json["credential"]
    assert body.items() <= made.items()
    assert made["user_id"] == ids["demo"]
    path = f"{V3}/credentials/{made['id']}"
    with cloud.database.read() as session:
        sealed = session.scalar(select(Credential.sealed))
    assert CANARY not in sealed
    assert cloud.http.get(f"{V3}/auth/projects", headers={"X-Auth-Token": sealed.rstrip("=")}).status_code == 401
    assert cloud.get(path).json["credential"] == made
    assert cloud.get(f"{V3}/credentials").json["credentials"] == [made]
    assert cloud.get(f"{V3}/credentials", user="other").json["credentials"] == []
    for query, count in ((f"user_id={ids['demo']}&type=cert", 1), ("type=ec2", 0), (f"user_id={ids['other']}", 0)):
        assert len(cloud.get(f"{V3}/credentials?{query}", user="admin").json["credentials"]) == count
    for method in ("GET", "PATCH", "DELETE"):
        content = {"credential": {"blob": "x"}} if method == "PATCH" else None
        assert cloud.call(method, path, content, user="other").status_code == 404
    assert cloud.patch(path, {"credential": {"blob": "new"}}).json["credential"]["blob"] == "new"
    for user in ("demo", "admin"):
        for change in ({"user_id": ids["other"]}, {"project_id": ids["p_demo"]}, {"type": "totp"}, {"id": "x"}):
            assert cloud.patch(path, {"credential": change}, user=user).status_code == 400
    same = {"user_id": ids["demo"], "project_id": None, "type": "cert", "id": made["id"]}
    assert cloud.patch(path, {"credential": same}).json["credential"] == {**made, "blob": "new"}
    assert cloud.delete(path, user="admin").status_code == 204
    assert cloud.delete(path).status_code == 404
    good = json.dumps({"access": "a", "secret": CANARY})
    ec2 = {"type": "ec2", "blob": good, "project_id": ids["p_demo"]}
    for change, status in (
        ({"blob": "{"}, 400),
        ({"blob": json.dumps({"access": "a"})}, 400),
        ({"project_id": None}, 400),
        ({"project_id": ids["p_other"]}, 403),
        ({"user_id": ids["other"]}, 403),
        ({"blob": [CANARY]}, 400),
        ({}, 201),
        ({}, 409),
    ):
        answer = cloud.post(f"{V3}/credentials", {"credential": {**ec2, **change}})
        assert answer.status_code == status, (change, answer.text)
        assert status == 201 or CANARY not in answer.text
    path = f"{V3}/credentials/{hashlib.sha256(b'a').hexdigest()}"
    assert cloud.patch(path, {"credential": {"blob": "{}"}}).status_code == 400
    assert cloud.delete(f"{V3}/users/{ids['demo']}", user="admin").status_code == 204
    assert cloud.get(path, user="admin").status_code == 404


def test_admins_make_one_for_any_project(cloud, ids):
    """It is worth what roles its user has there; with OS-EC2, and for oneself, the role is needed at once."""
    body = {"type": "ec2", "user_id": ids["demo"], "project_id": ids["p_other"]}
    body["blob"] = json.dumps({"access": "a", "secret": "s"})
    made = cloud.post(f"{V3}/credentials", {"credential": body}, user="admin")
    assert made.status_code == 201, made.text
    signed = {"credentials": sign_v2({"access": "a", "secret": "s"})}
    assert cloud.post(f"{V3}/ec2tokens", signed, user="admin").status_code == 401
    missing = {"credential": {**body, "project_id": "none", "type": "cert"}}
    assert cloud.post(f"{V3}/credentials", missing, user="admin").status_code == 404
    assert cloud.post(f"{V3}/credentials", {"credential": {**body, "type": "cert"}}).status_code == 403
    path = f"{V3}/users/{ids['demo']}/credentials/OS-EC2"
    assert cloud.post(path, {"tenant_id": ids["p_other"]}, user="admin").status_code == 403


def test_another_access_key(cloud, ids):
    """The id stays; the new key opens what the old one did, which opens nothing any more; keys are never shared."""
    body = {"type": "ec2", "project_id": ids["p_demo"], "blob": json.dumps({"access": "a", "secret": "s"})}
    made = cloud.post(f"{V3}/credentials", {"credential": body}).json["credential"]
    path = f"{V3}/credentials/{made['id']}"
    other = {"credential": {**body, "blob": json.dumps({"access": "c", "secret": "s"})}}
    assert cloud.post(f"{V3}/credentials", other).status_code == 201
    for access, status in (("c", 409), ("b", 200), ("b", 200)):
        changed = {"credential": {"blob": json.dumps({"access": access, "secret": "t"})}}
        assert cloud.patch(path, changed).status_code == status
    assert cloud.get(path).json["credential"]["id"] == made["id"]
    for access, secret, status in (("a", "s", 401), ("b", "s", 401), ("b", "t", 200)):
        signed = {"credentials": sign_v2({"access": access, "secret": secret})}
        assert cloud.post(f"{V3}/ec2tokens", signed, user="admin").status_code == status
    assert cloud.get(f"{V3}/users/{ids['demo']}/credentials/OS-EC2/b").status_code == 200
    assert cloud.get(f"{V3}/users/{ids['demo']}/credentials/OS-EC2/a").status_code == 404
    assert cloud.post(f"{V3}/credentials", {"credential": body}).status_code == 409, "its first key is its id"


def sign_v2(made, **changes):
    params = {
        "AWSAccessKeyId": made["access"],
        "SignatureMethod": "HmacSHA256",
        "SignatureVersion": "2",
        "Timestamp": now().strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    query = "&".join(f"{name}={quote(params[name], safe='-_.~')}" for name in sorted(params))
    text = f"GET\nec2.example\n/\n{query}".encode()
    signature = base64.b64encode(hmac.new(made["secret"].encode(), text, hashlib.sha256).digest()).decode()
    given = {"access": made["access"], "signature": signature, "verb": "GET", "host": "ec2.example", "path": "/"}
    return {**given, "params": params, **changes}


def test_ec2(cloud, ids):
    """A service gets a token of the key's user and project for a signed request; it ends with its reasons."""
    path = f"{V3}/users/{ids['demo']}/credentials/OS-EC2"
    made = cloud.post(path, {"tenant_id": ids["p_demo"]})
    assert made.status_code == 201, made.text
    made = made.json["credential"]
    assert (made["user_id"], made["tenant_id"]) == (ids["demo"], ids["p_demo"])
    assert cloud.get(path).json["credentials"] == [made]
    one = f"{path}/{made['access']}"
    assert cloud.get(one).json["credential"] == made
    assert cloud.get(f"{V3}/credentials?type=ec2").json["credentials"][0]["user_id"] == ids["demo"]
    with cloud.database.read() as session:
        assert made["secret"] not in session.scalar(select(Credential.sealed))
    for method, where, body, user, status in (
        ("POST", path, {"tenant_id": ids["p_other"]}, "demo", 403),
        ("POST", path, {"tenant_id": "none"}, "demo", 403),
        ("POST", path, {}, "demo", 400),
        ("POST", path, {"tenant_id": ids["p_demo"]}, "other", 403),
        ("GET", path, None, "other", 403),
        ("GET", one, None, "other", 403),
        ("DELETE", one, None, "other", 403),
        ("GET", f"{path}/none", None, "demo", 404),
        ("GET", one, None, "admin", 200),
    ):
        assert cloud.call(method, where, body, user=user).status_code == status, (method, where, user)

    def ask(given, user="admin", key="credentials"):
        return cloud.post(f"{V3}/ec2tokens", {key: given}, user=user)

    assert ask(sign_v2(made), user=None).status_code == 401
    assert ask(sign_v2(made), user="demo").status_code == 403, "only services may ask"
    answer = ask(sign_v2(made))
    assert answer.status_code == 200, answer.text
    token = answer.json["token"]
    assert (token["user"]["id"], token["project"]["id"]) == (ids["demo"], ids["p_demo"])
    assert token["methods"] == ["ec2credential"]
    text = answer.headers["X-Subject-Token"]
    assert cloud.http.get("/compute/v2.1/servers", headers={"X-Auth-Token": text}).status_code == 200
    assert ask(sign_v2(made), key="ec2Credentials").status_code == 200
    refused = [
        ask(sign_v2(made, signature="wrong")),
        ask(sign_v2(made, access="none")),
        ask(sign_v2({"access": "none", "secret": ""})),
        ask(sign_v2(made, verb="POST")),
    ]
    assert {one.status_code for one in refused} == {401}
    assert len({one.text for one in refused}) == 1
    assert cloud.post(f"{V3}/ec2tokens", {}, user="admin").status_code == 400
    signed = f"GET\n\n\n{now().strftime('%a, %d %b %Y %H:%M:%S +0000')}\n/bucket".encode()
    digest = hmac.new(made["secret"].encode(), signed, hashlib.sha1).digest()
    given = {"access": made["access"], "token": base64.b64encode(signed).decode()}
    given["signature"] = base64.b64encode(digest).decode()
    answer = cloud.post(f"{V3}/s3tokens", {"credentials": given}, user="admin")
    assert answer.status_code == 200, answer.text
    assert answer.json["token"]["project"]["id"] == ids["p_demo"]
    assert "X-Subject-Token" not in answer.headers
    assert cloud.post(f"{V3}/s3tokens", {"credentials": given}).status_code == 403
    assert cloud.post(f"{V3}/s3tokens", {"credentials": {**given, "token": "eA=="}}, user="admin").status_code == 401
    with cloud.database.write.begin() as session:
        session.get(Project, ids["p_demo"]).enabled = False
    assert ask(sign_v2(made)).status_code == 401
    with cloud.database.write.begin() as session:
        session.get(Project, ids["p_demo"]).enabled = True
    assert ask(sign_v2(made)).status_code == 200
    assert cloud.delete(one).status_code == 204
    assert ask(sign_v2(made)).status_code == 401


def test_a_restricted_application_credential_sees_no_secret(cloud, ids):
    """OSSA-2020-004: an EC2 secret would be worth all of its user's roles."""
    path = f"{V3}/users/{ids['demo']}"
    body = {"application_credential": {"name": "c", "roles": [{"name": "reader"}]}}
    made = cloud.post(f"{path}/application_credentials", body).json["application_credential"]
    once = {"Idempotency-Key": "k"}
    ec2 = {"tenant_id": ids["p_demo"]}
    assert cloud.post(f"{path}/credentials/OS-EC2", ec2, headers=once).status_code == 201
    part = {
        "methods": ["application_credential"],
        "application_credential": {"id": made["id"], "secret": made["secret"]},
    }
    text = cloud.http.post(f"{V3}/auth/tokens", json={"auth": {"identity": part}}).headers["X-Subject-Token"]
    for method, where, content in (
        ("GET", f"{path}/credentials/OS-EC2", None),
        ("POST", f"{path}/credentials/OS-EC2", {"tenant_id": ids["p_demo"]}),
        ("GET", f"{V3}/credentials", None),
        ("POST", f"{V3}/credentials", {"credential": {"type": "totp", "blob": "x"}}),
    ):
        answer = cloud.http.open(where, method=method, json=content, headers={"X-Auth-Token": text})
        assert answer.status_code == 403, (method, where)
    again = cloud.http.post(f"{path}/credentials/OS-EC2", json=ec2, headers={"X-Auth-Token": text, **once})
    assert again.status_code == 409, "nor by sending again what its user sent"


def test_one_time_passwords(cloud, ids):
    """A seed lets its user in, with each password once, and wrong ones are throttled."""
    seed = base64.b32encode(b"12345678901234567890").decode()
    cloud.settings.identity.lockout_attempts = 3
    assert cloud.post(f"{V3}/credentials", {"credential": {"type": "totp", "blob": seed}}).status_code == 201

    def log_in(passcode, user="demo"):
        part = {"user": {"name": user, "domain": DEFAULT, "passcode": passcode}}
        scope = {"project": {"name": "demo", "domain": DEFAULT}}
        body = {"auth": {"identity": {"methods": ["totp"], "totp": part}, "scope": scope}}
        return cloud.http.post(f"{V3}/auth/tokens", json=body)

    passcode = _build_passcode(b"12345678901234567890", int(now().timestamp()) // STEP_S)
    answer = log_in(passcode)
    assert answer.status_code == 201, answer.text
    assert answer.json["token"]["methods"] == ["totp"]
    assert log_in(passcode).status_code == 401, "used up"
    assert log_in(passcode, "other").status_code == 401
    assert [log_in("000").status_code for _ in range(3)] == [401, 401, 429]
