"""Hosts, groups and documents out of Kumo's database, for ansible-inventory and operators' own plays.

Owns nothing: it reads the rows that the worker reads and builds the same documents. Runs where the control
plane is installed, with its Python (/opt/kumo/venv/bin/ansible-inventory). The worker does not use it: a run's
inventory holds only that run's host. Next room: web/desired/.
"""

from __future__ import annotations

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin

DOCUMENTATION = r"""
name: kumo
short_description: Hosts and their documents out of Kumo's database
description:
  - Every host of the database, with how Ansible connects to it and its document as C(kumo_document).
  - Groups are C(hypervisors) and the other roles of hosts, C(zone_NAME) for each availability zone, and
    C(enabled) and C(disabled).
  - The source is a file whose name ends in C(kumo.yml) or C(kumo.yaml).
author: Kumo
options:
  plugin:
    description: Has to be V(kumo).
    type: str
    required: true
    choices: [kumo]
  config:
    description: Kumo's settings.
    type: path
    default: /etc/kumo/kumo.conf
    env:
      - name: KUMO_CONFIG
  documents:
    description: Whether each host gets its document. Without them an inventory of many hosts is small.
    type: bool
    default: true
"""

EXAMPLES = r"""
# all.kumo.yml; try: /opt/kumo/venv/bin/ansible-inventory -i all.kumo.yml --graph
plugin: kumo
documents: false
"""

ROLE_GROUPS = {"hypervisor": "hypervisors", "storage": "storage", "controller": "controllers"}


class InventoryModule(BaseInventoryPlugin):
    """Reads rows once per parse; texts stay data (Ansible does not evaluate what a plugin returns untrusted)."""

    NAME = "kumo"

    def verify_file(self, path):
        """Whether the file is meant for this plugin; by its name alone."""
        return super().verify_file(path) and path.endswith(("kumo.yml", "kumo.yaml"))

    def parse(self, inventory, loader, path, cache=True):
        """Add hosts, groups and variables. AnsibleParserError names what is missing."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        try:
            from sqlalchemy import select
            from sqlalchemy.exc import DBAPIError

            from web.desired import build_document, read_rows
            from web.models import Database, Host
            from web.settings import SettingsError, load_settings
        except ImportError as error:
            raise AnsibleParserError(
                f"the inventory plugin kumo needs the control plane's Python (/opt/kumo/venv): {error}"
            ) from error
        try:
            settings = load_settings(self.get_option("config"))
            with Database(settings.database.url).read() as session:
                for host in session.scalars(select(Host).order_by(Host.name)):
                    document = None
                    if self.get_option("documents"):
                        document = build_document(read_rows(session, host), settings, host.fence)
                    self._add(host, document)
        except (SettingsError, OSError, DBAPIError) as error:
            raise AnsibleParserError(f"{path}: {error}") from error

    def _add(self, host, document: dict | None) -> None:
        self.inventory.add_host(host.name)
        groups = [ROLE_GROUPS.get(role, role) for role in host.roles]
        groups += [f"zone_{host.zone}", "enabled" if host.enabled else "disabled"]
        for group in groups:
            name = self.inventory.add_group("".join(c if c.isalnum() else "_" for c in group))
            self.inventory.add_child(name, host.name)
        for key, value in host.connection.items():
            self.inventory.set_variable(host.name, key, value)
        if document is not None:
            self.inventory.set_variable(host.name, "kumo_document", document)
