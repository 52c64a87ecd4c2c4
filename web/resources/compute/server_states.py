"""What an admin says of a server's state, and a crash dump, which no host makes.

A state is never written: an error is a fault that stays until somebody acts on the server, and `active` forgets the
fault, so that the state is again what hosts see. Source: Compute API reference, "Reset Server State (os-resetState
Action)", "Inject Network Information", "Reset Networking On A Server", "Trigger Crash Dump In Server".
"""

from __future__ import annotations

from ...errors import BadRequest
from ...fields import field, one_of
from ...http import Context
from ...models import finish_actions, now, touch
from ...policy import ADMIN, MEMBER, rule
from ...routes import Route
from .server_rows import begin_operation, check_placed, find_server_to_change, forget_fault, mark_changed

FIELDS = {"state": field(one_of("active", "error"), required=True)}
RESET = "The server was reset to the state error by an administrator."


def reset(ctx: Context, server_id: str) -> None:
    """`error`: in error whatever hosts see; `active`: no fault, and what hosts see. Locks are no hindrance."""
    server = find_server_to_change(ctx, server_id, "reset_state")
    if ctx.body["state"] == "error":
        server.fault_code, server.fault_message, server.fault_details, server.fault_at = 500, RESET, None, now()
        server.fault_kept = True
        server.operation = server.operation_deadline = None
        finish_actions(ctx.session, server.id, "Error")
    else:
        check_placed(server)
        if server.built_at is None:
            begin_operation(ctx, server, "build")
        forget_fault(server)
    mark_changed(ctx, server)


def refresh_network(ctx: Context, server_id: str) -> None:
    """Its host brings the guest's ports, addresses and names to what is wanted, as it does of itself after a while."""
    server = find_server_to_change(ctx, server_id, None)
    check_placed(server)
    touch(ctx.session, server.host_id, ctx.request_id)


def trigger_crash_dump(ctx: Context, server_id: str) -> None:
    """Refused: hosts do not do it, and a guest without a dump would look as if it had one."""
    server = find_server_to_change(ctx, server_id, "trigger_crash_dump")
    raise BadRequest(f"Driver does not support triggering a crash dump: none is made of instance {server.id}")


PATH = "/servers/{server_id}/action"
DUMP = rule("compute:servers:trigger_crash_dump", MEMBER)
NETWORK = rule("compute:servers:refresh_network", ADMIN)
ROUTES = [
    Route("POST", PATH, NETWORK, None, refresh_network, None, 202, action="injectNetworkInfo"),
    Route("POST", PATH, NETWORK, None, refresh_network, None, 202, action="resetNetwork"),
    Route("POST", PATH, rule("compute:servers:reset_state", ADMIN), FIELDS, reset, None, 202, action="os-resetState"),
    Route("POST", PATH, DUMP, None, trigger_crash_dump, None, 202, action="trigger_crash_dump", since="2.17"),
]
