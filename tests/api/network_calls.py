"""What the tests of the Network API share: objects made by a call, and refusals by their type."""

from __future__ import annotations

from sqlalchemy import select

from web.models import Host, Port, Project, Quota

BASE = "/networking/v2.0"
SINGULAR = {
    "networks": "network",
    "subnets": "subnet",
    "ports": "port",
    "routers": "router",
    "floatingips": "floatingip",
    "security-groups": "security_group",
    "security-group-rules": "security_group_rule",
}


class Network:
    """Calls to the Network API of a `Cloud`."""

    def __init__(self, cloud):
        self.cloud = cloud

    def make(self, plural: str, user: str = "demo", **attributes) -> dict:
        """The new object's view."""
        answer = self.send("POST", f"/{plural}", {SINGULAR[plural]: attributes}, user)
        assert answer.status_code == 201, answer.text
        return answer.json[SINGULAR[plural]]

    def change(self, plural: str, object_id: str, user: str = "demo", **attributes) -> dict:
        answer = self.send("PUT", f"/{plural}/{object_id}", {SINGULAR[plural]: attributes}, user)
        assert answer.status_code == 200, answer.text
        return answer.json[SINGULAR[plural]]

    def read(self, plural: str, object_id: str, user: str = "demo") -> dict:
        answer = self.send("GET", f"/{plural}/{object_id}", user=user)
        assert answer.status_code == 200, answer.text
        return answer.json[SINGULAR[plural]]

    def list(self, plural: str, query: str = "", user: str = "demo") -> list[dict]:
        answer = self.send("GET", f"/{plural}?{query}", user=user)
        assert answer.status_code == 200, answer.text
        return answer.json[plural.replace("-", "_")]

    def remove(self, plural: str, object_id: str, user: str = "demo") -> None:
        answer = self.send("DELETE", f"/{plural}/{object_id}", user=user)
        assert answer.status_code == 204, answer.text

    def send(self, method: str, path: str, body=None, user: str | None = "demo"):
        return self.cloud.call(method, BASE + path, body, user=user)

    def refuse(self, status: int, kind: str, method: str, path: str, body=None, user: str | None = "demo") -> str:
        """The message of the refusal, which has this status and type."""
        answer = self.send(method, path, body, user)
        assert answer.status_code == status, answer.text
        problem = answer.json["NeutronError"]
        assert problem["type"] == kind, problem
        assert set(problem) == {"type", "message", "detail"}
        return problem["message"]

    def refuse_new(self, status: int, kind: str, plural: str, user: str = "demo", **attributes) -> str:
        return self.refuse(status, kind, "POST", f"/{plural}", {SINGULAR[plural]: attributes}, user)

    def refuse_change(self, status: int, kind: str, plural: str, object_id: str, user: str = "demo", **attributes):
        return self.refuse(status, kind, "PUT", f"/{plural}/{object_id}", {SINGULAR[plural]: attributes}, user)

    def project(self, name: str) -> str:
        with self.cloud.database.read() as session:
            return session.scalar(select(Project.id).where(Project.name == name))

    def limit(self, resource: str, limit: int, project: str = "demo") -> None:
        """Set a quota."""
        with self.cloud.database.write.begin() as session:
            session.merge(Quota(project_id=self.project(project), resource=resource, limit=limit))

    def bind(self, port_id: str, owner: str = "compute:nova") -> None:
        """As if the compute API had given the port to a guest on the host."""
        with self.cloud.database.write.begin() as session:
            port = session.get(Port, port_id)
            port.host_id, port.device_owner = session.scalar(select(Host.id)), owner

    def generation(self) -> int:
        with self.cloud.database.read() as session:
            return session.scalar(select(Host.generation))

    def public(self) -> dict:
        return self.list("networks", "name=public")[0]

    def make_site(self, cidr: str = "10.0.0.0/24") -> dict:
        """A network with a subnet behind a router that leads outside; their ids by noun."""
        network = self.make("networks", name="site")
        subnet = self.make("subnets", network_id=network["id"], ip_version=4, cidr=cidr)
        router = self.make("routers", name="r", external_gateway_info={"network_id": self.public()["id"]})
        answer = self.send("PUT", f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]})
        assert answer.status_code == 200, answer.text
        return {
            "network": network["id"],
            "subnet": subnet["id"],
            "router": router["id"],
            "interface": answer.json["port_id"],
        }
