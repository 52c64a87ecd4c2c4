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
        self.volumes: dict[str, dict] = {}  # volumes and snapshots, as a storage host has them
        self.copying: set[str] = set()  # ids of volumes that take their time
        self.snapshot_in_use = False  # of its pool: snapshots and copies are of one moment
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
        results_of_volumes, exports = self._store_volumes(document)
        for server in document["servers"]:
            if server["id"] in self.state:
                self.state[server["id"]]["volumes"] = [one["attachment"] for one in server.get("volumes", [])]
        observed = {
            "exports": exports,
            "volumes": {key: row for key, row in self.volumes.items() if row["kind"] == "volumes"},
            "snapshots": {key: row for key, row in self.volumes.items() if row["kind"] == "snapshots"},
            "generation": document["generation"],
            "host": {
                "vcpus": 8,
                "memory_mb": 16384,
                "disk_gb": 100,
                "storage": {"backend": "file", "total_gb": 100, "snapshot_in_use": self.snapshot_in_use},
            },
            "servers": {key: {**row, "console": consoles.get(key)} for key, row in self.state.items()},
            "ports": {port["id"]: {"state": "active"} for port in document["ports"]},
            "routers": {router["id"]: {"state": "active"} for router in document["routers"]},
            "floating_ips": {
                row["id"]: {"state": "active"} for router in document["routers"] for row in router["floating_ips"]
            },
            "orphans": {"domains": [], "disks": []},
            "tasks": [],
        }
        objects = {"servers": results, "volumes": results_of_volumes}
        result = {"changed": True, "actions": [], "objects": objects, "pending": bool(self.copying)}
        return Outcome(ok=True, result={**result, "observed": observed})

    def _store_volumes(self, document: dict) -> tuple[dict, dict]:
        """({id: result}, {attachment id: export}) of the document's volumes and snapshots."""
        results, exports = {}, {}
        for kind in ("volumes", "snapshots"):
            for row in document.get(kind, []):
                key = row["id"]
                results[key] = {"ok": key not in self.fail, "error": self.fail.get(key)}
                if key in self.fail:
                    continue
                if row["wanted"] == "absent":
                    self.volumes.pop(key, None)
                    continue
                state = "creating" if key in self.copying else "available"
                size = None if key in self.copying else row["size_gb"]
                self.volumes[key] = {"kind": kind, "state": state, "size_gb": size, "progress": None, "error": None}
                for export in row.get("exports", []):
                    iqn = f"iqn.2026-11.cloud.kumo:{export['id']}"
                    exports[export["id"]] = {"iqn": iqn, "portal": "127.0.0.1:3260", "lun": 1}
        return results, exports
