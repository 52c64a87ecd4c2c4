"""The settings of one `kumo.conf` (INI): every option, its default and what it is for.

Owns OPTIONS, the one table that loading, checking and documentation are made from. Touches no database.
Next room: `app.py` and `cli.py`, which load it once and hand it on.
"""

from __future__ import annotations

import configparser
import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

DEFAULT_PATH = "/etc/kumo/kumo.conf"


class SettingsError(Exception):
    """A setting that cannot be used: the message names the file, the section and the option."""


@dataclass(frozen=True)
class Option:
    """One option: ``kind`` is str, int, bool, list (comma-separated) or map (``a:b, c:d``)."""

    section: str
    name: str
    kind: str
    default: object
    help: str


OPTIONS = [
    Option("kumo", "state_dir", "str", "/var/lib/kumo", "Where the control plane keeps its files."),
    Option("kumo", "run_dir", "str", "/run/kumo", "Sockets and process ids."),
    Option("kumo", "log_dir", "str", "/var/log/kumo", "Log files; empty: standard error only."),
    Option("kumo", "region", "str", "RegionOne", "The region in the catalog."),
    Option("kumo", "debug", "bool", False, "Log every request and every step."),
    Option("kumo", "keep_deleted_days", "int", 90, "Days that deleted servers, volumes and images stay on record."),
    Option("database", "url", "str", "sqlite:////var/lib/kumo/kumo.db", "SQLAlchemy URL: SQLite or PostgreSQL."),
    Option("api", "listen", "str", "127.0.0.1:6780", "Address and port that `kumo serve` binds."),
    Option("api", "public_url", "str", "", "What clients reach it at; empty: http(s)://LISTEN."),
    Option("api", "hosts_url", "str", "", "What hosts fetch images from; empty: public_url."),
    Option("api", "separate_ports", "bool", False, "Serve each service at its usual port instead of one address."),
    Option("api", "workers", "int", 2, "API processes."),
    Option("api", "threads", "int", 8, "Threads of each API process."),
    Option("api", "idempotency_s", "int", 86400, "Seconds for which answers under an Idempotency-Key are kept."),
    Option("api", "tls_cert", "str", "", "PEM certificate chain; empty: no TLS."),
    Option("api", "tls_key", "str", "", "PEM private key of tls_cert."),
    Option("api", "max_body_bytes", "int", 262144, "Largest JSON body, in bytes."),
    Option("api", "max_limit", "int", 1000, "Most objects on one page of a list."),
    Option("identity", "key_dir", "str", "/etc/kumo/keys/fernet", "Token keys; the highest number signs."),
    Option("identity", "token_lifetime_s", "int", 86400, "How long a token lives, in seconds."),
    Option("identity", "password_rounds", "int", 12, "bcrypt cost of new password hashes (log2 of rounds)."),
    Option("identity", "lockout_attempts", "int", 6, "Wrong passwords per account and address before a pause."),
    Option("identity", "lockout_s", "int", 60, "Length of that pause, in seconds."),
    Option("policy", "file", "str", "/etc/kumo/policy.yaml", "Overrides of permissions (oslo.policy syntax)."),
    Option("image", "store_dir", "str", "", "Where images are stored; empty: STATE_DIR/images."),
    Option("image", "max_size_bytes", "int", 107374182400, "Largest upload, in bytes."),
    Option("image", "max_properties", "int", 128, "Most properties of an image."),
    Option("image", "max_tags", "int", 128, "Most tags of an image."),
    Option("image", "max_members", "int", 128, "Most members of a shared image."),
    Option("image", "import_methods", "list", ["glance-direct", "web-download"], "Ways to import; empty: none."),
    Option("image", "import_schemes", "list", ["http", "https"], "What web-download fetches by."),
    Option("image", "import_ports", "list", ["80", "443"], "Ports that web-download connects to."),
    Option("image", "import_networks", "list", [], "Ranges that are fetched from though they are not public."),
    Option("image", "import_timeout_s", "int", 3600, "Seconds that one web-download may take."),
    Option("compute", "virt_type", "str", "auto", "auto (probed by running a guest), kvm or qemu."),
    Option("compute", "availability_zone", "str", "nova", "Zone of hosts that name none."),
    Option("compute", "cpu_allocation_ratio", "int", 16, "vCPUs offered per core."),
    Option("compute", "ram_allocation_percent", "int", 150, "Memory offered, in percent of what a host has."),
    Option("compute", "disk_allocation_percent", "int", 100, "Disk offered, in percent of what a host has."),
    Option("compute", "image_cache_max_age_s", "int", 604800, "Seconds a host keeps an unused image; 0: for ever."),
    Option("compute", "image_cache_max_bytes", "int", 0, "Unused images go above this size of a cache; 0: no bound."),
    Option("compute", "stop_timeout_s", "int", 60, "Seconds a guest gets to shut down before it is powered off."),
    Option("compute", "shelved_offload_time_s", "int", 0, "Seconds a shelved guest stays on its host; -1: for ever."),
    Option("compute", "resize_confirm_window_s", "int", 0, "Seconds until a resize is confirmed by itself; 0: never."),
    Option("compute", "reclaim_instance_interval_s", "int", 0, "Seconds a deleted server can be restored; 0: not."),
    Option(
        "console", "listen", "str", "127.0.0.1:6080", "Address and port that `kumo console` binds; TLS is the API's."
    ),
    Option("console", "public_url", "str", "", "What browsers reach it at; empty: http(s)://LISTEN."),
    Option("console", "token_ttl_s", "int", 120, "Seconds in which the URL of a console can be opened, once."),
    Option("console", "allowed_origins", "list", [], "Further web pages (https://HOST) that may open consoles."),
    Option("console", "sessions_per_user", "int", 10, "Most consoles that a user has open."),
    Option("console", "sessions", "int", 200, "Most consoles that are open."),
    Option("console", "novnc_dir", "str", "/opt/kumo/novnc", "noVNC's files, which browsers are given."),
    Option("network", "dns_domain", "str", "kumo.internal", "Domain of guests' names."),
    Option("network", "dns_servers", "list", [], "Forwarders for guests; empty: the host's own."),
    Option("network", "mtu", "int", 1500, "MTU of the physical network."),
    Option("network", "tenant_type", "str", "local", "Segmentation of tenant networks: local, vxlan or vlan."),
    Option("network", "public_network", "str", "public", "Name of the external network bootstrap creates."),
    Option("network", "public_bridge", "str", "kumo-public", "Bridge of the physical network `public`."),
    Option("network", "public_cidr", "str", "172.24.4.0/24", "Range of the external network."),
    Option("network", "public_gateway", "str", "172.24.4.1", "The machine's own address on it."),
    Option("network", "public_masquerade", "bool", True, "NAT the external network to the machine's uplink."),
    Option("network", "public_interface", "str", "", "NIC to put under the bridge; empty: none."),
    Option("network", "auto_range", "str", "10.0.0.0/16", "Where a project that has no network gets a /26 of."),
    Option("network", "default_ipv6", "bool", False, "Unused ranges of IPv6 in the default subnet pool."),
    Option("volume", "allocation_percent", "int", 100, "Volumes offered, in percent of what a storage host has."),
    Option("worker", "broker", "str", "", "amqp:// or redis:// URL, to tell workers anywhere; empty: only here."),
    Option("worker", "zones", "list", [], "Zones whose hosts this worker takes; empty: all."),
    Option("worker", "runs_dir", "str", "", "Run folders (0700); empty: STATE_DIR/runs."),
    Option("worker", "ansible_dir", "str", "", "Where playbooks/, roles/ and library/ are; empty: beside web/."),
    Option("worker", "ansible_playbook", "str", "", "The executable; empty: beside this Python."),
    Option("worker", "warm", "bool", True, "Fork runs from one ansible-playbook that is kept ready."),
    Option("worker", "sweep_s", "int", 60, "Seconds between looks at a host that nothing asked about."),
    Option("worker", "run_timeout_s", "int", 300, "Seconds after which a run is ended."),
    Option("worker", "lease_s", "int", 30, "Seconds a lease lives without a heartbeat."),
    Option("worker", "operation_timeout_s", "int", 600, "Seconds an operation may take before it is an ERROR."),
    Option("worker", "keep_runs", "int", 200, "Run folders and rows kept."),
    Option("worker", "parallel_runs", "int", 8, "Hosts worked on at the same time."),
    Option("worker", "parallel_imports", "int", 2, "Imports at the same time; 0: store_dir is not on this machine."),
    Option("worker", "ssh_dir", "str", "/etc/kumo/ssh", "The key to hosts (id_ed25519); their keys (known_hosts)."),
    Option("worker", "host_state_dir", "str", "/var/lib/kumo/host", "Where modules keep their files on a host."),
]

_OPTIONS = {(option.section, option.name): option for option in OPTIONS}


def _parse(option: Option, text: str, where: str):
    text = text.strip()
    try:
        if option.kind == "int":
            return int(text)
        if option.kind == "bool":
            return configparser.RawConfigParser.BOOLEAN_STATES[text.lower()]
        if option.kind == "list":
            return [part.strip() for part in text.split(",") if part.strip()]
        return text
    except (ValueError, KeyError):
        raise SettingsError(f"{where}: [{option.section}] {option.name} = {text!r} is no {option.kind}") from None


def build_settings(values: dict[tuple[str, str], str] | None = None, where: str = "settings") -> SimpleNamespace:
    """Settings as ``settings.<section>.<option>`` from texts by (section, option); SettingsError where one is wrong."""
    values = values or {}
    unknown = sorted(f"[{section}] {name}" for section, name in values if (section, name) not in _OPTIONS)
    if unknown:
        raise SettingsError(f"{where}: unknown option {', '.join(unknown)}; `kumo config show` lists all")
    settings = SimpleNamespace()
    for option in OPTIONS:
        section = settings.__dict__.setdefault(option.section, SimpleNamespace())
        given = values.get((option.section, option.name))
        value = option.default if given is None else _parse(option, given, where)
        setattr(section, option.name, value)
    root = Path(__file__).resolve().parent.parent
    state = settings.kumo.state_dir
    settings.image.store_dir = settings.image.store_dir or f"{state}/images"
    settings.worker.runs_dir = settings.worker.runs_dir or f"{state}/runs"
    settings.worker.ansible_dir = settings.worker.ansible_dir or str(root)
    settings.kumo.hostname = socket.gethostname()
    scheme = "https" if settings.api.tls_cert else "http"
    settings.api.public_url = (settings.api.public_url or f"{scheme}://{settings.api.listen}").rstrip("/")
    settings.api.hosts_url = (settings.api.hosts_url or settings.api.public_url).rstrip("/")
    settings.console.public_url = (settings.console.public_url or f"{scheme}://{settings.console.listen}").rstrip("/")
    _check_imports(settings, where)
    if settings.compute.virt_type not in ("auto", "kvm", "qemu"):
        raise SettingsError(f"{where}: [compute] virt_type is {settings.compute.virt_type!r}: auto, kvm or qemu")
    return settings


def _check_imports(settings, where: str) -> None:
    for option, known in (("import_methods", ("glance-direct", "web-download")), ("import_schemes", ("http", "https"))):
        for given in getattr(settings.image, option):
            if given not in known:
                raise SettingsError(f"{where}: [image] {option} has {given!r}; known: {', '.join(known)}")
    for given in settings.image.import_networks:
        try:
            ipaddress.ip_network(given)
        except ValueError as error:
            raise SettingsError(f"{where}: [image] import_networks: {error}") from None


def load_settings(path: str | None = None) -> SimpleNamespace:
    """Settings of the file at ``path``, else of $KUMO_CONFIG, else of DEFAULT_PATH; defaults where there is none."""
    named = path or os.environ.get("KUMO_CONFIG")
    chosen = named or DEFAULT_PATH
    parser = configparser.RawConfigParser()
    try:
        with open(chosen, encoding="utf-8") as stream:
            parser.read_file(stream)
    except FileNotFoundError:
        if named:
            raise SettingsError(f"{chosen}: no such file; name the settings with --config") from None
    except configparser.Error as error:
        raise SettingsError(f"{chosen}: {error}") from None
    values = {(section, name): text for section in parser.sections() for name, text in parser.items(section)}
    return build_settings(values, where=chosen)


def build_sample() -> str:
    """A `kumo.conf` with every option, commented out, at its default."""
    lines = []
    for section in dict.fromkeys(option.section for option in OPTIONS):
        lines.append(f"[{section}]")
        for option in OPTIONS:
            if option.section == section:
                default = ", ".join(option.default) if option.kind == "list" else option.default
                lines += [f"# {option.help}", f"# {option.name} = {default}", ""]
    return "\n".join(lines)
