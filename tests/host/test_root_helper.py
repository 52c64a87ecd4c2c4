"""What the account kumo may have done as root, by real sudo: what is allowed works, all else is refused and logged.

Everything is a throw-away: an account, a copy of the helper with an allow-list of its own, a file in sudoers.d.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from ansible.module_utils.kumo.handoff import read_digests

from web.reconcile.run import build_inventory

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles" / "host_base"
PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"
IMAGE = "3f0f3b9e-3c1b-4f0e-9a53-0a8b6f0a1c01"
VOLUME_GROUP = "kumotest"


def run(*command, check=True, **options) -> subprocess.CompletedProcess:
    options = {"capture_output": True, "text": True, "timeout": 120, **options}
    return subprocess.run([str(word) for word in command], check=check, **options)


class Lab:
    """One throw-away installation; ``ask`` is what somebody who holds the account can do."""

    def __init__(self):
        self.account = f"kumotest{os.getpid()}"
        self.root = Path(f"/var/lib/kumo-test-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        self.state, self.images = self.root / "host", self.root / "images"
        self.helper = self.root / "root" / "kumo_root.py"
        self.log, self.policy = self.root / "root.log", self.root / "root.d"
        self.sudoers = Path(f"/etc/sudoers.d/kumo-test-{os.getpid()}")
        self.home = Path(f"/tmp/kumo-test-home-{os.getpid()}")

    def make(self):
        for path, mode in ((self.root, 0o711), (self.state, 0o711), (self.policy, 0o755)):
            path.mkdir(mode=mode)
            path.chmod(mode)
        run("useradd", "--system", "--create-home", "--home-dir", self.home, "--shell", "/bin/sh", self.account)
        self.images.mkdir()
        shutil.chown(self.images, self.account)  # as on a controller: the image service's own
        run("/usr/bin/python3", ROLE / "files" / "pack_root.py", ROOT, self.root / "root.tar")
        run("sh", ROLE / "files" / "install_root.sh", self.root)
        text = self.helper.read_text()
        for name, value in (("HOME", self.root / "root"), ("POLICY_DIRECTORY", self.policy), ("LOG", self.log)):
            text, count = re.subn(f'(?m)^{name} = ".*"$', f'{name} = "{value}"', text)
            assert count == 1
        self.helper.write_text(text)
        (self.policy / "kumo.conf").write_text(
            f"commands = apply check\nsections = images volumes networks servers\nstate_dirs = {self.state}\n"
            f"image_dirs = {self.images}\nstorage_dirs = {self.root}/volumes\nvolume_groups = {VOLUME_GROUP}\n"
            f"bridges = kumo-test\ninterfaces =\npeers = 192.0.2.2 2001:db8::/64\n"
            f"image_services = http://192.0.2.1:6780\n"
        )
        line = (ROLE / "templates" / "sudoers.j2").read_text()
        for name, value in (("helper", self.helper), ("user", self.account), ("root_policy", self.policy)):
            line = line.replace("{{ host_base_NAME }}".replace("NAME", name), str(value))
        self.sudoers.write_text(line)
        self.sudoers.chmod(0o440)
        run("visudo", "-cf", self.sudoers)

    def remove(self):
        self.sudoers.unlink(missing_ok=True)
        run("userdel", self.account, check=False)
        for path in (self.root, self.home):
            shutil.rmtree(path, ignore_errors=True)

    def run(self, *command, **options) -> subprocess.CompletedProcess:
        """A command as the account, with nothing of root's."""
        user = pwd.getpwnam(self.account)
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8", **options.pop("env", {})}
        return run(*command, check=False, user=user.pw_uid, group=user.pw_gid, extra_groups=[], env=env, **options)

    def ask(self, *words, document=None, data=None, env=None) -> tuple[int, dict]:
        """(exit status, answer) of the helper by sudo."""
        request = json.dumps({"files": read_digests(), "document": document}) if data is None else data
        options = {"input": request.encode() if isinstance(request, str) else request, "text": False}
        done = self.run("sudo", "-n", self.helper, *words, env=env or {}, cwd="/", **options)
        try:
            return done.returncode, json.loads(done.stdout)
        except ValueError:
            return done.returncode, {"said": (done.stdout + done.stderr).decode(errors="replace")}

    def build_document(self, **changes) -> dict:
        settings = {"state_dir": str(self.state), **changes.pop("settings", {})}
        return {"version": 1, "host": "here", "generation": 1, "fence": 1, "settings": settings, **changes}

    def build_image(self, path) -> dict:
        data = path.read_bytes() if path.is_file() else b""
        return {
            "id": IMAGE,
            "checksum": f"sha512:{hashlib.sha512(data).hexdigest()}",
            "size": len(data),
            "disk_format": "raw",
            "virtual_size": len(data),
            "source": {"path": str(path)},
        }

    def read_refusals(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if " refused: " in line]


@pytest.fixture(scope="module")
def lab():
    if os.geteuid():
        pytest.fail("this tier is run as root")
    lab = Lab()
    try:
        lab.make()
        yield lab
    finally:
        lab.remove()


def refuse(lab, *words, because: str, **options) -> None:
    """It is refused for this reason, root did nothing, and the log has one more line."""
    before, seen = len(lab.read_refusals()), sorted(str(path) for path in lab.state.rglob("*"))
    status, answer = lab.ask(*words, **options)
    assert status == 77, answer
    assert because in answer["failed"]
    assert len(lab.read_refusals()) == before + 1
    assert because in lab.read_refusals()[-1].encode().decode("unicode_escape")
    assert sorted(str(path) for path in lab.state.rglob("*")) == seen


def test_root_applies_a_document_and_its_long_work_outlives_the_helper(lab):
    source = lab.images / "raw"
    source.write_bytes(os.urandom(1 << 20) + bytes(1 << 20))
    status, answer = lab.ask(
        "apply", "--sections=images", document=lab.build_document(images=[lab.build_image(source)])
    )
    assert status == 0, answer
    deadline = time.monotonic() + 20
    cached = lab.state / "images" / IMAGE
    while not cached.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert cached.read_bytes() == source.read_bytes()
    assert cached.stat().st_uid == 0
    assert (lab.state / "generation.json").stat().st_uid == 0
    assert "apply images generation 1" in lab.log.read_text()
    assert lab.ask("check", "--sections=images", document=lab.build_document())[0] == 0


def test_long_work_goes_on_after_the_helper_has_ended(lab):
    """The task is a process of its own: a slow server's image arrives when nobody waits any more."""
    code = (
        "import http.server,time\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        " def do_GET(self):\n"
        "  self.send_response(200); self.send_header('Content-Length','2048'); self.end_headers()\n"
        "  self.wfile.write(bytes(1024)); self.wfile.flush(); time.sleep(8); self.wfile.write(bytes(1024))\n"
        "s=http.server.HTTPServer(('127.0.0.1',0),H); print(s.server_port,flush=True); s.handle_request()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        try:
            other = str(uuid.uuid4())
            image = {
                "id": other, "checksum": f"sha512:{hashlib.sha512(bytes(2048)).hexdigest()}", "size": 2048,
                "disk_format": "raw", "virtual_size": 2048,
                "source": {
                    "url": f"http://127.0.0.1:{int(server.stdout.readline())}/", "headers": {"X-Kumo-Signature": "00"},
                },
            }  # fmt: skip
            status, answer = lab.ask("apply", "--sections=images", document=lab.build_document(images=[image]))
            assert status == 0, answer
            assert answer["result"]["pending"]
            assert not (lab.state / "images" / other).exists()
            deadline = time.monotonic() + 20
            while not (lab.state / "images" / other).exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            assert (lab.state / "images" / other).read_bytes() == bytes(2048)
        finally:
            server.kill()


@pytest.mark.parametrize(
    ("words", "because"),
    [
        ([], "no command"),
        (["sh"], "command 'sh' is not allowed"),
        (["/bin/sh", "-c", "id"], "is not allowed"),
        (["probe"], "command 'probe' is not allowed"),  # not in this host's list
        (["apply", "--sections=images", "--sections=servers"], "are not allowed"),
        (["apply", "--sections=firewall"], "section 'firewall' is not allowed"),  # not in this host's list
        (["apply", "--sections=../../etc"], "are not allowed"),
        (["apply", "--sections=images\nservers"], "are not allowed"),
        (["apply", "--check"], "are not allowed"),
        (["apply", "/etc/passwd"], "are not allowed"),
        (["--help"], "is not allowed"),
    ],
)
def test_another_command_or_argument_is_refused(lab, words, because):
    refuse(lab, *words, because=because, document=lab.build_document())


@pytest.mark.parametrize(
    ("data", "because"),
    [
        (b"#!/bin/sh\nid >/tmp/kumo-test-shell\n", "is not JSON"),
        (b"$(id)`id`;id\n", "is not JSON"),
        (os.urandom(10 << 20), "is not JSON"),
        (b"[" * (10 << 20), "is not JSON"),
        (b" " * (33 << 20), "longer than"),
        (b"[]", "is not {files, document}"),
        (b'{"files": {}, "document": {}, "code": "import os"}', "is not {files, document}"),
        (b"", "is not JSON"),
    ],
)
def test_what_is_no_request_is_refused(lab, data, because):
    refuse(lab, "apply", because=because, data=data)
    assert not Path("/tmp/kumo-test-shell").exists()


def _leave(address: str) -> dict:
    order = {"migration": IMAGE, "kind": "live", "address": address, "abort": False, "force": False}
    return {"servers": [{"id": IMAGE, "project_id": "p", "wanted": "present", "outgoing": order}]}


def _fetch(**changes) -> dict:
    offer = {"address": "2001:db8::1", "port": 49216, "name": IMAGE, **changes}
    order = {"migration": IMAGE, "kind": "cold", "offer": offer}
    return {"servers": [{"id": IMAGE, "project_id": "p", "wanted": "present", "incoming": order}]}


def _upload(url: str, **headers) -> dict:
    order = {"image": IMAGE, "attempt": 1, "url": url, "headers": headers}
    return {"servers": [{"id": IMAGE, "project_id": "p", "wanted": "present", "snapshot": order}]}


def _harm(lab) -> list:
    physical = {"bridge": "kumo-test", "addresses": ["172.24.9.1/24"], "masquerade": False, "interface": None}
    network = {
        "id": IMAGE, "project_id": "p", "mtu": 1500, "segmentation": {"type": "local"}, "zone": 1, "home": None,
        "subnets": [], "reservations": [],
    }  # fmt: skip
    image = lab.build_image(lab.images / "none")
    storage = {"backend": "lvm", "portal": "127.0.0.1:3260", "volume_group": VOLUME_GROUP}
    return [
        ({"settings": {"state_dir": "/etc"}}, "state_dir '/etc' is not allowed"),
        ({"settings": {"state_dir": f"{lab.state}/../images"}}, "is not allowed"),
        ({"settings": {"state_dir": f"{lab.state}/"}}, "is not allowed"),
        ({"settings": {"physical_networks": {"public": {**physical, "bridge": "docker0"}}}}, "bridge 'docker0' is not"),
        ({"settings": {"physical_networks": {"public": {**physical, "interface": "eth0"}}}}, "interface 'eth0' is not"),
        ({"settings": {"physical_networks": {"public": {**physical, "addresses": ["8.0.0.1/1"]}}}}, "half the world"),
        ({"settings": {"physical_networks": {"public": {**physical, "addresses": ["127.0.0.5/8"]}}}}, "no address"),
        ({"settings": {"dns_domain": "x\ndhcp-script=/tmp/x"}}, "holds a blank or a control character"),
        ({"settings": {"dns_servers": ["1.1.1.1\nconf-file=/tmp/x"]}}, "holds a blank or a control character"),
        ({"settings": {"helper": "/bin/sh"}}, "is not known"),
        ({"settings": {"storage": {**storage, "volume_group": "system"}}}, "volume_group 'system' is not allowed"),
        ({"settings": {"storage": {**storage, "thin_pool": "../x"}}}, "no name of LVM's"),
        (
            {"settings": {"storage": {"backend": "file", "portal": "127.0.0.1:3260", "directory": "/etc"}}},
            "directory '/etc' is not allowed",
        ),
        ({"images": [{**image, "source": {"path": "/etc/shadow"}}]}, "source.path '/etc/shadow' is not allowed"),
        ({"images": [{**image, "source": {"path": f"{lab.images}/../../etc/shadow"}}]}, "no plain absolute path"),
        ({"images": [{**image, "source": {"path": str(lab.images)}}]}, "is not allowed"),
        ({"images": [{**image, "source": {"url": "file:///etc/shadow"}}]}, "no http or https address"),
        ({"images": [{**image, "source": {"url": "http://127.0.0.1/", "path": "/etc/shadow"}}]}, "is neither"),
        ({"images": [{**image, "id": "../../../etc"}]}, "images[0].id is not like"),
        ({"images": [{**image, "id": f"{IMAGE}\n"}]}, "images[0].id is not like"),
        ({"networks": [{**network, "reservations": [
            {"port": IMAGE, "mac": "fa:16:3e:0a:0b:05", "addresses": [], "hostname": "a\nb", "options": []}
        ]}]}, "blank"),
        ({"networks": [{**network, "segmentation": {"type": "local x"}}]}, "networks[0].segmentation"),
        ({"servers": [{"id": "../x", "project_id": "p", "wanted": "absent"}]}, "servers[0].id"),
        (_leave("198.51.100.9"), "outgoing.address '198.51.100.9' is not allowed"),
        (_leave("127.0.0.1"), "outgoing.address '127.0.0.1' is not allowed"),
        (_leave("compute2"), "outgoing.address 'compute2' is no address"),
        (_fetch(address="2001:db8:1::1"), "incoming.offer.address '2001:db8:1::1' is not allowed"),
        (_fetch(port=22), "incoming.offer.port 22 is not allowed"),
        (_fetch(name="../disk"), "incoming.offer.name is no migration's id"),
        (_upload(f"http://192.0.2.9:6780/image/hosts/{IMAGE}/images/{IMAGE}"), "snapshot.url 'http://192.0.2.9:6780"),
        (_upload(f"http://192.0.2.1:6780/image/hosts/{IMAGE}/images/../x"), "is not allowed"),
        (_upload(f"http://192.0.2.1:6780@192.0.2.9/image/hosts/{IMAGE}/images/{IMAGE}"), "is not allowed"),
        (_upload(f"http://192.0.2.1:6780/image/hosts/{IMAGE}/images/{IMAGE}", key="a\r\nHost: x"), "blank"),
        ({"version": 2}, "document.version"),
        ({"shell": "id"}, "is not known"),
    ]  # fmt: skip


def test_a_document_that_leads_root_elsewhere_is_refused(lab):
    for changes, because in _harm(lab):
        refuse(lab, "apply", because=because, document=lab.build_document(**changes))


def test_a_link_in_place_of_an_image_gives_away_nothing(lab):
    """Security cases 3 and 10, at the seam of privileges: the account swaps a file for a link to root's."""
    secret = lab.root / "secret"
    secret.write_bytes(b"root's alone" * 100)
    secret.chmod(0o600)
    lab.run("ln", "-s", secret, lab.images / "link")
    image = {**lab.build_image(secret), "id": str(uuid.uuid4()), "source": {"path": str(lab.images / "link")}}
    status, answer = lab.ask("apply", "--sections=images", document=lab.build_document(images=[image]))
    assert status == 0
    assert "allow-list does not have" in answer["result"]["objects"]["images"][image["id"]]["error"]
    assert not (lab.state / "images" / image["id"]).exists()


def test_a_link_or_another_owner_in_the_state_directory_s_path_is_refused(lab):
    moved = lab.state.with_name("moved")
    lab.state.rename(moved)
    try:
        lab.state.symlink_to("/etc")
        assert "symbolic link" in lab.ask("apply", document=lab.build_document())[1]["failed"]
        lab.state.unlink()
        lab.state.mkdir()
        shutil.chown(lab.state, lab.account)
        assert "is not root's" in lab.ask("apply", document=lab.build_document())[1]["failed"]
        assert not list(lab.state.iterdir())
        lab.state.rmdir()
        assert "kumo host prepare" in lab.ask("apply", document=lab.build_document())[1]["failed"]
    finally:
        if lab.state.is_symlink():
            lab.state.unlink()
        moved.rename(lab.state)


def test_an_allow_list_that_is_not_root_s_alone_allows_nothing(lab):
    extra = lab.policy / "extra.conf"
    try:
        extra.write_text("state_dirs = /etc\n")
        shutil.chown(extra, lab.account)
        assert "is not root's" in lab.ask("apply", document=lab.build_document())[1]["failed"]
        shutil.chown(extra, "root")
        extra.write_text("anything = *\n")
        assert "no line of an allow-list" in lab.ask("apply", document=lab.build_document())[1]["failed"]
    finally:
        extra.unlink()


def test_the_environment_decides_nothing(lab):
    trap = lab.home / "trap"
    lab.run("mkdir", "-p", trap)
    proof = lab.home / "proof"
    code = f"import os; open({str(proof)!r}, 'a').write(str(os.geteuid()))"
    for name in ("json.py", "sitecustomize.py", "policy.py", "usercustomize.py", "kumo.py"):
        (trap / name).write_text(code)
    hostile = {
        "PYTHONPATH": str(trap), "PYTHONHOME": str(trap), "PYTHONSTARTUP": str(trap / "json.py"),
        "PYTHONINSPECT": "1", "LD_PRELOAD": str(trap / "x.so"), "LD_LIBRARY_PATH": str(trap),
        "PATH": f"{trap}:/usr/bin:/bin",
        "HOME": str(trap), "BASH_ENV": str(trap / "json.py"), "TMPDIR": str(trap),
    }  # fmt: skip
    status, answer = lab.ask("check", "--sections=images", document=lab.build_document(), env=hostile)
    assert status == 0, answer
    assert not proof.exists()
    done = lab.run("sudo", "-n", f"PYTHONPATH={trap}", lab.helper, "check", input="")
    assert done.returncode == 1
    assert not proof.exists()


def test_sudo_permits_nothing_but_the_helper(lab):
    listed = lab.run("sudo", "-n", "-l").stdout
    assert re.findall(r"NOPASSWD: *(.*)", listed) == [str(lab.helper)]
    for command in (
        ["/bin/sh", "-c", "id"], ["/usr/bin/python3", lab.helper, "check"], ["-s"], ["-e", "/etc/passwd"],
        ["-u", "daemon", lab.helper, "check"], [f"{lab.helper.parent}/../root/policy.py"], ["-E", lab.helper, "check"],
    ):  # fmt: skip
        done = lab.run("sudo", "-n", *command, input="")
        assert done.returncode == 1, command
        assert "password is required" in done.stderr or "not allowed" in done.stderr, done.stderr
    for path in (lab.helper, lab.helper.parent, lab.policy / "kumo.conf", lab.log):
        assert lab.run("sh", "-c", f"echo x >>{path}").returncode != 0


def test_another_revision_is_a_sentence_that_says_what_to_do(lab):
    data = json.dumps({"files": {"core.py": "0" * 64}, "document": lab.build_document()})
    status, answer = lab.ask("apply", data=data)
    assert (status, answer["failed"]) == (
        1,
        "this host's Kumo modules are of another revision; run `kumo host prepare` for this host",
    )


@pytest.fixture(scope="module")
def play(lab):
    """A function: a document → ansible-playbook's end, run by the account on this machine as the worker does."""
    folder = lab.home / "play"
    for name in ("playbooks", "roles", "library", "module_utils", "plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "ansible.cfg", folder)
    run("chown", "-R", lab.account, lab.home)
    lab.home.chmod(0o755)

    def apply(document, *words, path="", **more):
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "/usr/bin/python3",
            "kumo_helper": str(lab.helper),
            "kumo_sections": ["images"],
            **more,
        }
        (folder / "hosts.yml").write_text(build_inventory("here", variables, document))
        return lab.run(
            PLAYBOOK, *words, "-i", folder / "hosts.yml", folder / "playbooks" / "apply_host.yml", cwd=folder,
            env={"ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "PATH": f"{path}{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return apply


def test_a_play_as_the_account_applies_as_root(lab, play):
    """The whole way: ansible-playbook as the unprivileged account, playbooks/apply_host.yml, sudo, the helper."""
    source = lab.images / "raw2"
    source.write_bytes(bytes(1 << 20))
    image = {**lab.build_image(source), "id": str(uuid.uuid4())}
    document = lab.build_document(images=[image])
    checked = play(document, "--check", "--diff")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"+image {image['id']}" in checked.stdout
    assert not (lab.state / "images" / image["id"]).exists()
    done = play(document)
    assert done.returncode == 0, done.stdout + done.stderr
    deadline = time.monotonic() + 20
    while not (lab.state / "images" / image["id"]).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (lab.state / "images" / image["id"]).stat().st_uid == 0


def test_a_play_tells_what_was_refused(lab, play):
    done = play(lab.build_document(settings={"state_dir": "/etc"}))
    assert done.returncode == 2
    assert "allow-list refuses it: document.settings.state_dir '/etc' is not allowed" in done.stdout
    missing = play(lab.build_document(), kumo_helper="/nonexistent")
    assert missing.returncode == 2
    assert "run `kumo host prepare` for this host" in missing.stdout


def test_the_helper_is_given_the_document_as_it_was_written(lab, play):
    """Security case 36: braces of users' texts are not evaluated on the way. A `sudo` of our own keeps what it gets."""
    trap, kept = lab.home / "bin", lab.home / "request"
    lab.run("mkdir", "-p", trap)
    (trap / "sudo").write_text(f'#!/bin/sh\ncat >{kept}\necho \'{{"failed": "kept"}}\'\nexit 1\n')
    (trap / "sudo").chmod(0o755)
    name = "{{ 7 * 7 }} {% raw %} !unsafe \u96f2 \" ' $(id) \n"
    server = {"id": IMAGE, "project_id": "p", "wanted": "present", "name": name, "metadata": {"meta": {name: name}}}
    document = lab.build_document(servers=[server])
    assert "kept" in play(document, path=f"{trap}:").stdout
    request = json.loads(kept.read_text())
    assert request["document"] == document
    assert request["files"] == read_digests()
