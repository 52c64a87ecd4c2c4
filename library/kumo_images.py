#!/usr/bin/python3
"""Fetch the images a host's guests need. Next room: ``module_utils/kumo/images.py``."""

DOCUMENTATION = r"""
module: kumo_images
short_description: Fetch the images a host's guests need
description:
  - Does of M(kumo_host) only the image cache.
  - The document and the result are the same.
  - Images are checked against their checksum and their declared format. None is removed.
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
- name: Fetch the images of the document
  kumo_images:
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
from ansible.module_utils.kumo import images  # noqa: F401
from ansible.module_utils.kumo.module import run_module


def main():
    """Fetch the images a host's guests need."""
    run_module(("images",))


if __name__ == "__main__":
    main()
