#!/usr/bin/python3
"""Whether guests run under KVM on a host. Next room: ``module_utils/kumo/probe.py``."""

DOCUMENTATION = r"""
module: kumo_probe
short_description: Find out by running a guest whether KVM works on a host
description:
  - Boots a small kernel under KVM and waits for its word on the serial port. A device file alone proves
    nothing, there are hosts whose C(/dev/kvm) opens and then hangs every guest.
  - The answer is kept in the state directory until the next boot or another QEMU, and M(kumo_host) uses it
    where the document says C(virt_type=auto).
author: Kumo
options:
  state_dir:
    description: The state directory of the host's modules.
    type: path
    default: /var/lib/kumo/host
  kernel:
    description: The probe's kernel.
    type: path
    default: /var/lib/kumo/guest-image/probe/vmlinuz
  initrd:
    description: The probe's first file system.
    type: path
    default: /var/lib/kumo/guest-image/probe/initrd
  seconds:
    description: How long to wait for the word.
    type: float
    default: 8
attributes:
  check_mode:
    support: full
    description: Returns the kept answer, or none; runs no guest.
  diff_mode:
    support: none
    description: There is nothing to compare.
"""

EXAMPLES = r"""
- name: Find out whether KVM works here
  kumo_probe:
    state_dir: /var/lib/kumo/host
  register: probed
"""

RETURN = r"""
virt_type:
  description: C(kvm) where a guest ran under it, else C(qemu); null in check mode where nobody has probed yet.
  returned: success
  type: str
  sample: qemu
reason:
  description: Why, in words.
  returned: success
  type: str
seconds:
  description: How long the probe took.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kumo import probe
from ansible.module_utils.kumo.core import DOCUMENT_VERSION, parse_document
from ansible.module_utils.kumo.errors import KumoError


def main():
    """Answer from what is kept, else by running a guest."""
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "default": "/var/lib/kumo/host"},
            "kernel": {"type": "path", "default": probe.KERNEL},
            "initrd": {"type": "path", "default": probe.INITRD},
            "seconds": {"type": "float", "default": probe.SECONDS},
        },
        supports_check_mode=True,
    )
    try:
        document = parse_document(
            {"version": DOCUMENT_VERSION, "settings": {"state_dir": module.params["state_dir"], "virt_type": "auto"}}
        )
        kept = probe.read_answer(document)
        answer = kept or {"virt_type": None, "reason": "nobody has probed yet", "seconds": 0.0}
        if kept is None and not module.check_mode:
            names = ("kernel", "initrd", "seconds")
            answer = probe.apply_probe(document, **{name: module.params[name] for name in names})
    except (KumoError, OSError) as error:
        module.fail_json(msg=str(error))
    if answer.get("warning"):
        module.warn(answer["warning"])
    module.exit_json(changed=kept is None, **{name: answer[name] for name in ("virt_type", "reason", "seconds")})


if __name__ == "__main__":
    main()
