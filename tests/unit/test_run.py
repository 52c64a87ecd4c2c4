"""The run folder: private, gone afterwards, and no user's text in it is a template (cases 36, 38, 39)."""

from __future__ import annotations

import os
import stat

import ansible_runner
import pytest
import yaml

from web.reconcile import run as run_module
from web.reconcile.run import build_inventory, mark_unsafe, prune_folders, run_folder, scrub_environment
from web.settings import build_settings


@pytest.fixture
def settings(tmp_path):
    return build_settings({("kumo", "state_dir"): str(tmp_path)})


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_constructor("!unsafe", lambda loader, node: ("unsafe", loader.construct_scalar(node)))

HOSTILE = ["{{ 7*7 }}", "{% for x in y %}", "{# c #}", "a\n{{ x }}\n", "!unsafe {{ x }}", "雲{{ 'ü' }}", '"{{ x }}"']


@pytest.mark.parametrize("text", HOSTILE)
def test_s36_templates_in_user_text_are_marked_unsafe(text):
    document = {"servers": [{"name": text, "metadata": {"meta": {text: "plain"}}}]}
    parsed = yaml.load(build_inventory("n1", {"ansible_connection": "local"}, document), _Loader)
    server = parsed["all"]["hosts"]["n1"]["kumo_document"]["servers"][0]
    assert server["name"] == ("unsafe", text)
    assert list(server["metadata"]["meta"]) == [("unsafe", text)]


@pytest.mark.parametrize("text", ["plain", "a: b", "- x", "yes", "~", "0x10", "'", "\t", "x" * 255, "ü" * 127, "<&>"])
def test_s35_other_text_survives_as_it_is(text):
    parsed = yaml.load(build_inventory("n1", {}, {"name": text}), _Loader)
    assert parsed["all"]["hosts"]["n1"]["kumo_document"]["name"] == text


def test_marking_keeps_everything_else():
    value = {"a": [1, True, None, 2.5, "x"], "b": {}}
    assert mark_unsafe(value) == value


def test_s38_run_folders_are_private_unpredictable_and_gone(settings):
    with run_folder(settings, "n1", {}, {"secret": "canary"}) as one, run_folder(settings, "n1", {}, {}) as two:
        assert one != two
        for path in (one, one.parent, one / "inventory"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((one / "inventory" / "hosts.yml").stat().st_mode) == 0o600
    assert not one.exists()
    assert not two.exists()


def test_what_has_ended_is_closed_at_once():
    """Not after the tenth of a second that ptyprocess gives the kernel: a quarter of a whole run."""
    child = ansible_runner.runner.pexpect.spawn("/bin/true")
    child.expect(ansible_runner.runner.pexpect.EOF)
    assert child.ptyproc.delayafterclose == 0
    child.close()
    assert child.exitstatus == 0


def test_folders_of_killed_workers_are_pruned(settings):
    with pytest.raises(RuntimeError), run_folder(settings, "n1", {}, {}) as folder:
        raise RuntimeError
    assert not folder.exists()
    left = folder.with_name("run-999999999-1-abc")
    left.mkdir(mode=0o700)
    with run_folder(settings, "n1", {}, {}) as folder:  # as of another worker of this machine
        assert prune_folders(settings) == 1
        assert folder.exists()
    assert not left.exists()


def test_s39_the_environment_is_scrubbed(monkeypatch):
    monkeypatch.setattr(os, "environ", {"PATH": "/bin", "HOME": "/root", "AWS_SECRET": "canary", "OS_PASSWORD": "x"})
    scrub_environment()
    assert os.environ == {"PATH": "/bin", "HOME": "/root"}


EVENTS_OK = [
    {"event": "playbook_on_start", "event_data": {}},
    {"event": "runner_on_ok", "event_data": {"task": "apply", "duration": 0.5, "res": {"observed": {"x": 1}}}},
]
EVENTS_FAILED = [{"event": "runner_on_failed", "event_data": {"task": "apply", "res": {"msg": "libvirt is down"}}}]


@pytest.mark.parametrize(
    ("status", "events", "ok", "error"),
    [
        ("successful", EVENTS_OK, True, None),
        ("failed", EVENTS_FAILED, False, "libvirt is down"),
        ("timeout", [], False, "longer than"),
        ("canceled", [], False, "cancelled"),
        ("failed", [], False, "no output"),
    ],
)
def test_what_a_run_brought_back(status, events, ok, error):
    outcome = run_module._read_outcome(status, 0 if ok else 2, events, "")
    assert outcome.ok is ok
    assert (error is None and outcome.error is None) or error in outcome.error


CHANGED = """Task failed: Data could not be sent to remote host "10.0.0.3". Make sure \
this host can be reached over ssh: @@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Offending ED25519 key in /etc/kumo/ssh/known_hosts:3
Host key for 10.0.0.3 has changed and you have requested strict checking.
Host key verification failed."""
SENT = 'Task failed: Data could not be sent to remote host "10.0.0.3". Make sure this host can be reached over ssh: '


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (CHANGED, "shows another host key"),
        (
            f"{SENT}No ED25519 host key is known for 10.0.0.3 and you …\nHost key verification failed.",
            "is not known here",
        ),
        (f"{SENT}kumo@10.0.0.3: Permission denied (publickey).", "does not let the control plane's key in"),
        ("Failed to connect to the host via ssh: Permission denied (publickey).", "does not let"),
        (f"{SENT}ssh: connect to host 10.0.0.3 port 22: No route to host", "No route to host"),
    ],
)
def test_a_host_that_cannot_be_reached_has_a_sentence(message, says):
    sentence = run_module.build_sentence(message)
    assert sentence.startswith("cannot be reached over ssh: ")
    assert says in sentence
    assert "\n" not in sentence
    assert "@@" not in sentence


def test_other_failures_keep_their_words():
    assert run_module.build_sentence("no pool named x\nin detail") == "no pool named x\nin detail"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"msg": CHANGED, "exception": "(traceback unavailable)"}, "another host key"),
        ({"msg": "it failed", "exception": "(traceback unavailable)"}, "it failed"),
        ({"msg": "it failed", "module_stderr": "why"}, "it failed: why"),
    ],
)
def test_the_error_of_a_run(answer, error):
    events = [{"event": "runner_on_unreachable", "event_data": {"task": "t", "res": answer}}]
    outcome = run_module._read_outcome("failed", 4, events, "")
    assert error in outcome.error
    assert "traceback" not in outcome.error
    assert not outcome.ok
