"""A host made of a dict, for tests of the control plane: takes a document, answers as kumo_host does.

Fakes are for these tiers only; tests/host and tests/e2e use real ones.
"""

from __future__ import annotations

from web.reconcile.run import Outcome

POWERS = {"on": ("running", "booted"), "paused": ("paused", "user"), "suspended": ("suspended", "saved")}


class FakeHost:
    """``state``: server id to {"state", "reason", "reboot_done", "start_done"}; ``fail``: server id to a sentence.

    Moves go one step a run. ``peers`` are the other hosts; ``holding`` are states a move stays before, ``broken`` is
    {state: error} of those it fails to reach. ``disks`` say what guests wrote, so that tests see what is lost.
    """

    def __init__(self):
        self.state: dict[str, dict] = {}
        self.fail: dict[str, str] = {}
        self.down: str | None = None
        self.volumes: dict[str, dict] = {}  # volumes and snapshots, as a storage host has them
        self.copying: set[str] = set()  # ids of volumes that take their time
        self.contents: dict[str, str] = {}  # of volumes: what was made of them anew
        self.reimaged: dict[str, int] = {}  # by volume id: which number of that is done
        self.without: set[str] = set()  # ids of images that are still on their way
        self.snapshot_in_use = False  # of its pool: snapshots and copies are of one moment
        self.documents: list[dict] = []
        self.before = lambda document: None  # called inside the run: what happens meanwhile
        self.peers: list[FakeHost] = []
        self.holding: set[str] = set()
        self.clinging: set[str] = set()
        self.broken: dict[str, str] = {}
        self.disks: dict[str, str] = {}
        self.backups: dict[str, str] = {}
        self.moves: dict[str, dict] = {}
        self.snapshots: dict[str, dict] = {}  # of guests whose disk becomes an image
        self.put = lambda order, text: 204  # what takes the image of a disk that says ``text``
        self.figures: dict | None = None  # of every guest that is asked for them
        self.passwords: dict[str, tuple] = {}  # by server id: (user, password) as they were set
        self.agent_error: str | None = None  # of whoever sets one
        self.posted: dict[str, dict[int, str]] = {}  # by server id: what guests posted, by how often it was cleared
        self.booting: set[str] = set()  # ids of guests whose agent may still come

    def __call__(self, settings, name, connection, document, cancelled=None) -> Outcome:
        self.documents.append(document)
        self.before(document)
        if self.down:
            return Outcome(ok=False, error=self.down)
        results, consoles, answers = {}, {}, {}
        present = {server["id"] for server in document["servers"]}
        self.moves = {key: move for key, move in self.moves.items() if key in present}
        for server in document["servers"]:
            key = server["id"]
            results[key] = {"ok": key not in self.fail, "error": self.fail.get(key)}
            if key in self.fail:
                continue
            if server["wanted"] == "absent" and "gone" in self.holding:
                results[key] = {"ok": False, "error": "it cannot be removed now"}
                continue
            self._apply_server(server)
            self._copy_disk(server)
            if server.get("console"):
                consoles[key] = {"seq": server["console"]["wanted"], "text": "login:"}
            answers[key] = self._answer(server)
        results_of_volumes, exports = self._store_volumes(document)
        for server in document["servers"]:
            if server["id"] in self.state:
                self.state[server["id"]]["volumes"] = [one["attachment"] for one in server.get("volumes", [])]
        observed = {
            "exports": exports,
            "images": {
                row["id"]: {"state": "fetching" if row["id"] in self.without else "cached"}
                for row in document["images"]
            },
            "volumes": {key: row for key, row in self.volumes.items() if row["kind"] == "volumes"},
            "snapshots": {key: row for key, row in self.volumes.items() if row["kind"] == "snapshots"},
            "generation": document["generation"],
            "host": {
                "vcpus": 8,
                "memory_mb": 16384,
                "disk_gb": 100,
                "storage": {"backend": "file", "total_gb": 100, "snapshot_in_use": self.snapshot_in_use},
            },
            "servers": {
                key: {
                    **row,
                    "console": consoles.get(key),
                    "consoles": {"vnc": 5900, "serial": 40000},
                    "snapshot": self.snapshots.get(key),
                    **answers.get(key, {}),
                }
                for key, row in self.state.items()
            },
            "ports": {
                port["id"]: {"state": "active"} for port in document["ports"] if port["id"] not in self._left(document)
            },
            "routers": {router["id"]: {"state": "active"} for router in document["routers"]},
            "floating_ips": {
                row["id"]: {"state": "active"} for router in document["routers"] for row in router["floating_ips"]
            },
            "moves": dict(self.moves),
            "posted_passwords": self._tell_posted(document),
            "orphans": {"domains": [], "disks": []},
            "tasks": [],
        }
        objects = {"servers": results, "volumes": results_of_volumes}
        waits = any(server.get("password") and server["id"] in self.booting for server in document["servers"])
        result = {"changed": True, "actions": [], "objects": objects, "pending": waits or self._has_work()}
        return Outcome(ok=True, result={**result, "observed": observed})

    def _answer(self, server: dict) -> dict:
        """What is answered once of a server: ``diagnostics`` and ``password``."""
        found: dict = {}
        if server.get("diagnostics"):
            found["diagnostics"] = {"seq": server["diagnostics"]["wanted"], "figures": self.figures}
        order = server.get("password")
        if order and server["id"] not in self.booting:
            if self.agent_error is None:
                self.passwords[server["id"]] = (order["user"], order["password"])
            found["password"] = {"seq": order["wanted"], "error": self.agent_error}
        return found

    def _tell_posted(self, document: dict) -> dict[str, dict]:
        """What guests have posted since it was last cleared, as long as the document has none."""
        found = {}
        for server in document["servers"]:
            wanted = server.get("posted_password") or {"cleared": 0, "text": ""}
            text = self.posted.get(server["id"], {}).get(wanted["cleared"])
            if text and not wanted["text"] and server["wanted"] != "absent":
                found[server["id"]] = {"cleared": wanted["cleared"], "text": text}
        return found

    def _left(self, document: dict) -> set[str]:
        """Ports that are in no guest any more; a guest of ``clinging`` lets none go."""
        kept = {port for server in document["servers"] for port in server.get("ports", ())}
        return {p["id"] for p in document["ports"] if p["id"] not in kept and p["server"] not in self.clinging}

    def _has_work(self) -> bool:
        """Whether something goes on by itself here: then the host is looked at again soon."""
        going = ("preparing", "receiving", "sending", "stopping", "waiting")
        copies = any(one["state"] in ("waiting", "copying", "uploading") for one in self.snapshots.values())
        return bool(self.copying) or copies or any(move["state"] in going for move in self.moves.values())

    def _apply_server(self, server: dict) -> None:
        key = server["id"]
        if not {"incoming", "outgoing", "backup"} & set(server):
            self.moves.pop(key, None)
        if server["wanted"] == "absent":
            for kept in (self.state, self.disks, self.backups, self.snapshots):
                kept.pop(key, None)
            return
        if "incoming" in server:
            self._receive(server)
            return
        if self.moves.get(key, {}).get("state") == "sent" and "outgoing" in server:
            return
        row = self.state.setdefault(
            key, {"state": "shutoff", "reason": "unknown", "reboot_done": server["reboot"]["wanted"], "start_done": 0}
        )
        rebuilds = server.get("rebuild", {}).get("wanted", 0)
        if rebuilds > row.setdefault("rebuild_done", rebuilds) and "rebuild" not in self.holding:
            self.disks[key] = f"made of {server['image']}"
            row |= {"state": "shutoff", "reason": "destroyed", "rebuild_done": rebuilds}
        self.disks.setdefault(key, f"made by {id(self)}")
        if "backup" in server:
            self._keep(server)
        if server.get("held"):
            row |= {"state": "shutoff", "reason": "destroyed"}
            return
        shut_inside = row["state"] == "shutoff" and row["reason"] == "shutdown"
        if server["power"] == "off":
            row |= {"state": "shutoff", "reason": "destroyed"}
        elif not shut_inside or server["start"]["wanted"] > row["start_done"]:
            state, reason = POWERS[server["power"]]
            row |= {"state": state, "reason": reason}
        row["rescue"] = server["rescue"]["image"] if server.get("rescue") else None
        row["start_done"], row["reboot_done"] = server["start"]["wanted"], server["reboot"]["wanted"]
        if "outgoing" in server:
            self._send(server)

    def _report(self, server: dict, part: str, *states: str, **more) -> str:
        """Go on to the next of ``states``, unless that is held or broken; the state it is in then."""
        key = server["id"]
        number = server[part].get("migration") or server[part]["id"]
        before = self.moves.get(key, {})
        reached = before.get("state") if before.get("migration") == number else None
        if reached == "failed" or (reached == states[-1] and reached in states):
            return reached
        following = states[states.index(reached) + 1] if reached in states else states[0]
        if following in self.broken:
            following, more = "failed", {"error": self.broken[following]}
        elif following in self.holding:
            if reached is None:
                self.moves[key] = {"migration": number, "state": "waiting"}
            return reached or "waiting"
        self.moves[key] = {"migration": number, "state": following, **more}
        return following

    def _receive(self, server: dict) -> None:
        key, incoming = server["id"], server["incoming"]
        if incoming["kind"] == "live":
            self._report(server, "incoming", "preparing", "ready")
            if key in self.state:
                self.moves[key] = {"migration": incoming["migration"], "state": "arrived"}
            return
        if incoming["offer"] is None:
            self._report(server, "incoming", "preparing")
        elif self._report(server, "incoming", "preparing", "receiving", "received") == "received":
            self.disks[key] = next(peer.disks[key] for peer in self.peers if key in peer.disks)

    def _send(self, server: dict) -> None:
        key, outgoing = server["id"], server["outgoing"]
        if outgoing["kind"] == "cold":
            self._report(server, "outgoing", "stopping", "offered", address="192.0.2.1", port=10809, name=key)
            return
        assert outgoing["address"], "the destination's address is missing"
        if outgoing["abort"] and self.moves.get(key, {}).get("state") != "sent":
            self.moves[key] = {"migration": outgoing["migration"], "state": "failed", "error": "aborted"}
            return
        if self._report(server, "outgoing", "sending", "sent", progress={"memory_total": 100}) == "sent":
            dest = next(peer for peer in self.peers if key in peer.moves)
            # The last look at the destination may be of the moment before libvirt lets the guest go on there.
            dest.state[key] = {**self.state.pop(key), "state": "paused", "reason": "migration"}
            dest.disks[key] = self.disks.pop(key)

    def _copy_disk(self, server: dict) -> None:
        """Copied by one run, sent by the next; held before ``uploaded`` it is uploading."""
        key, order = server["id"], server.get("snapshot")
        if order is None:
            self.snapshots.pop(key, None)
            return
        before = self.snapshots.get(key, {})
        mine = (before.get("image"), before.get("attempt")) == (order["image"], order["attempt"])
        row = before if mine else {**order, "state": "waiting", "error": None, "progress": 0.0}
        self.snapshots[key] = row
        if row["state"] in ("uploaded", "failed"):
            return
        state = "copying" if row["state"] == "waiting" else "uploaded"
        if state in self.holding:
            row["state"] = row["state"] if state == "copying" else "uploading"
            return
        error = self.broken.get(state)
        if state == "uploaded" and error is None:
            status = self.put(order, self.disks[key])
            error = None if status == 204 else f"it answered {status}"
        self.snapshots[key] = {**row, "progress": row["progress"] + 0.25, "state": "failed" if error else state}
        self.snapshots[key]["error"] = error

    def _keep(self, server: dict) -> None:
        key, wanted = server["id"], server["backup"]["wanted"]
        if wanted != "kept" and self.moves.get(key, {}).get("state") == "failed":
            del self.moves[key]
        self._report(server, "backup", wanted)
        reached = self.moves[key]["state"]
        if reached == "kept":
            self.backups.setdefault(key, self.disks[key])
        elif reached == "restored":
            self.disks[key] = self.backups.pop(key, self.disks[key])
        elif reached == "dropped":
            self.backups.pop(key, None)

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
                self._reimage(row)
                for export in row.get("exports", []):
                    iqn = f"iqn.2026-11.cloud.kumo:{export['id']}"
                    exports[export["id"]] = {"iqn": iqn, "portal": "127.0.0.1:3260", "lun": 1}
        return results, exports

    def _reimage(self, row: dict) -> None:
        """A volume's content made anew by the run that may begin; held before ``reimaged`` it takes its time."""
        key, order = row["id"], row.get("reimage")
        if not order:
            return
        if order["idle"] and order["wanted"] > self.reimaged.get(key, 0):
            assert not row["exports"], "it is offered to somebody"
            if "reimaged" in self.holding:
                self.volumes[key] |= {"state": "creating", "progress": 0.5}
            else:
                self.contents[key], self.reimaged[key] = f"made of {order['image']}", order["wanted"]
        self.volumes[key]["reimage_done"] = self.reimaged.get(key, 0)
