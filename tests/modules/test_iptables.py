"""iptables text: what is read of iptables-save, what is compared, and what iptables-restore is given."""

import pytest
from ansible.module_utils.kumo import iptables
from ansible.module_utils.kumo.errors import KumoError

SAVED = """# Generated
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:kumo-PREROUTING - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -j kumo-PREROUTING
-A kumo-PREROUTING -d 10.0.0.1/32 -j DNAT --to-destination 10.0.0.5
COMMIT
*filter
:FORWARD DROP [0:0]
:kumo-a - [12:800]
-A FORWARD -j DOCKER
-A FORWARD -i br0 -g kumo-a
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
COMMIT
"""


def test_parse_save_keeps_only_kumo():
    """Own chains whole, built-in chains only where they lead to own ones, tables without any left out."""
    assert iptables.parse_save(SAVED) == {
        "nat": {
            "kumo-PREROUTING": ["-d 10.0.0.1/32 -j DNAT --to-destination 10.0.0.5"],
            "PREROUTING": ["-j kumo-PREROUTING"],
        },
        "filter": {"kumo-a": [], "FORWARD": ["-i br0 -g kumo-a"]},
    }


def test_choose_chains_takes_one_owner():
    """Of several sections' chains only those of one, with the jumps to them."""
    ruleset = {"filter": {"FORWARD": ["-j kumo-a", "-j kumo-ab"], "kumo-a": [], "kumo-ab": ["-j DROP"]}, "raw": {}}
    assert iptables.choose_chains(ruleset, "kumo-a") == {"filter": {"FORWARD": ["-j kumo-a"], "kumo-a": []}}
    assert iptables.choose_chains(ruleset, "kumo-z") == {}


CHAIN = {"filter": {"FORWARD": ["-j kumo-a"], "kumo-a": ["-j DROP"]}}
RESTORES = {
    "nothing to do": (CHAIN, CHAIN, {}, ""),
    "written differently": (
        {"filter": {"kumo-a": ["-p 47  -j DROP"]}},
        {"filter": {"kumo-a": ["-p gre -j DROP"]}},
        {},
        "",
    ),
    "first": (
        CHAIN,
        {},
        {},
        "*filter\n:kumo-a - [0:0]\n-A kumo-a -j DROP\n-I FORWARD 1 -j kumo-a\nCOMMIT\n",
    ),
    "a rule differs": (
        CHAIN,
        {"filter": {"FORWARD": ["-j kumo-a"], "kumo-a": ["-j RETURN"]}},
        {},
        "*filter\n:kumo-a - [0:0]\n-A kumo-a -j DROP\nCOMMIT\n",
    ),
    "the jump was flushed": (
        CHAIN,
        {"filter": {"kumo-a": ["-j DROP"]}},
        {},
        "*filter\n-I FORWARD 1 -j kumo-a\nCOMMIT\n",
    ),
    "the jump is there twice": (
        CHAIN,
        {"filter": {"FORWARD": ["-j kumo-a", "-j kumo-a"], "kumo-a": ["-j DROP"]}},
        {},
        "*filter\n-D FORWARD -j kumo-a\n-D FORWARD -j kumo-a\n-I FORWARD 1 -j kumo-a\nCOMMIT\n",
    ),
    "the jump stands too low": (
        CHAIN,
        CHAIN,
        {"misplaced": (("filter", "FORWARD"),)},
        "*filter\n-D FORWARD -j kumo-a\n-I FORWARD 1 -j kumo-a\nCOMMIT\n",
    ),
    "gone": ({}, CHAIN, {}, "*filter\n-D FORWARD -j kumo-a\n-F kumo-a\n-X kumo-a\nCOMMIT\n"),
    "ebtables": (
        {"nat": {"kumo-f": []}},
        {},
        {"declaration": "RETURN"},
        "*nat\n:kumo-f RETURN\nCOMMIT\n",
    ),
}


@pytest.mark.parametrize(("wanted", "present", "more", "text"), RESTORES.values(), ids=RESTORES)
def test_build_restore(wanted, present, more, text):
    """Each difference gives the least text that mends it; agreement gives none."""
    assert iptables.build_restore(wanted, present, **more) == text


class _Done:
    returncode = 2
    stdout = ""

    def __init__(self, stderr):
        self.stderr = stderr


def test_apply_restore_names_the_refused_line(monkeypatch):
    """The error carries the line's number and text; where iptables names no line it says what it said."""
    said = 'iptables-restore v1.8.9: unknown option "--dport"\nError occurred at line: 2\nTry `x -h\'\n'
    monkeypatch.setattr(iptables, "run_tool", lambda *_, **__: _Done(said))
    with pytest.raises(iptables.RefusedRule, match="unknown option") as caught:
        iptables.apply_restore("*filter\n-A kumo-a -p 47 --dport 3\nCOMMIT\n", "IPv4")
    assert (caught.value.number, caught.value.line) == (2, "-A kumo-a -p 47 --dport 3")
    monkeypatch.setattr(iptables, "run_tool", lambda *_, **__: _Done("Permission denied"))
    with pytest.raises(KumoError, match="Permission denied"):
        iptables.apply_restore("", "IPv6")


def test_a_missing_tool_is_named():
    """What is not installed is said by name."""
    with pytest.raises(KumoError, match="no-such-tool is not installed"):
        iptables.run_tool(["no-such-tool"])
