#!/usr/bin/python3
"""Make the volumes of a storage host and offer them over iSCSI. Next room: ``module_utils/kumo/volumes.py``."""

DOCUMENTATION = r"""
module: kumo_volumes
short_description: Make the volumes of a storage host and offer them over iSCSI
description:
  - Does of M(kumo_host) only images, volumes and their exports.
  - The document and the result are the same.
  - A volume is removed only where the document says that it is absent.
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
    default: /usr/local/sbin/kumo-root
attributes:
  check_mode:
    support: full
    description: Says what would be done, and does nothing.
  diff_mode:
    support: full
    description: Shows each action's object before and after.
"""

EXAMPLES = r"""
- name: Make the volumes of the document
  kumo_volumes:
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
from ansible.module_utils.kumo import exports, images, volumes  # noqa: F401
from ansible.module_utils.kumo.module import run_module


def main():
    """Make the volumes of a storage host and offer them over iSCSI."""
    run_module(("images", "volumes", "exports"))


if __name__ == "__main__":
    main()
