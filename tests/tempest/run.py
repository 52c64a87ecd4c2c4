#!/usr/bin/env python3
"""Tempest, OpenStack's own suite of tests, unmodified, against the cloud that runs on this machine.

    tests/tempest/run.py                          compute, identity and image, all of it
    tests/tempest/run.py --list tests/tempest/ci.txt
    tests/tempest/run.py --regex test_servers

Root, after ./stack.sh. Makes what the suite needs (a venv in .cache/tempest, two images, two flavors), writes
tempest.conf, runs, prints run, passed, failed and skipped with the reasons, and takes images and flavors away. Exit
status: 0 where nothing failed. What this cloud's settings do not allow is left out and said (image_files.py has which).
Next rooms: report.py, which reads what tempest wrote; image_files.py.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import subprocess
import sys
from pathlib import Path

from image_files import build_uri, make_format_images, serve_images

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = ROOT / ".cache" / "tempest"
OPENSTACK = "/opt/kumo/client-venv/bin/openstack"
GUEST_IMAGE = Path("/var/lib/kumo/guest-image")
CLOUDS = Path("/etc/openstack/clouds.yaml")
SETTINGS = Path("/etc/kumo/kumo.conf")
WEB_DOWNLOAD = "test_image_web_download_import"  # needs an image at an address that the cloud may fetch from
PUBLIC = "public"
IMAGES = ("tempest-image", "tempest-image-alt")
FLAVORS = {"tempest-flavor": ("192", "1", "1"), "tempest-flavor-alt": ("224", "2", "1")}
ALL = r"^tempest\.api\.(compute|identity|image)\."


def openstack(*words: str):
    """What a command of the client answers, parsed; ends the program with its words where it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
    done = subprocess.run(
        [OPENSTACK, "--os-cloud", "kumo-admin", *words],
        env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"run.py: openstack {' '.join(words)}: {(done.stderr or done.stdout).strip()}")
    return json.loads(done.stdout) if "json" in words else done.stdout


def read_names(*words: str) -> set[str]:
    return {row["Name"] for row in openstack(*words, "-f", "json")}


def make_images() -> list[str]:
    """Ids of two images of Kumo's guest, which has an agent."""
    user = json.loads((GUEST_IMAGE / "kumo-guest.json").read_text()).get("login_user", "cirros")
    have, found = read_names("image", "list"), []
    for name in IMAGES:
        if name not in have:
            openstack(
                *("image", "create", "--file", str(GUEST_IMAGE / "kumo-guest.qcow2"), "--disk-format", "qcow2"),
                *("--container-format", "bare", "--property", "hw_qemu_guest_agent=yes"),
                *("--property", f"os_admin_user={user}", "--public", name),
            )
        found.append(openstack("image", "show", name, "-f", "json")["id"])
    return found


def make_flavors() -> list[str]:
    """Ids of two flavors that fit it, of different sizes."""
    have, found = read_names("flavor", "list"), []
    for name, (ram, disk, cpus) in FLAVORS.items():
        if name not in have:
            openstack("flavor", "create", "--ram", ram, "--disk", disk, "--vcpus", cpus, "--public", name)
        found.append(openstack("flavor", "show", name, "-f", "json")["id"])
    return found


def remove_all() -> None:
    """Images and flavors of this program's, of a run that was killed too."""
    for name in read_names("image", "list") & set(IMAGES):
        openstack("image", "delete", name)
    for name in read_names("flavor", "list") & set(FLAVORS):
        openstack("flavor", "delete", name)


def read_cloud() -> dict:
    """{auth_url, username, password, project_name, region} of the admin's entry in clouds.yaml."""
    shown = openstack("configuration", "show", "--unmask", "-f", "json")
    return {
        "auth_url": shown["auth.auth_url"],
        "username": shown["auth.username"],
        "password": shown["auth.password"],
        "project_name": shown["auth.project_name"],
        "region": shown.get("region_name") or "RegionOne",
    }


def find_max_microversion() -> str:
    """The highest compute microversion that the cloud says it speaks."""
    rows = openstack("versions", "show", "--service", "compute", "-f", "json")
    return max((row["Max Microversion"] for row in rows if row["Max Microversion"]), key=lambda one: int(one[2:]))


def build_configuration(hosts: int) -> configparser.RawConfigParser:
    """tempest.conf: what this cloud is, and which optional features of the reference it has."""
    cloud, images, flavors = read_cloud(), make_images(), make_flavors()
    public = openstack("network", "show", PUBLIC, "-f", "json")
    about = json.loads((GUEST_IMAGE / "kumo-guest.json").read_text())
    user = about.get("login_user", "cirros")
    auth_url = cloud["auth_url"].rstrip("/").removesuffix("/v3")
    sections = {
        "DEFAULT": {"log_file": str(FOLDER / "tempest.log"), "debug": "true"},
        "oslo_concurrency": {"lock_path": str(FOLDER / "locks")},
        "auth": {
            "use_dynamic_credentials": "true",
            "admin_username": cloud["username"],
            "admin_password": cloud["password"],
            "admin_project_name": cloud["project_name"],
            "admin_domain_name": "Default",
        },
        "identity": {"uri_v3": f"{auth_url}/v3", "auth_version": "v3", "region": cloud["region"]},
        "identity-feature-enabled": {"api_v2": "false", "api_v2_admin": "false", "access_rules": "true"},
        "compute": {
            "image_ref": images[0],
            "image_ref_alt": images[1],
            "flavor_ref": flavors[0],
            "flavor_ref_alt": flavors[1],
            "min_compute_nodes": str(hosts),
            "max_microversion": find_max_microversion(),
            "hypervisor_type": "QEMU",
            "volume_device_name": "vdb",
            "build_timeout": "200",
        },
        "compute-feature-enabled": {
            "resize": "true",
            "change_password": "true",
            "vnc_console": "true",
            "serial_console": "true",
            "cold_migration": str(hosts > 1).lower(),
            "live_migration": str(hosts > 1).lower(),
            "block_migration_for_live_migration": "true",
            "live_migrate_back_and_forth": "true",
            "volume_backed_live_migration": "true",
            "personality": "false",  # files are put on a config drive, into no disk
            "attach_encrypted_volume": "false",
            "swap_volume": "false",
            "volume_multiattach": "false",
            "stable_rescue": "false",
        },
        "volume": {"catalog_type": "volumev3"},
        "network": {"public_network_id": public["id"], "floating_network_name": PUBLIC},
        "network-feature-enabled": {"port_security": "true", "ipv6": "true"},
        "validation": {
            "run_validation": "true",
            "connect_method": "floating",
            "image_ssh_user": user,
            "image_alt_ssh_user": user,
            "ssh_key_type": "ecdsa",
            "network_for_ssh": PUBLIC,
            # busybox's sh has no pipefail
            "ssh_shell_prologue": "set -eu; PATH=$$PATH:/sbin:/usr/sbin;",
        },
        "image": {"disk_formats": "qcow2,raw,iso,vmdk,vdi,vhd,vhdx", "container_formats": "bare"},
        "image-feature-enabled": {"import_image": "true"},
        "service_available": {
            **dict.fromkeys(("nova", "glance", "neutron", "cinder"), "true"),
            **dict.fromkeys(("swift", "placement"), "false"),
        },
    }
    made = configparser.RawConfigParser()
    made.read_dict(sections)
    return made


def start_server():
    """A server of images to be fetched, or None and a line that says why not."""
    settings = configparser.RawConfigParser()
    settings.read(SETTINGS)
    allowed = {
        option: [one.strip() for one in settings.get("image", option, fallback=default).split(",") if one.strip()]
        for option, default in (("import_networks", ""), ("import_ports", "80, 443"))
    }
    server = serve_images(FOLDER / "images", allowed["import_networks"], allowed["import_ports"])
    if server is None:
        print(f"left out: {WEB_DOWNLOAD}: {SETTINGS} lets nothing be fetched from this machine (see image_files.py)")
    return server


def prepare(hosts: int, server) -> Path:
    """The venv, the workspace and tempest.conf; where that lies."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    install = str(ROOT / "roles/controller/files/install_venv.sh")
    command = [install, str(FOLDER / "venv"), str(HERE / "requirements.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"run.py: tempest could not be installed:\n{done.stderr[-2000:]}")
    made = build_configuration(hosts)
    made["image"]["images_manifest_file"] = str(make_format_images(FOLDER / "images"))
    if server is not None:
        made["image"]["http_image"] = made["image"]["http_qcow2_image"] = build_uri(server)
    place = FOLDER / "tempest.conf"
    with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        made.write(stream)
    if not (FOLDER / "workspace").is_dir():
        init = [str(FOLDER / "venv/bin/tempest"), "init", "--workspace-path", str(FOLDER / "workspaces"), "workspace"]
        subprocess.run(init, cwd=FOLDER, check=True, capture_output=True)
    return place


def run(arguments: argparse.Namespace) -> int:
    """Run tempest and report; its exit status."""
    server = start_server()
    conf = prepare(arguments.hosts, server)
    words = [str(FOLDER / "venv/bin/tempest"), "run", "--config-file", str(conf)]
    words += ["--workspace-path", str(FOLDER / "workspaces"), "--concurrency", str(arguments.workers)]
    if arguments.list:
        words += ["--include-list", str(Path(arguments.list).resolve())]
    else:
        words += ["--regex", arguments.regex]
    excluded = [one for one in (arguments.exclude, None if server else WEB_DOWNLOAD) if one]
    if excluded:
        words += ["--exclude-regex", "|".join(f"({one})" for one in excluded)]
    environment = {**os.environ, "PATH": f"{FOLDER}/venv/bin:{os.environ['PATH']}"}
    subprocess.run(words, cwd=FOLDER / "workspace", env=environment, check=False)
    last = ["stestr", "last", "--subunit"]
    told = subprocess.run(last, cwd=FOLDER / "workspace", env=environment, capture_output=True, check=False)
    (FOLDER / "results.subunit").write_bytes(told.stdout)
    report = [str(FOLDER / "venv/bin/python"), str(HERE / "report.py"), str(FOLDER / "results.subunit")]
    return subprocess.run(report, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regex", default=ALL, help="which tests (default: %(default)s)")
    parser.add_argument("--list", help="a file of regular expressions, one a line")
    parser.add_argument("--exclude", help="which of these not")
    parser.add_argument("--hosts", type=int, default=1, help="hypervisors of the cloud (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="tests at once (default: 2)")
    parser.add_argument("--keep", action="store_true", help="leave images and flavors for the next run")
    arguments = parser.parse_args()
    if not CLOUDS.exists():
        sys.exit("run.py: there is no cloud on this machine; run ./stack.sh first")
    try:
        return run(arguments)
    finally:
        if not arguments.keep:
            remove_all()


if __name__ == "__main__":
    sys.exit(main())
