"""Calls that shelve servers on hosts made of dicts, and what is looked at then."""

from __future__ import annotations

from compute_cloud import COMPUTE, read_server
from sqlalchemy import select

from web.models import Server, Volume

IMAGES = "/image/v2/images"
OFFLOADED = (None, "SHELVED_OFFLOADED", None)  # as `Hosts.where` has it


def kept(hosts, offload_time_s: int = -1) -> None:
    hosts.cloud.settings.compute.shelved_offload_time_s = offload_time_s


def settle(hosts) -> None:
    """Until nothing is due, by what the loop itself goes by: fakes that poll are polled."""
    for _ in range(3):
        hosts.settle()


def shelve(hosts, server: str, **options) -> str | None:
    """Shelved as far as it goes by itself; the id of its image."""
    hosts.act(server, "shelve", expected=202, **options)
    settle(hosts)
    return read_server(hosts.cloud, server).shelved_image_id


def show(hosts, image: str) -> dict | None:
    answer = hosts.cloud.get(f"{IMAGES}/{image}", user="admin")
    return answer.json if answer.status_code == 200 else None


def change(hosts, server: str, **columns) -> None:
    with hosts.cloud.database.write.begin() as session:
        row = session.scalar(select(Server).where(Server.id == server))
        for name, value in columns.items():
            setattr(row, name, value)


def find_row(hosts, name: str, server: str) -> dict | None:
    """The server in the document that host ``name`` was last given."""
    return next((row for row in hosts.fakes[name].documents[-1]["servers"] if row["id"] == server), None)


def last_action(hosts, server: str) -> tuple:
    return hosts.read_actions(server)[-1]


def make_volume(hosts) -> str:
    volume = hosts.call("POST", "/volume/v3/volumes", {"volume": {"size": 1}}, 202)["volume"]["id"]
    hosts.turn("s")
    return volume


def attach(hosts, server: str, volume: str, version: str = "2.96", status: int = 200) -> None:
    answer = hosts.cloud.post(
        f"{COMPUTE}/servers/{server}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume}},
        user="admin", version=version,
    )  # fmt: skip
    assert answer.status_code == status, answer.text


def read_status(hosts, volume: str) -> str:
    with hosts.cloud.database.read() as session:
        return session.get(Volume, volume).status


def read_exports(hosts) -> list[str]:
    return [one["id"] for row in hosts.fakes["s"].documents[-1]["volumes"] for one in row.get("exports", ())]
