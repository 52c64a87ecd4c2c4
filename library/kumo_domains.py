#!/usr/bin/python3
"""Bring a host's guests to the state its document says. Next room: ``module_utils/kumo/servers.py``."""

DOCUMENTATION = r"""
module: kumo_domains
short_description: Bring a host's guests to the state its document says
description:
  - Does of M(kumo_host) only the guests.
  - The document and the result are the same.
  - Their images and networks have to be there; M(kumo_images) and M(kumo_networks) bring them about.
  - A guest is destroyed only where the document says C(wanted=absent) of it.
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
- name: Start, stop and remove guests as the document says
  kumo_domains:
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
from ansible.module_utils.kumo import servers  # noqa: F401
from ansible.module_utils.kumo.module import run_module


def main():
    """Bring a host's guests to the state its document says."""
    run_module(("servers",))


if __name__ == "__main__":
    main()
