#!/usr/bin/python3
"""Bring a host's networks to the state its document says. Next room: ``module_utils/kumo/networks.py``."""

DOCUMENTATION = r"""
module: kumo_networks
short_description: Bring a host's networks to the state its document says
description:
  - Does of M(kumo_host) only the networks, their routers, DHCP and metadata.
  - The document and the result are the same.
  - Only bridges, namespaces and addresses that carry Kumo's names are touched.
author: Kumo
options:
  document:
    description:
      - The host document, as docs/host-document.md has it. It is never logged nor returned.
    type: dict
    required: true
  helper:
    description:
      - What sudo starts as root where the module's own account is not root. Written by the role host_base.
    type: path
    default: /usr/local/lib/kumo/root/kumo_root.py
attributes:
  check_mode:
    support: full
    description: Says what would be done, and does nothing.
  diff_mode:
    support: full
    description: Shows each action's object before and after.
"""

EXAMPLES = r"""
- name: Make the bridges, namespaces and address services of the document
  kumo_networks:
    document: "{{ kumo_document }}"
"""

RETURN = r"""
actions:
  description: What was done (in check mode, what would be), in order.
  returned: success
  type: list
  elements: dict
objects:
  description: For each section and object, whether it is as wanted (ok) and if not, why (error).
  returned: success
  type: dict
pending:
  description: Something is under way on the host; call again in a second.
  returned: success
  type: bool
observed:
  description: What is on the host now, as docs/foundation.md has it.
  returned: success
  type: dict
"""

# Ansible sends only what is imported by name here; core.py finds the sections among them.
from ansible.module_utils.kumo import dhcp, metadata, neighbours, networks, routers  # noqa: F401
from ansible.module_utils.kumo.module import run_module


def main():
    """Bring a host's networks to the state its document says."""
    run_module(("networks", "routers", "neighbours", "dhcp", "metadata"))


if __name__ == "__main__":
    main()
