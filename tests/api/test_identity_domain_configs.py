"""Domains' configurations: known groups and options, kept and told, the secret one never; nothing acts on them."""

from __future__ import annotations

from sqlalchemy import select

from web.models import DomainOption

V3 = "/identity/v3"
CONFIG = {"identity": {"driver": "ldap"}, "ldap": {"url": "ldap://x/", "user_tree_dn": "ou=Users"}}
CANARY = "canary-4711-secret"


def ask(cloud, method, path, config=None, status=200, user="admin"):
    body = None if config is None else {"config": config}
    answer = cloud.call(method, f"{V3}/domains{path}", body, user=user)
    assert answer.status_code == status, (method, path, answer.text)
    return answer.json["config"] if answer.data and status < 300 else None


def make_domain(cloud):
    return cloud.post(f"{V3}/domains", {"domain": {"name": "d"}}, user="admin").json["domain"]["id"]


def test_defaults(cloud):
    """What is true of every domain here: rows, so many in a list, and no LDAP."""
    whole = ask(cloud, "GET", "/config/default")
    assert whole["identity"] == {"driver": "sql", "list_limit": cloud.settings.api.max_limit}
    assert "url" in whole["ldap"]
    assert set(whole["ldap"].values()) == {None}
    assert ask(cloud, "GET", "/config/ldap/default") == {"ldap": whole["ldap"]}
    for name, value in whole["identity"].items():
        assert ask(cloud, "GET", f"/config/identity/{name}/default") == {name: value}
    ask(cloud, "GET", "/config/ldap/password/default", status=403)
    ask(cloud, "GET", "/config/token/default", status=403)
    ask(cloud, "GET", "/config/default", status=403, user="demo")


def test_life(cloud):
    path = f"/{make_domain(cloud)}/config"
    ask(cloud, "GET", path, status=404)
    assert ask(cloud, "PUT", path, CONFIG, 201) == CONFIG
    assert ask(cloud, "GET", f"{path}/ldap") == {"ldap": CONFIG["ldap"]}
    assert ask(cloud, "GET", f"{path}/ldap/url") == {"url": "ldap://x/"}
    assert ask(cloud, "PATCH", path, {"ldap": {"url": "u"}})["ldap"] == {**CONFIG["ldap"], "url": "u"}
    changed = ask(cloud, "PATCH", f"{path}/identity", {"identity": {"driver": "x", "list_limit": 5}})
    assert changed["identity"] == {"driver": "x", "list_limit": 5}
    assert ask(cloud, "PATCH", f"{path}/identity/driver", {"driver": "y"})["identity"]["driver"] == "y"
    ask(cloud, "DELETE", f"{path}/identity/driver", status=204)
    ask(cloud, "DELETE", f"{path}/identity/driver", status=404)
    ask(cloud, "GET", f"{path}/identity/driver", status=404)
    ask(cloud, "PATCH", f"{path}/identity/driver", {"driver": "y"}, 404)
    ask(cloud, "DELETE", f"{path}/identity", status=204)
    ask(cloud, "GET", f"{path}/identity", status=404)
    assert ask(cloud, "PUT", path, {"identity": {"driver": "sql"}}, 200) == {"identity": {"driver": "sql"}}
    ask(cloud, "DELETE", path, status=204)
    ask(cloud, "GET", path, status=404)


def test_refused(cloud):
    """403 for what no domain can have, as the reference; 400 for what is no configuration; 404 without a domain."""
    path = f"/{make_domain(cloud)}/config"
    ask(cloud, "PUT", path, CONFIG, 201)
    for where, config, status in (
        (path, {"token": {"driver": "x"}}, 403),
        (path, {"ldap": {"galaxy": "x"}}, 403),
        (path, {"ldap": {}}, 403),
        (path, {"ldap": "x"}, 403),
        (path, {}, 400),
        (path, [], 400),
        (path, {"ldap": {"url": "x" * 5000}}, 400),
        (path, {"ldap": {"password": 7}}, 400),
        (f"{path}/ldap", {"identity": {"driver": "x"}}, 403),
        (f"{path}/ldap", {**CONFIG}, 403),
        (f"{path}/ldap/url", {"suffix": "x"}, 403),
        (f"{path}/galaxy", {"galaxy": {"x": 1}}, 403),
        ("/none/config", CONFIG, 404),
    ):
        ask(cloud, "PATCH", where, config, status)
    for method in ("PUT", "PATCH", "GET", "DELETE"):
        ask(cloud, method, path, CONFIG if method in ("PUT", "PATCH") else None, 403, user="demo")
    assert ask(cloud, "GET", path) == CONFIG


def test_s37_the_password_is_sealed_and_never_told(cloud):
    path = f"/{make_domain(cloud)}/config"
    for method, where, config in (
        ("PUT", path, {"ldap": {"password": CANARY, "url": "u"}}),
        ("PATCH", path, {"ldap": {"password": CANARY}}),
        ("PATCH", f"{path}/ldap/password", {"password": CANARY}),
        ("PATCH", path, {"ldap": {"password": [CANARY]}}),
        ("PATCH", path, {"ldap": CANARY}),
        ("PATCH", path, CANARY),
        ("GET", path, None),
        ("GET", f"{path}/ldap/password", None),
    ):
        body = None if config is None else {"config": config}
        answer = cloud.call(method, f"{V3}/domains{where}", body, user="admin")
        assert CANARY not in answer.text, (method, where)
    ask(cloud, "GET", f"{path}/ldap/password", status=404)
    with cloud.database.read() as session:
        kept = session.scalar(select(DomainOption.value).where(DomainOption.name == "password"))
    assert CANARY not in str(kept)
    ask(cloud, "DELETE", f"{path}/ldap/password", status=204)
    ask(cloud, "DELETE", f"{path}/ldap/password", status=404)


def test_it_has_no_effect_and_goes_with_its_domain(cloud):
    """Users of the domain stay rows; the password rules, which there are none of, everybody may read."""
    domain = make_domain(cloud)
    ask(cloud, "PUT", f"/{domain}/config", CONFIG, 201)
    user = {"name": "u", "password": "one", "domain_id": domain}
    assert cloud.post(f"{V3}/users", {"user": user}, user="admin").status_code == 201
    login = {"user": {"name": "u", "domain": {"id": domain}, "password": "one"}}
    identity = {"methods": ["password"], "password": login}
    assert cloud.http.post(f"{V3}/auth/tokens", json={"auth": {"identity": identity}}).status_code == 201
    cloud.patch(f"{V3}/domains/{domain}", {"domain": {"enabled": False}}, user="admin")
    assert cloud.delete(f"{V3}/domains/{domain}", user="admin").status_code == 204
    with cloud.database.read() as session:
        assert session.scalars(select(DomainOption)).all() == []
    none = {"password_regex": None, "password_regex_description": None}
    assert ask(cloud, "GET", "/default/config/security_compliance", user="demo") == {"security_compliance": none}
    assert ask(cloud, "GET", "/default/config/security_compliance/password_regex") == {"password_regex": None}
    ask(cloud, "GET", "/default/config/security_compliance/lockout", status=403)
    ask(cloud, "GET", "/other/config/security_compliance", status=403)
