"""Consoles by the API: who gets a URL, of which guests, for which versions; and what a token leads to, once."""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import parse_qs, urlparse

import pytest
from compute_cloud import COMPUTE, add_image, boot, read_server, see_host
from sqlalchemy import func, select, update

from web import console_tokens
from web.models import ConsoleToken, Host, RequestLog, Server, now
from web.reconcile.pruning import prune_rows

NOVNC = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
SERIAL = {"remote_console": {"protocol": "serial", "type": "serial"}}
PROXY = "http://127.0.0.1:6080"


@pytest.fixture
def server(cloud):
    return boot(cloud, add_image(cloud))


def ask(cloud, server, body=NOVNC, version="2.6", **options):
    return cloud.post(f"{COMPUTE}/servers/{server}/remote-consoles", body, version=version, **options)


def act(cloud, server, body, version="2.5"):
    return cloud.post(f"{COMPUTE}/servers/{server}/action", body, version=version)


def read_token(url: str) -> str:
    """The token of a console's URL, as noVNC's page and a WebSocket client find it."""
    query = parse_qs(urlparse(url).query)
    return query["token"][0] if "token" in query else parse_qs(query["path"][0].split("?", 1)[1])["token"][0]


def make(cloud, server, body=NOVNC) -> str:
    answer = ask(cloud, server, body, version="2.96")
    assert answer.status_code == 200, answer.text
    return read_token(answer.json["remote_console"]["url"])


def take(cloud, token):
    with cloud.database.write.begin() as session:
        return console_tokens.take_token(session, token)


def change(cloud, server, **columns):
    with cloud.database.write.begin() as session:
        session.execute(update(Server).where(Server.id == server).values(**columns))


@pytest.mark.parametrize("version", ["2.6", "2.8", "2.96"])
def test_a_url_of_each_kind(cloud, server, version):
    console = ask(cloud, server, version=version).json["remote_console"]
    assert (console["protocol"], console["type"]) == ("vnc", "novnc")
    assert re.fullmatch(rf"{PROXY}/vnc_lite\.html\?path=websockify%3Ftoken%3D[\w-]{{43}}", console["url"])
    console = ask(cloud, server, SERIAL, version=version).json["remote_console"]
    assert re.fullmatch(r"ws://127\.0\.0\.1:6080/\?token=[\w-]{43}", console["url"])


def test_the_actions_of_before_2_6(cloud, server):
    vnc = act(cloud, server, {"os-getVNCConsole": {"type": "novnc"}})
    assert vnc.status_code == 200
    assert vnc.json["console"]["type"] == "novnc"
    assert vnc.json["console"]["url"].startswith(f"{PROXY}/vnc_lite.html?path=")
    serial = act(cloud, server, {"os-getSerialConsole": {"type": "serial"}}, version="2.1")
    assert serial.json["console"]["url"].startswith("ws://")
    assert act(cloud, server, {"os-getVNCConsole": {"type": "xvpvnc"}}).status_code == 400
    assert act(cloud, server, {"os-getVNCConsole": {"type": "serial"}}).status_code == 400
    for action in ({"os-getVNCConsole": {"type": "novnc"}}, {"os-getSerialConsole": {"type": "serial"}}):
        assert act(cloud, server, action, version="2.6").status_code == 404
    assert ask(cloud, server, version="2.5").status_code == 404


@pytest.mark.parametrize(
    ("protocol", "kind", "version"),
    [
        ("vnc", "xvpvnc", "2.6"), ("spice", "spice-html5", "2.6"), ("rdp", "rdp-html5", "2.6"),
        ("vnc", "serial", "2.6"), ("serial", "novnc", "2.6"), ("mks", "webmks", "2.6"), ("mks", "webmks", "2.8"),
        ("spice", "spice-direct", "2.96"), ("vnc", None, "2.6"), (None, "novnc", "2.6"),
    ],
)  # fmt: skip
def test_what_there_is_not(cloud, server, protocol, kind, version):
    answer = ask(cloud, server, {"remote_console": {"protocol": protocol, "type": kind}}, version=version)
    assert answer.status_code == 400
    assert ask(cloud, server, {"remote_console": {**NOVNC["remote_console"], "more": 1}}).status_code == 400


def test_whose_consoles(cloud, server):
    assert ask(cloud, server, user="other").status_code == 404
    assert ask(cloud, server, user="reader").status_code == 403
    assert ask(cloud, server, user=None).status_code == 401
    assert ask(cloud, server, user="admin").status_code == 200
    assert ask(cloud, "00000000-0000-4000-8000-000000000009").status_code == 404


def test_guests_that_do_not_run(cloud, server):
    """409 for what is off, suspended, in the making, on its way out, or has not been seen where it is."""
    image = add_image(cloud)
    assert ask(cloud, boot(cloud, image, see=False)).status_code == 409
    for columns in (
        {"observed_state": "shutoff"},
        {"observed_consoles": {}},
        {"observed_consoles": {"host": "another", "vnc": 5900, "serial": 40000}},
    ):
        other = boot(cloud, image)
        change(cloud, other, **columns)
        assert ask(cloud, other).status_code == 409, columns
    act(cloud, server, {"pause": None})
    see_host(cloud)
    assert ask(cloud, server).status_code == 200
    act(cloud, server, {"unpause": None})
    see_host(cloud)
    act(cloud, server, {"os-stop": None})
    see_host(cloud)
    assert ask(cloud, server).status_code == 409
    assert cloud.delete(f"{COMPUTE}/servers/{server}").status_code == 204
    assert ask(cloud, server).status_code == 409


def test_a_guest_of_before_there_were_serial_consoles(cloud, server):
    seen = read_server(cloud, server).observed_consoles
    change(cloud, server, observed_consoles={**seen, "serial": None})
    assert ask(cloud, server).status_code == 200
    refused = ask(cloud, server, SERIAL)
    assert refused.status_code == 409
    assert "reboot it hard" in refused.json["conflictingRequest"]["message"]


def test_a_token_is_taken_once(cloud, server):
    token, serial = make(cloud, server), make(cloud, server, SERIAL)
    row = read_server(cloud, server)
    target = take(cloud, token)
    assert (target.server_id, target.kind, target.port) == (server, "novnc", row.observed_consoles["vnc"])
    assert target.host.id == row.host_id
    assert take(cloud, token) is None
    assert take(cloud, serial).port == row.observed_consoles["serial"]
    assert take(cloud, "") is None


@pytest.mark.parametrize(
    "columns",
    [
        {"deleted_at": now()},
        {"gone_at": now()},
        {"observed_state": "shutoff"},
        {"observed_consoles": {}},
        {"observed_consoles": "another port"},
        {"host_id": "another host"},
    ],
    ids=lambda columns: "-".join(columns),
)
def test_a_token_leads_only_to_what_it_was_made_for(cloud, server, columns):
    """Deleted, off, restarted at another port, moved to another host: the token leads nowhere, and is used up."""
    token = make(cloud, server)
    row = read_server(cloud, server)
    before = {name: getattr(row, name) for name in columns}
    if "host_id" in columns:
        with cloud.database.write.begin() as session:
            session.add(Host(id="another host", name="h2"))
    if columns.get("observed_consoles") == "another port":
        columns = {"observed_consoles": {**row.observed_consoles, "vnc": 5999}}
    change(cloud, server, **columns)
    with cloud.database.read.begin() as session:
        assert console_tokens.find_target(session, token) is None
    assert take(cloud, token) is None
    change(cloud, server, **before)
    assert take(cloud, token) is None


def test_tokens_expire_and_are_pruned(cloud, server):
    token = make(cloud, server)
    with cloud.database.write.begin() as session:
        left = session.scalar(select(ConsoleToken.expires_at)) - now()
        assert timedelta(seconds=110) < left <= timedelta(seconds=cloud.settings.console.token_ttl_s)
        session.execute(update(ConsoleToken).values(expires_at=now()))
    with cloud.database.read.begin() as session:
        assert console_tokens.find_target(session, token) is None
    with cloud.database.write.begin() as session:
        prune_rows(session, cloud.settings)
        assert session.scalar(select(func.count()).select_from(ConsoleToken)) == 0
    assert take(cloud, token) is None


def test_nothing_that_is_kept_has_the_token(cloud, server):
    token = make(cloud, server)
    with cloud.database.read.begin() as session:
        row = session.scalar(select(ConsoleToken))
        logged = session.scalars(select(RequestLog.path)).all()
    assert token not in str({column.name: getattr(row, column.name) for column in ConsoleToken.__table__.columns})
    assert not [path for path in logged if token in path]


def test_what_a_token_leads_to(cloud, server):
    token = make(cloud, server)
    path = f"{COMPUTE}/os-console-auth-tokens/{token}"
    assert cloud.get(path, version="2.31").status_code == 403
    answer = cloud.get(path, user="admin", version="2.31")
    assert answer.status_code == 200
    port = read_server(cloud, server).observed_consoles["vnc"]
    assert answer.json["console"] == {
        "instance_uuid": server, "host": "127.0.0.1", "port": port, "internal_access_path": None,
    }  # fmt: skip
    assert cloud.get(path, user="admin", version="2.30").status_code == 401
    assert cloud.get(f"{COMPUTE}/os-console-auth-tokens/nope", user="admin", version="2.31").status_code == 404
    assert cloud.get(f"{COMPUTE}/os-console-auth-tokens/nope", user="admin", version="2.1").status_code == 404
    assert take(cloud, token) is not None
    assert cloud.get(path, user="admin", version="2.31").status_code == 404
