"""A host made of a dict, for tests of the control plane: takes a document, answers as kumo_host does.

Fakes are for these tiers only; tests/host and tests/e2e use real ones.
"""

from __future__ import annotations

from web.reconcile.run import Outcome


class FakeHost:
    """``state``: server id to {"state", "reason", "reboot_done", "start_done"}; ``fail``: server id to a sentence."""

    def __init__(self):
        self.state: dict[str, dict] = {}
        self.fail: dict[str, str] = {}
        self.down: str | None = None
        self.documents: list[dict] = []
        self.before = lambda document: None  # called inside the run: what happens meanwhile

    def __call__(self, settings, name, connection, document) -> Outcome:
        self.documents.append(document)
        self.before(document)
        if self.down:
            return Outcome(ok=False, error=self.down)
        results, consoles = {}, {}
        for server in document["servers"]:
            key = server["id"]
            results[key] = {"ok": key not in self.fail, "error": self.fail.get(key)}
            if key in self.fail:
                continue
            if server["wanted"] == "absent":
                self.state.pop(key, None)
                continue
            row = self.state.setdefault(
                key,
                {"state": "shutoff", "reason": "unknown", "reboot_done": server["reboot"]["wanted"], "start_done": 0},
            )
            shut_inside = row["state"] == "shutoff" and row["reason"] == "shutdown"
            if server["power"] == "off":
                row |= {"state": "shutoff", "reason": "destroyed"}
            elif not shut_inside or server["start"]["wanted"] > row["start_done"]:
                row |= {"state": "running", "reason": "booted"}
            row["start_done"], row["reboot_done"] = server["start"]["wanted"], server["reboot"]["wanted"]
            if server["console"]:
                consoles[key] = {"seq": server["console"]["wanted"], "text": "login:"}
        observed = {
            "generation": document["generation"],
            "host": {"vcpus": 8, "memory_mb": 16384, "disk_gb": 100},
            "servers": {key: {**row, "console": consoles.get(key)} for key, row in self.state.items()},
            "ports": {port["id"]: {"state": "active"} for port in document["ports"]},
            "routers": {router["id"]: {"state": "active"} for router in document["routers"]},
            "floating_ips": {
                row["id"]: {"state": "active"} for router in document["routers"] for row in router["floating_ips"]
            },
            "orphans": {"domains": [], "disks": []},
            "tasks": [],
        }
        result = {"changed": True, "actions": [], "objects": {"servers": results}, "pending": False}
        return Outcome(ok=True, result={**result, "observed": observed})
