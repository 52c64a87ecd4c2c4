"""The worker reaches hosts by its own key, and only those whose own key the operator collected."""

from __future__ import annotations

import pytest
from cloud_lab import wait_for

KNOWN = "/etc/kumo/ssh/known_hosts"


def read_row(lab, host: str) -> dict:
    """What `kumo host list` says of one host."""
    head, *lines = lab.kumo("host list").splitlines()
    line = next(line for line in lines if line.split()[0] == host)
    begins = {name: head.index(name) for name in ("SEEN/WANTED", "SEEN AT", "ERROR")}
    return {"seen_at": line[begins["SEEN AT"] : begins["ERROR"]].strip(), "error": line[begins["ERROR"] :].strip(" -")}


def says(lab, host: str, text: str) -> dict | None:
    """The host's line where its error has a text in it."""
    row = read_row(lab, host)
    return row if text in row["error"] else None


def end_shared_connections(lab) -> None:
    """End the worker's ssh connections that further runs would share: a new one has to look at the key again."""
    lab.run(
        lab.controller,
        "for pid in $(pgrep -u kumo -x ssh); do kill $pid 2>/dev/null || true; done",
        root=True,
    )


@pytest.fixture
def host(lab) -> str:
    return lab.groups["storage"][0]


def test_keys_are_the_services_own(lab):
    assert lab.run(lab.controller, "stat -c '%U %a' /etc/kumo/ssh/id_ed25519", root=True).split() == ["kumo", "600"]
    owner, mode = lab.run(lab.controller, f"stat -c '%U %a' {KNOWN}", root=True).split()
    assert (owner, mode) == ("root", "644") or (owner, mode) == ("root", "640"), (
        "the account must not choose whom it trusts"
    )
    for name in lab.groups["hypervisors"] + lab.groups["storage"]:
        assert lab.run(name, "cat /etc/ssh/ssh_host_ed25519_key.pub").split()[1] in lab.run(
            lab.controller, f"cat {KNOWN}", root=True
        )


def test_a_host_that_shows_another_key(lab, host):
    """Nothing is sent to it, the operator reads why, and it is seen again as soon as the right key is known."""
    address = lab.hosts[host].address
    lab.run(lab.controller, f"cp -p {KNOWN} {KNOWN}.kept", root=True)
    try:
        other = lab.run(lab.controller, "cat /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
        lab.run(
            lab.controller, f"sed -i 's|^{address} ssh-ed25519 .*|{address} ssh-ed25519 {other}|' {KNOWN}", root=True
        )
        end_shared_connections(lab)
        # A run under way may say before that its connection was closed.
        row = wait_for("the host to be refused", lambda: says(lab, host, "shows another host key"), 240, pause=2)
        assert "@@@@" not in row["error"], "a sentence, not ssh's banner"
        seen_at = row["seen_at"]
        log = lab.run(host, "wc -l </var/log/kumo/root.log", root=True)
        end_shared_connections(lab)
        wait_for("a further attempt", lambda: True, 1)
        assert lab.run(host, "wc -l </var/log/kumo/root.log", root=True) == log
        assert read_row(lab, host)["seen_at"] == seen_at
    finally:
        lab.run(lab.controller, f"mv {KNOWN}.kept {KNOWN}", root=True)
    wait_for("the host to be seen again", lambda: not read_row(lab, host)["error"], 180, pause=2)


def test_a_host_that_does_not_know_the_key(lab, host):
    lab.run(host, "mv /etc/kumo/authorized_keys /etc/kumo/authorized_keys.kept", root=True)
    try:
        end_shared_connections(lab)
        wait_for("the host to refuse", lambda: says(lab, host, "Permission denied"), 240, pause=2)
    finally:
        lab.run(host, "mv /etc/kumo/authorized_keys.kept /etc/kumo/authorized_keys", root=True)
    wait_for("the host to be seen again", lambda: not read_row(lab, host)["error"], 180, pause=2)
