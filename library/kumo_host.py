#!/usr/bin/python3
"""The whole document of a host in one call. Next room: ``module_utils/kumo/core.py``."""

DOCUMENTATION = r"""
module: kumo_host
short_description: Bring a host to its Kumo document
description:
  - Reads what is on the host, plans, applies and reads again, for images, volumes, their exports, networks, routers,
    DHCP, firewall, metadata and servers, in this order.
  - Objects are independent, one's failure is in its own result and never stops another's. The module
    fails only where the host as a whole cannot be worked on.
  - What takes longer than a few seconds goes on as a task of the host; C(pending) is then true and the
    module wants to be called again.
  - A document older than the last one applied is refused.
author: Kumo
options:
  document:
    description:
      - The host document, as docs/host-document.md has it. It is never logged nor returned.
    type: dict
    required: true
  sections:
    description: Which parts to bring about; the order is always the module's own.
    type: list
    elements: str
    choices: [images, volumes, exports, networks, routers, dhcp, firewall, metadata, servers]
    default: [images, volumes, exports, networks, routers, dhcp, firewall, metadata, servers]
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
- name: Bring the host to its document
  kumo_host:
    document: "{{ kumo_document }}"

- name: Bring about the guests and their images only
  kumo_host:
    document: "{{ kumo_document }}"
    sections: [images, servers]
"""

RETURN = r"""
actions:
  description: What was done (in check mode, what would be), in order.
  returned: success
  type: list
  elements: dict
  sample:
    - section: servers
      object_id: 5ff1a6e2-9a2c-4c3b-a6d7-0a4f3f6b7d11
      verb: start
      summary: "start: servers 5ff1a6e2-9a2c-4c3b-a6d7-0a4f3f6b7d11"
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

from ansible.module_utils.kumo.core import SECTIONS
from ansible.module_utils.kumo.module import run_module


def name_sections():
    """Ansible sends only what is imported by name; core.py imports these where this process is root."""
    from ansible.module_utils.kumo import (  # noqa: F401
        dhcp,
        exports,
        firewall,
        images,
        metadata,
        neighbours,
        networks,
        routers,
        servers,
        volumes,
    )


def main():
    """The whole document, or the chosen sections of it."""
    run_module(SECTIONS, choosable=True)


if __name__ == "__main__":
    main()
