"""What other services say of a server: its network or a volume of it changed, so its host is to look at it anew.

Source: Compute API reference, "Create external events (os-server-external-events)". Hosts converge to their documents,
so that whatever happened outside is answered by one more run. Events of things that no host has (power of bare metal,
accelerators, images put on a volume) are no event here: 400.
"""

from __future__ import annotations

from sqlalchemy import select

from ...fields import UUID, field, items, mapping, one_of, since, text, until
from ...http import Context
from ...models import Server, VolumeAttachment, touch
from ...policy import rule
from ...routes import Reply, Route

NETWORK_EVENTS = ("network-changed", "network-vif-plugged", "network-vif-unplugged", "network-vif-deleted")
EVENTS = (*NETWORK_EVENTS, "volume-extended")
MOST = 1000


def _build_fields(names: tuple[str, ...]) -> dict:
    event = mapping(
        {
            "name": one_of(*names),
            "server_uuid": UUID,
            "status": one_of("failed", "completed", "in-progress"),
            "tag": text(255),
        },
        required=("name", "server_uuid"),
    )
    return {**items(event, MOST), "minItems": 1}


FIELDS_2_1 = {"events": field(_build_fields(NETWORK_EVENTS), until("2.50"), required=True)}
FIELDS = {"events": field(_build_fields(EVENTS), since("2.51"), required=True)}


def create(ctx: Context) -> Reply:
    """Each server's host is told; the answer says of each event whether it found one (207: not all did)."""
    events = ctx.body["events"]
    ids = {event["server_uuid"] for event in events}
    alive = (Server.id.in_(ids), Server.gone_at.is_(None), Server.deleted_at.is_(None))
    servers = {server.id: server for server in ctx.session.scalars(select(Server).where(*alive))}
    attached = {
        (attachment.server_id, attachment.volume_id)
        for attachment in ctx.session.scalars(select(VolumeAttachment).where(VolumeAttachment.server_id.in_(ids)))
    }
    answered, hosts = [], set()
    for event in events:
        code = _choose_code(event, servers.get(event["server_uuid"]), attached)
        status = event.get("status", "completed") if code == 200 else "failed"
        answered.append({**event, "status": status, "code": code})
        if code == 200:
            hosts.add(servers[event["server_uuid"]].host_id)
    for host_id in sorted(hosts):
        touch(ctx.session, host_id, ctx.request_id)
    all_well = all(event["code"] == 200 for event in answered)
    return Reply({"events": answered}, 200 if all_well else 207)


def _choose_code(event: dict, server: Server | None, attached: set[tuple[str, str]]) -> int:
    """200; 404: no such server (or volume in it); 422: it has no host; 400: the event lacks its tag."""
    if server is None:
        return 404
    if server.host_id is None:
        return 422
    if event["name"] == "volume-extended":
        if not event.get("tag"):
            return 400
        return 200 if (server.id, event["tag"]) in attached else 404
    return 200


CREATE = rule("compute:server_external_events:create", "rule:service")
PATH = "/os-server-external-events"
ROUTES = [
    Route("POST", PATH, CREATE, FIELDS_2_1, create, None, until="2.50"),
    Route("POST", PATH, CREATE, FIELDS, create, None, since="2.51"),
]
