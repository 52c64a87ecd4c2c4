"""The Ansible side of a call: arguments in, the result out, and nothing of the document in any log.

Every module under ``library/`` that takes a document ends here. As root it works in this very process; as any
other account it hands the document to the host's root helper. Next rooms: ``core.py``, ``handoff.py``.
"""

from __future__ import annotations

import os

from ansible.module_utils.basic import AnsibleModule

from . import caller, core, handoff
from .errors import KumoError

# What exit_json and fail_json show in place of the arguments: the document holds keys and user data.
HIDDEN = {"module_args": {"document": "(not shown)"}}


class DocumentModule(AnsibleModule):
    """A module whose arguments are nobody's business: neither in the host's syslog nor in any result.

    ``no_log`` on the argument would not do: Ansible then blanks every string of the document wherever the
    result has it, ids and states included.
    """

    def _log_invocation(self):
        """Ansible would write the arguments to syslog here."""

    def _return_formatted(self, kwargs):
        kwargs["invocation"] = HIDDEN
        super()._return_formatted(kwargs)


def run_module(sections, choosable: bool = False) -> None:
    """Run the sections on the ``document`` argument; with ``choosable``, the ``sections`` argument narrows them."""
    spec = {"document": {"type": "dict", "required": True}, "helper": {"type": "path", "default": handoff.HELPER}}
    if choosable:
        spec["sections"] = {"type": "list", "elements": "str", "choices": list(sections), "default": list(sections)}
    module = DocumentModule(argument_spec=spec, supports_check_mode=True)
    chosen = module.params["sections"] if choosable else sections
    try:
        with caller.watching(1):
            if os.geteuid() == 0:
                result = core.run_sections(module.params["document"], chosen, check_mode=module.check_mode)
            else:
                narrowed = None if tuple(chosen) == core.SECTIONS else list(chosen)
                result = handoff.call_helper(
                    module.params["document"], narrowed, module.check_mode, module.params["helper"]
                )
    except KumoError as error:
        module.fail_json(msg=str(error))
    except Exception as error:
        place = error.__traceback__
        while place.tb_next:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_name} line {place.tb_lineno}"
        module.fail_json(msg=f"unexpected {type(error).__name__} in {where}: {error}")

    module.exit_json(**result)
