#!/usr/bin/env python3
"""Tempest, OpenStack's own suite of tests, unmodified, against the cloud that runs on this machine, or a lab's.

    tests/tempest/run.py                          compute, identity and image, all of it
    tests/tempest/run.py --list tests/tempest/ci.txt
    tests/tempest/run.py --regex test_servers
    tests/tempest/run.py --lab molecule/two-hypervisors --list tests/tempest/two-hypervisors.txt

Root, after ./stack.sh or, for a lab, after molecule's converge. Makes what the suite needs (a venv in .cache/tempest,
two images, two flavors), writes tempest.conf, runs, prints run, passed, failed and skipped with the reasons, and takes
images and flavors away. Exit status: 0 where nothing failed. What this cloud's settings do not allow is left out and
said (image_files.py has which). With --lab it makes the venv, as no package is in reach of a lab, and goes on in the
lab's network namespace. Next rooms: clouds.py; report.py, which reads what tempest wrote; image_files.py.
"""

from __future__ import annotations

import argparse
import configparser
import os
import subprocess
import sys
from pathlib import Path

from clouds import ROOT, Cloud, enter_lab, find_cloud, is_in_lab
from image_files import build_uri, make_format_images, serve_images

HERE = Path(__file__).resolve().parent
FOLDER = ROOT / ".cache" / "tempest"
# What one run writes: a cloud here and one in a lab can be run against at the same time.
OWN = FOLDER / (f"lab-{Path(os.environ['KUMO_LAB_FOLDER']).name}" if is_in_lab() else "here")
WEB_DOWNLOAD = "test_image_web_download_import"  # needs an image at an address that the cloud may fetch from
PUBLIC = "public"
IMAGES = ("tempest-image", "tempest-image-alt")
FLAVORS = {"tempest-flavor": ("192", "1", "1"), "tempest-flavor-alt": ("224", "2", "1")}
# The reference's filters by default, and those whose hints are honoured here, too.
FILTERS = (
    "ComputeFilter,ComputeCapabilitiesFilter,ImagePropertiesFilter,ServerGroupAntiAffinityFilter,"
    "ServerGroupAffinityFilter,SameHostFilter,DifferentHostFilter"
)
ALL = r"^tempest\.(serial_tests\.)?api\.(compute|identity|image)\."


def make_images(cloud: Cloud) -> list[str]:
    """Ids of two images of Kumo's guest, which has an agent."""
    have, found = cloud.read_names("image", "list"), []
    for name in IMAGES:
        if name not in have:
            cloud.openstack(
                *("image", "create", "--file", str(cloud.guest_image / "kumo-guest.qcow2"), "--disk-format", "qcow2"),
                *("--container-format", "bare", "--property", "hw_qemu_guest_agent=yes"),
                *("--property", f"os_admin_user={cloud.read_login_user()}", "--public", name),
            )
        found.append(cloud.openstack("image", "show", name, "-f", "json")["id"])
    return found


def make_flavors(cloud: Cloud) -> list[str]:
    """Ids of two flavors that fit it, of different sizes."""
    have, found = cloud.read_names("flavor", "list"), []
    for name, (ram, disk, cpus) in FLAVORS.items():
        if name not in have:
            cloud.openstack("flavor", "create", "--ram", ram, "--disk", disk, "--vcpus", cpus, "--public", name)
        found.append(cloud.openstack("flavor", "show", name, "-f", "json")["id"])
    return found


def remove_all(cloud: Cloud) -> None:
    """Images and flavors of this program's, of a run that was killed too."""
    for name in cloud.read_names("image", "list") & set(IMAGES):
        cloud.openstack("image", "delete", name)
    for name in cloud.read_names("flavor", "list") & set(FLAVORS):
        cloud.openstack("flavor", "delete", name)


def read_access(cloud: Cloud) -> dict:
    """{auth_url, username, password, project_name, region} of the admin's entry in clouds.yaml."""
    shown = cloud.openstack("configuration", "show", "--unmask", "-f", "json")
    return {
        "auth_url": shown["auth.auth_url"],
        "username": shown["auth.username"],
        "password": shown["auth.password"],
        "project_name": shown["auth.project_name"],
        "region": shown.get("region_name") or "RegionOne",
    }


def find_max_microversion(cloud: Cloud) -> str:
    """The highest compute microversion that the cloud says it speaks."""
    rows = cloud.openstack("versions", "show", "--service", "compute", "-f", "json")
    return max((row["Max Microversion"] for row in rows if row["Max Microversion"]), key=lambda one: int(one[2:]))


def read_extensions(cloud: Cloud) -> str:
    """What the network service says it has, by their aliases, with commas."""
    return ",".join(row["Alias"] for row in cloud.openstack("extension", "list", "--network", "-f", "json"))


def build_configuration(cloud: Cloud, hosts: int) -> configparser.RawConfigParser:
    """tempest.conf: what this cloud is, and which optional features of the reference it has."""
    access, images, flavors = read_access(cloud), make_images(cloud), make_flavors(cloud)
    public = cloud.openstack("network", "show", PUBLIC, "-f", "json")
    user = cloud.read_login_user()
    auth_url = access["auth_url"].rstrip("/").removesuffix("/v3")
    sections = {
        "DEFAULT": {"log_file": str(OWN / "tempest.log"), "debug": "true"},
        "oslo_concurrency": {"lock_path": str(OWN / "locks")},
        "auth": {
            "use_dynamic_credentials": "true",
            "admin_username": access["username"],
            "admin_password": access["password"],
            "admin_project_name": access["project_name"],
            "admin_domain_name": "Default",
        },
        "identity": {"uri_v3": f"{auth_url}/v3", "auth_version": "v3", "region": access["region"]},
        "identity-feature-enabled": {"api_v2": "false", "api_v2_admin": "false", "access_rules": "true"},
        "compute": {
            "image_ref": images[0],
            "image_ref_alt": images[1],
            "flavor_ref": flavors[0],
            "flavor_ref_alt": flavors[1],
            "min_compute_nodes": str(hosts),
            "max_microversion": find_max_microversion(cloud),
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
            "shelve_migrate": str(hosts > 1).lower(),
            "live_migration": str(hosts > 1).lower(),
            "block_migration_for_live_migration": "true",
            "live_migrate_back_and_forth": "true",
            "volume_backed_live_migration": "true",
            "scheduler_enabled_filters": FILTERS,
            "nova_policy_roles": "admin,manager,member,reader",
            "personality": "false",  # files are put on a config drive, into no disk
            "attach_encrypted_volume": "false",
            "swap_volume": "false",
            "volume_multiattach": "false",
            "stable_rescue": "false",
        },
        # What a reader, a member and a project's manager may do is as in the reference since its role manager.
        "enforce_scope": {"nova": "true"},
        "volume": {"catalog_type": "volumev3"},
        "network": {"public_network_id": public["id"], "floating_network_name": PUBLIC},
        "network-feature-enabled": {"port_security": "true", "ipv6": "true", "api_extensions": read_extensions(cloud)},
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
        "scenario": {
            "target_dir": f"/home/{user}",  # on the guest's disk: its /tmp is in memory
            "img_file": str(cloud.guest_image / "kumo-guest.qcow2"),
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


def start_server(cloud: Cloud):
    """A server of images to be fetched, or None and a line that says why not."""
    if cloud.settings is None:
        print(f"left out: {WEB_DOWNLOAD}: a lab's controller fetches nothing from where tempest runs")
        return None
    settings = configparser.RawConfigParser()
    settings.read(cloud.settings)
    allowed = {
        option: [one.strip() for one in settings.get("image", option, fallback=default).split(",") if one.strip()]
        for option, default in (("import_networks", ""), ("import_ports", "80, 443"))
    }
    server = serve_images(FOLDER / "images", allowed["import_networks"], allowed["import_ports"])
    if server is None:
        print(f"left out: {WEB_DOWNLOAD}: {cloud.settings} lets nothing be fetched from here (see image_files.py)")
    return server


def install() -> None:
    """The venv; nothing is fetched where it is whole."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    install = str(ROOT / "roles/controller/files/install_venv.sh")
    command = [install, str(FOLDER / "venv"), str(HERE / "requirements.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"run.py: tempest could not be installed:\n{done.stderr[-2000:]}")


def prepare(cloud: Cloud, hosts: int, server) -> Path:
    """The workspace and tempest.conf; where that lies."""
    made = build_configuration(cloud, hosts)
    made["image"]["images_manifest_file"] = str(make_format_images(FOLDER / "images"))
    if server is not None:
        made["image"]["http_image"] = made["image"]["http_qcow2_image"] = build_uri(server)
    place = OWN / "tempest.conf"
    OWN.mkdir(exist_ok=True)
    with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        made.write(stream)
    if not (OWN / "workspace").is_dir():
        init = [str(FOLDER / "venv/bin/tempest"), "init", "--workspace-path", str(OWN / "workspaces"), "workspace"]
        subprocess.run(init, cwd=OWN, check=True, capture_output=True)
    return place


def run(cloud: Cloud, arguments: argparse.Namespace) -> int:
    """Run tempest and report; its exit status."""
    server = start_server(cloud)
    conf = prepare(cloud, arguments.hosts or cloud.count_hypervisors(), server)
    words = [str(FOLDER / "venv/bin/tempest"), "run", "--config-file", str(conf)]
    words += ["--workspace-path", str(OWN / "workspaces"), "--concurrency", str(arguments.workers)]
    if arguments.list:
        words += ["--include-list", str(Path(arguments.list).resolve())]
    else:
        words += ["--regex", arguments.regex]
    excluded = [one for one in (arguments.exclude, None if server else WEB_DOWNLOAD) if one]
    if excluded:
        words += ["--exclude-regex", "|".join(f"({one})" for one in excluded)]
    environment = {**os.environ, "PATH": f"{FOLDER}/venv/bin:{os.environ['PATH']}"}
    subprocess.run(words, cwd=OWN / "workspace", env=environment, check=False)
    last = ["stestr", "last", "--subunit"]
    told = subprocess.run(last, cwd=OWN / "workspace", env=environment, capture_output=True, check=False)
    (OWN / "results.subunit").write_bytes(told.stdout)
    report = [str(FOLDER / "venv/bin/python"), str(HERE / "report.py"), str(OWN / "results.subunit")]
    return subprocess.run(report, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regex", default=ALL, help="which tests (default: %(default)s)")
    parser.add_argument("--list", help="a file of regular expressions, one a line")
    parser.add_argument("--exclude", help="which of these not")
    parser.add_argument("--hosts", type=int, help="hypervisors of the cloud (default: as many as are up)")
    parser.add_argument("--lab", metavar="SCENARIO_DIR", help="the cloud of this lab (docs/real-hosts.md)")
    parser.add_argument("--workers", type=int, default=2, help="tests at once (default: 2)")
    parser.add_argument("--keep", action="store_true", help="leave images and flavors for the next run")
    arguments = parser.parse_args()
    install()
    if arguments.lab and not is_in_lab():
        return enter_lab(arguments.lab)
    cloud = find_cloud()
    try:
        return run(cloud, arguments)
    finally:
        if not arguments.keep:
            remove_all(cloud)


if __name__ == "__main__":
    sys.exit(main())
