"""The filters of a list of servers, as conditions on rows.

Source: Compute API reference, "List Servers". Patterns (name, ip …) are regular expressions (`web/models/patterns.py`).
Reads nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Text, and_, cast, func, or_, select

from ...errors import BadRequest, Forbidden
from ...fields import FALSE, TRUE, as_bool
from ...http import Context
from ...models import Address, FloatingIP, Host, Port, Server
from ...models.patterns import build_match, check_pattern
from ...policy import rule
from ...versions import Version, parse_version

ALL_PROJECTS = rule("compute:servers:index:all_projects", "role:admin")
ALL_FILTERS = rule("compute:servers:index:all_filters", "role:admin")

STATUSES = [
    "ACTIVE",
    "BUILD",
    "DELETED",
    "ERROR",
    "HARD_REBOOT",
    "MIGRATING",
    "PASSWORD",
    "PAUSED",
    "REBOOT",
    "REBUILD",
    "RESCUE",
    "RESIZE",
    "REVERT_RESIZE",
    "SHELVED",
    "SHELVED_OFFLOADED",
    "SHUTOFF",
    "SOFT_DELETED",
    "SUSPENDED",
    "UNKNOWN",
    "VERIFY_RESIZE",
]
SORT_COLUMNS = {
    "created_at": Server.created_at,
    "updated_at": Server.updated_at,
    "display_name": Server.name,
    "display_description": Server.description,
    "uuid": Server.id,
    "project_id": Server.project_id,
    "user_id": Server.user_id,
    "host": Server.host_id,
    "node": Server.host_id,
    "hostname": Server.hostname,
    "image_ref": Server.image_id,
    "instance_type_id": Server.flavor_id,
    "key_name": Server.key_name,
    "launch_index": Server.launch_index,
    "launched_at": Server.built_at,
    "terminated_at": Server.gone_at,
    "availability_zone": Server.availability_zone,
    "access_ip_v4": Server.access_ipv4,
    "access_ip_v6": Server.access_ipv6,
    "config_drive": Server.config_drive,
    "locked": Server.locked,
    "power_state": Server.power_state,
    "task_state": Server.task_state,
    "vm_state": Server.vm_state,
}
# Sort keys of which all servers here have the same, and those that the reference knows and passes over until 2.74.
SAME_SORT_KEYS = {"auto_disk_config", "kernel_id", "locked_by", "progress", "ramdisk_id", "root_device_name"}
IGNORED_SORT_KEYS = {
    "architecture", "cell_name", "cleaned", "default_ephemeral_device", "default_swap_device", "deleted", "deleted_at",
    "disable_terminate", "ephemeral_gb", "ephemeral_key_uuid", "id", "key_data", "launched_on", "memory_mb", "os_type",
    "reservation_id", "root_gb", "shutdown_terminate", "user_data", "vcpus", "vm_mode",
}  # fmt: skip
PAGING = ("limit", "marker", "sort_key", "sort_dir")


def refuse(name: str, value: str, reason: str) -> BadRequest:
    """The BadRequest for a query parameter with a wrong value."""
    return BadRequest(f"Invalid input for query parameter {name}. Value: {value[:200]!r}. {reason}")


def read_pattern(name: str, value: str) -> str:
    """A regular expression; BadRequest naming the parameter where it is none."""
    reason = check_pattern(value)
    if reason is not None:
        raise refuse(name, value, reason)
    return value


def parse_time(name: str, value: str) -> datetime:
    """An ISO 8601 time, UTC where it names no zone; BadRequest naming the parameter."""
    try:
        at = datetime.fromisoformat(value.replace(" ", "+") if value.count(" ") == 1 and "T" in value else value)
    except ValueError:
        raise refuse(name, value, "It is no ISO 8601 time.") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _parse_bool(name: str, value: str) -> bool:
    if value not in TRUE and value not in FALSE:
        raise refuse(name, value, "It is no boolean.")
    return as_bool(value)


def _parse_whole(name: str, value: str) -> int:
    if not value.lstrip("-").isdigit() or len(value) > 9:
        raise refuse(name, value, "It is no whole number.")
    return int(value)


def _is(column) -> Callable:
    return lambda name, value: column == value


def _is_empty_or(column) -> Callable:
    return lambda name, value: column.is_(None) if value.lower() in ("", "none", "null") else column == value


def _is_whole(column) -> Callable:
    return lambda name, value: column == _parse_whole(name, value)


def _is_bool(column) -> Callable:
    return lambda name, value: column.is_(_parse_bool(name, value))


def _is_time(column) -> Callable:
    return lambda name, value: column == parse_time(name, value)


def _like(column) -> Callable:
    return lambda name, value: build_match(column, read_pattern(name, value))


def _has_address(version: int) -> Callable:
    def build(name: str, value: str):
        """A fixed or floating address that matches; IPv6 ones are told by their colons."""
        pattern = read_pattern(name, value)
        fixed = select(Port.device_id).join(Address, Address.port_id == Port.id)
        floating = select(Port.device_id).join(FloatingIP, FloatingIP.port_id == Port.id)
        kind = Address.address.like("%:%") if version == 6 else Address.address.not_like("%:%")
        found = [Server.id.in_(fixed.where(build_match(Address.address, pattern), kind))]
        if version == 4:
            found.append(Server.id.in_(floating.where(build_match(FloatingIP.address, pattern))))
        return or_(*found)

    return build


def _is_on_host(name: str, value: str):
    return Server.host_id.in_(select(Host.id).where(Host.name == value))


def _is_in_zone(name: str, value: str):
    in_zone = Server.host_id.in_(select(Host.id).where(Host.zone == value))
    return or_(in_zone, and_(Server.host_id.is_(None), Server.availability_zone == value))


def _has_tag(tag: str):
    # A list of tags is stored as JSON; neither a tag nor this needle can span two of them, since no
    # tag has a comma. replace() compares letters as they are where LIKE may not (SQLite).
    text = cast(Server.tags, Text)
    return func.replace(text, json.dumps(tag), "") != text


def _has_tags(combine: Callable, negate: bool = False) -> Callable:
    def build(name: str, value: str):
        condition = combine(*[_has_tag(tag) for tag in value.split(",")])
        return ~condition if negate else condition

    return build


NEVER = "999.0"
# parameter: (condition, the version it came with, the version from which every user may filter by it)
FILTERS: dict[str, tuple[Callable, str, str]] = {
    "name": (_like(Server.name), "2.1", "2.1"),
    "display_name": (_like(Server.name), "2.1", NEVER),
    "image": (_is(Server.image_id), "2.1", "2.1"),
    "image_ref": (_is(Server.image_id), "2.1", NEVER),
    "flavor": (_is(Server.flavor_id), "2.1", "2.1"),
    "reservation_id": (_is(Server.reservation_id), "2.1", "2.1"),
    "ip": (_has_address(4), "2.1", "2.1"),
    "ip6": (_has_address(6), "2.1", "2.5"),
    "tags": (_has_tags(and_), "2.26", "2.26"),
    "tags-any": (_has_tags(or_), "2.26", "2.26"),
    "not-tags": (_has_tags(and_, True), "2.26", "2.26"),
    "not-tags-any": (_has_tags(or_, True), "2.26", "2.26"),
    "locked": (_is_bool(Server.locked), "2.73", "2.73"),
    "availability_zone": (_is_in_zone, "2.1", "2.83"),
    "config_drive": (_is_bool(Server.config_drive), "2.1", "2.83"),
    "key_name": (_is(Server.key_name), "2.1", "2.83"),
    "created_at": (_is_time(Server.created_at), "2.1", "2.83"),
    "launched_at": (_is_time(Server.built_at), "2.1", "2.83"),
    "terminated_at": (_is_time(Server.gone_at), "2.1", "2.83"),
    "power_state": (_is_whole(Server.power_state), "2.1", "2.83"),
    "task_state": (_is_empty_or(Server.task_state), "2.1", "2.83"),
    "vm_state": (_is(Server.vm_state), "2.1", "2.83"),
    "user_id": (_is(Server.user_id), "2.1", "2.83"),
    "uuid": (_is(Server.id), "2.1", NEVER),
    "host": (_is_on_host, "2.1", NEVER),
    "node": (_is_on_host, "2.1", NEVER),
    "hostname": (_like(Server.hostname), "2.1", NEVER),
    "description": (_like(Server.description), "2.1", NEVER),
    "display_description": (_like(Server.description), "2.1", NEVER),
    "launch_index": (_is_whole(Server.launch_index), "2.1", NEVER),
    "access_ip_v4": (_like(Server.access_ipv4), "2.1", NEVER),
    "access_ip_v6": (_like(Server.access_ipv6), "2.1", NEVER),
    "pinned_availability_zone": (_is_empty_or(Server.availability_zone), "2.96", NEVER),
}
# Known to the reference, and true or meaningless of every server here: asked for, they change nothing.
EMPTY = [
    "auto_disk_config",
    "kernel_id",
    "ramdisk_id",
    "locked_by",
    "progress",
    "root_device_name",
    "block_device_mapping",
    "services",
    "cell_name",
    "disable_terminate",
    "ephemeral_gb",
    "internal_id",
    "memory_mb",
    "root_gb",
    "vcpus",
]
SPECIAL = (
    "status",
    "soft_deleted",
    "changes-since",
    "changes-before",
    "deleted",
    "all_tenants",
    "project_id",
    "tenant_id",
)


def build_sort_query(query, version: Version):
    """The query without the sort keys, and their directions, that change nothing at this version."""
    ignored = SAME_SORT_KEYS | (IGNORED_SORT_KEYS if version < (2, 75) else set())
    ignored |= {"locked"} if version < (2, 73) else set()
    keys, directions = query.getlist("sort_key"), query.getlist("sort_dir")
    if not ignored & set(keys):
        return query
    pairs = [(name, value) for name, value in query.items(multi=True) if name not in ("sort_key", "sort_dir")]
    for index, key in enumerate(keys):
        if key not in ignored:
            direction = directions[index] if index < len(directions) else (directions or ["asc"])[-1]
            pairs += [("sort_key", key), ("sort_dir", direction)]
    return type(query)(pairs)


def build_conditions(ctx: Context) -> list:
    """The conditions that the query asks for; BadRequest naming a wrong one, Forbidden where it is an admin's.

    Filters that the caller may not use are left out, as the reference has it; unknown parameters are an
    error from 2.75 on and are ignored before.
    """
    query, version = ctx.query, ctx.version
    _check_known(query, version)
    everything = ctx.allows(ALL_FILTERS)
    conditions = _build_scope(ctx)
    for name, (build, since, for_all) in FILTERS.items():
        if version < parse_version(since) or not (everything or version >= parse_version(for_all)):
            continue
        for value in query.getlist(name)[:1]:
            if len(value) > 255 and not name.startswith(("tags", "not-tags")):
                raise refuse(name, value, "It is longer than 255 characters.")
            conditions.append(build(name, value))
    return conditions + _build_status(ctx, version) + _build_times(ctx, version, everything)


def _check_known(query, version: Version) -> None:
    known = {*PAGING, *SPECIAL, *EMPTY, *FILTERS}
    for name in query:
        if name not in known and version >= (2, 75):
            raise BadRequest(f"Invalid input for query parameter {name}: Additional properties are not allowed.")


def _build_scope(ctx: Context) -> list:
    query = ctx.query
    all_projects = "all_tenants" in query and (
        query["all_tenants"] == "" or _parse_bool("all_tenants", query["all_tenants"])
    )
    named = query.get("project_id") or query.get("tenant_id")
    if all_projects and not ctx.allows(ALL_PROJECTS):
        raise Forbidden(f"Policy doesn't allow {ALL_PROJECTS} to be performed.")
    if not all_projects:
        return [Server.project_id == ctx.token.project_id]  # as in the reference, whatever project is named beside
    return [Server.project_id == named] if named else []


def _build_status(ctx: Context, version: Version) -> list:
    given = [value.upper() for value in ctx.query.getlist("status")]
    if not given:
        return []
    unknown = [value for value in given if value not in STATUSES]
    if unknown and version >= (2, 38):
        raise BadRequest(f"Invalid status value: {unknown[0][:100]}")
    if "DELETED" in given and not ctx.is_admin:
        raise Forbidden("Only administrators may list deleted instances")
    return [Server.status.in_(given)]


def _build_times(ctx: Context, version: Version, everything: bool) -> list:
    """changes-since, changes-before and whether deleted servers are listed."""
    query, conditions = ctx.query, []
    since = query.get("changes-since")
    before = query.get("changes-before") if version >= (2, 66) else None
    if since is not None:
        since = parse_time("changes-since", since)
        conditions.append(Server.updated_at >= since)
    if before is not None:
        before = parse_time("changes-before", before)
        conditions.append(Server.updated_at <= before)
        if since is not None and since > before:
            raise BadRequest("The value of changes-since must be less than or equal to changes-before.")
    deleted = query.get("deleted") if everything else None
    wants_deleted = deleted is not None and (deleted == "" or _parse_bool("deleted", deleted))
    if wants_deleted or "DELETED" in [value.upper() for value in query.getlist("status")]:
        # As the reference has it: what can be restored is deleted, too, unless soft_deleted says otherwise.
        kept = _wants_soft_deleted(ctx, everything, True)
        gone = Server.gone_at.is_not(None)
        conditions.append(or_(gone, Server.vm_state == "soft-delete") if kept else gone)
    elif deleted is not None or (since is None and before is None):
        conditions.append(Server.gone_at.is_(None))
        if not _wants_soft_deleted(ctx, everything, False):
            conditions.append(Server.vm_state != "soft-delete")
    return conditions


def _wants_soft_deleted(ctx: Context, everything: bool, default: bool) -> bool:
    """Whether servers that can still be restored are listed: where somebody who may see deleted ones says so."""
    if not everything:
        return False
    if "SOFT_DELETED" in [value.upper() for value in ctx.query.getlist("status")]:
        return True
    given = ctx.query.get("soft_deleted")
    return default if given is None else given == "" or _parse_bool("soft_deleted", given)
