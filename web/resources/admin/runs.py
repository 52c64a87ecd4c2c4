"""Runs: plays against hosts, and ending one that is under way (`kumo run`)."""

from __future__ import annotations

from sqlalchemy import select

from ...errors import BadRequest, Conflict, NotFound
from ...http import Context
from ...models import Host, HostRequest, Run, mark_due
from ...policy import ADMIN, rule
from ...routes import Route
from .hosts import show_time

STATES = ("running", "succeeded", "failed", "cancelled", "lost")


def index(ctx: Context) -> list[Run]:
    """Newest first; ``?host=``, ``?state=``, ``?limit=`` (20)."""
    chosen = select(Run).order_by(Run.started_at.desc())
    if name := ctx.query.get("host"):
        chosen = chosen.where(Run.host_id.in_(select(Host.id).where(Host.name == name)))
    if state := ctx.query.get("state"):
        if state not in STATES:
            raise BadRequest(f"Invalid input in state: {state[:40]!r} is none of {', '.join(STATES)}")
        chosen = chosen.where(Run.state == state)
    given = ctx.query.get("limit", "20")
    if not given.isdecimal() or not 1 <= int(given) <= ctx.settings.api.max_limit:
        raise BadRequest(f"Invalid input in limit: {given[:40]!r} is no number from 1 to {ctx.settings.api.max_limit}")
    return list(ctx.session.scalars(chosen.limit(int(given))))


def show(ctx: Context, run_id: str) -> Run:
    run = ctx.session.get(Run, run_id)
    if run is None:
        raise NotFound("run", run_id)
    return run


def view(ctx: Context, run: Run) -> dict:
    return {
        "id": run.id,
        "host": ctx.session.get(Host, run.host_id).name,
        "generation": run.generation,
        "state": run.state,
        "error": run.error,
        "worker": run.worker,
        "changed": run.changed,
        "actions": run.actions,
        "started_at": show_time(run.started_at),
        "finished_at": show_time(run.finished_at),
    }


def view_whole(ctx: Context, run: Run) -> dict:
    """With its tasks, per-object results and the ids of the requests that it carried."""
    asked = select(HostRequest.request_id).where(HostRequest.run_id == run.id).order_by(HostRequest.id)
    requests = list(ctx.session.scalars(asked))
    return {**view(ctx, run), "tasks": run.tasks, "results": run.results, "request_ids": requests}


def cancel(ctx: Context, run_id: str) -> None:
    """End it, here and on its host; the host is due again by itself. Conflict where it has ended."""
    run = show(ctx, run_id)
    if run.state != "running":
        raise Conflict(f"Run {run_id} is not under way: it is {run.state}.")
    run.cancel_wanted = True
    host = ctx.session.get(Host, run.host_id)
    mark_due(ctx.session, host.id, host.zone)  # its worker looks for cancels when it wakes


READ = rule("admin:runs:read", ADMIN)
CANCEL = rule("admin:runs:cancel", ADMIN)
ROUTES = [
    Route("GET", "/runs", READ, None, index, view, key="runs"),
    Route("GET", "/runs/{run_id}", READ, None, show, view_whole, key="run"),
    Route("POST", "/runs/{run_id}/action", CANCEL, {}, cancel, status=202, action="cancel"),
]
