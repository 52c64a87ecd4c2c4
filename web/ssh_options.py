"""How the control plane's ssh reaches a host: by its own key, with a host key that the operator collected, never asked.

For Ansible (`reconcile/run.py`) as a host's variables, for consoles (`console/target.py`) as a command line.
"""

from __future__ import annotations

import shlex


def build_connection(settings, connection: dict) -> dict:
    """A host's connection with what every host over ssh has: known by the keys its operator collected, never asked."""
    if connection.get("ansible_connection", "ssh") != "ssh":
        return connection
    # ansible_runner turns the check off by an environment variable of its own; a host's variable has the last word.
    connection = {"ansible_host_key_checking": True, **connection}
    if "ansible_ssh_common_args" in connection:
        return connection
    known = f"{settings.worker.ssh_dir}/known_hosts"
    options = ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={known}")
    return {**connection, "ansible_ssh_common_args": " ".join(f"-o {option}" for option in options)}


def build_forward(settings, connection: dict, address: str, port: int) -> list[str]:
    """ssh's words that join standard input and output with a TCP port of the host; connections to a host are shared."""
    connection = build_connection(settings, connection)
    words = ["ssh", "-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", "ConnectTimeout=10"]
    words += ["-o", "ServerAliveInterval=15", "-o", f"ControlPath={settings.kumo.run_dir}/ssh-%C"]
    words += shlex.split(connection.get("ansible_ssh_common_args", ""))
    words += shlex.split(connection.get("ansible_ssh_extra_args", ""))
    for option, name in (("-i", "ansible_ssh_private_key_file"), ("-l", "ansible_user"), ("-p", "ansible_port")):
        if connection.get(name):
            words += [option, str(connection[name])]
    return [*words, "-W", f"{address}:{port}", "--", connection["ansible_host"]]
