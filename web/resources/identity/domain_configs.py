"""Domains' configurations: options of the groups `identity` and `ldap`, checked by name, kept and told again.

Nothing here acts on them: users and groups of every domain are rows of this database, and there is no LDAP driver
(docs/identity.md says so). The one secret option is sealed and in no answer. Source: Identity API reference,
"Domain configuration". Next room: `domains.py`.
"""

from __future__ import annotations

import json

from sqlalchemy import delete as sql_delete
from sqlalchemy import select

from ...errors import BadRequest, Forbidden, NotFound
from ...fields import field
from ...http import Context
from ...models import DomainOption
from ...policy import ADMIN, ANYONE, rule
from ...routes import Reply, Route
from .domains import DEFAULT, find_domain

_USER = "tree_dn filter objectclass id_attribute name_attribute mail_attribute description_attribute pass_attribute"
_USER += " enabled_attribute enabled_invert enabled_mask enabled_default attribute_ignore default_project_id_attribute"
_USER += " enabled_emulation enabled_emulation_dn enabled_emulation_use_group_config additional_attribute_mapping"
_GROUP = "tree_dn filter objectclass id_attribute name_attribute members_are_ids member_attribute desc_attribute"
_GROUP += " attribute_ignore additional_attribute_mapping"
_LDAP = "url user suffix query_scope page_size alias_dereferencing debug_level chase_referrals tls_cacertfile"
_LDAP += " tls_cacertdir use_tls tls_req_cert use_pool pool_size pool_retry_max pool_retry_delay"
_LDAP += " pool_connection_timeout pool_connection_lifetime use_auth_pool auth_pool_size auth_pool_connection_lifetime"
OPTIONS = {
    "identity": ("driver", "list_limit"),
    "ldap": (
        *_LDAP.split(),
        *(f"user_{name}" for name in _USER.split()),
        *(f"group_{name}" for name in _GROUP.split()),
    ),
}
SECRET = {"ldap": ("password",)}
LARGEST = 4096  # characters of one option's value as JSON
PASSWORDS = ("password_regex", "password_regex_description")
# Secret as a whole: a password may stand in any value, the URL's too.
FIELDS = {"config": field({"type": "object", "minProperties": 1}, required=True, secret=True)}


def _check_names(group: str | None, option: str | None, secret: bool = True) -> None:
    """Forbidden, as the reference has it, for a group or an option that no domain can have of its own."""
    if group is not None and group not in OPTIONS:
        raise Forbidden(
            f"Invalid domain specific configuration: Group {group} is not supported for domain specific configurations."
        )
    known = () if group is None else OPTIONS[group] + (SECRET.get(group, ()) if secret else ())
    if option is not None and option not in known:
        raise Forbidden(
            f"Invalid domain specific configuration: Option {option} in group {group} is not supported for domain "
            "specific configurations."
        )


def _check_config(config: dict) -> None:
    """Forbidden for what is no {group: {option: value}} of known ones; BadRequest for a value that is too large."""
    for group, options in config.items():
        _check_names(group, None)
        if not isinstance(options, dict) or not options:
            raise Forbidden(
                f"Invalid domain specific configuration: The value of group {group} specified in the config should be "
                "a dictionary of options."
            )
        for name, value in options.items():
            _check_names(group, name)
            try:
                fits = len(json.dumps(value, allow_nan=False)) <= LARGEST
            except (ValueError, RecursionError):
                fits = False
            if not fits or (name in SECRET.get(group, ()) and not isinstance(value, str)):
                raise BadRequest(
                    f"Invalid input for field/attribute config/{group}/{name}: JSON of at most {LARGEST} characters "
                    "(a password is text)"
                )


def _select(domain_id: str, group: str | None = None, option: str | None = None):
    names = {"domain_id": domain_id, "section": group, "name": option}
    return select(DomainOption).filter_by(**{name: value for name, value in names.items() if value is not None})


def _read(ctx: Context, domain_id: str, group: str | None = None, option: str | None = None) -> dict:
    """{group: {option: value}} of what may be told; NotFound where nothing of it is there."""
    found: dict[str, dict] = {}
    for row in ctx.session.scalars(_select(domain_id, group, option).order_by(DomainOption.section, DomainOption.name)):
        if "sealed" not in row.value:
            found.setdefault(row.section, {})[row.name] = row.value["value"]
    if not found:
        raise _build_missing(domain_id, group, option)
    return found


def _build_missing(domain_id: str, group: str | None, option: str | None) -> NotFound:
    what = f"option {option} in group {group}" if option else f"group {group}" if group else "any options"
    return NotFound(f"Could not find {what} in domain configuration for domain {domain_id}.")


def _store(ctx: Context, domain_id: str, config: dict) -> None:
    for group, options in config.items():
        for name, value in options.items():
            kept = {"sealed": ctx.keys.seal_text(value)} if name in SECRET.get(group, ()) else {"value": value}
            row = ctx.session.get(DomainOption, (domain_id, group, name))
            if row is None:
                ctx.session.add(DomainOption(domain_id=domain_id, section=group, name=name, value=kept))
            else:
                row.value = kept
    ctx.session.flush()


def _tell(found: dict, option: str | None = None) -> Reply:
    """All of it, or of a single option that alone: {option: value}."""
    return Reply({"config": found if option is None else {option: next(iter(found.values()))[option]}})


def show(ctx: Context, domain_id: str, group: str | None = None, option: str | None = None) -> Reply:
    """Without what is secret. The rules for passwords (there are none) everybody may read of the default domain."""
    if group == "security_compliance":
        return _show_password_rules(domain_id, option)
    ctx.policy.check(READ, ctx.token.credentials(), {})
    find_domain(ctx.session, domain_id)
    _check_names(group, option)
    return _tell(_read(ctx, domain_id, group, option), option)


def _show_password_rules(domain_id: str, option: str | None) -> Reply:
    if domain_id != DEFAULT or option not in (None, *PASSWORDS):
        raise Forbidden("Only password_regex and password_regex_description of the default domain can be read.")
    return Reply({"config": {option: None} if option else {"security_compliance": dict.fromkeys(PASSWORDS)}})


def create(ctx: Context, domain_id: str) -> Reply:
    """In place of what was there: 201 where nothing was, 200 else."""
    find_domain(ctx.session, domain_id)
    _check_config(ctx.body["config"])
    before = ctx.session.scalars(_select(domain_id)).all()
    for row in before:
        ctx.session.delete(row)
    ctx.session.flush()
    _store(ctx, domain_id, ctx.body["config"])
    reply = _tell_all(ctx, domain_id)
    reply.status = 200 if before else 201
    return reply


def _tell_all(ctx: Context, domain_id: str) -> Reply:
    try:
        return _tell(_read(ctx, domain_id))
    except NotFound:  # what there is is secret
        return _tell({})


def update(ctx: Context, domain_id: str, group: str | None = None, option: str | None = None) -> Reply:
    """What is given, beside what is there; of a group or an option that the path names only that, which must exist."""
    find_domain(ctx.session, domain_id)
    given = ctx.body["config"]
    config = {group: given} if option else given
    _check_names(group, option)
    _check_config(config)
    if group is not None:
        if list(config) != [group] or (option is not None and list(config[group]) != [option]):
            raise Forbidden(
                "Invalid domain specific configuration: exactly what the path names must be specified in the config."
            )
        if ctx.session.scalar(_select(domain_id, group, option).limit(1)) is None:
            raise _build_missing(domain_id, group, option)
    _store(ctx, domain_id, config)
    return _tell_all(ctx, domain_id)


def delete(ctx: Context, domain_id: str, group: str | None = None, option: str | None = None) -> None:
    """All of it, a group or an option; 404 for a group or an option that is not there."""
    find_domain(ctx.session, domain_id)
    _check_names(group, option)
    chosen = _select(domain_id, group, option)
    if group is not None and ctx.session.scalar(chosen.limit(1)) is None:
        raise _build_missing(domain_id, group, option)
    ctx.session.execute(sql_delete(DomainOption).where(chosen.whereclause))


def show_default(ctx: Context, group: str | None = None, option: str | None = None) -> Reply:
    """What holds for every domain: users are rows, a list has so many, and there is no LDAP."""
    _check_names(group, option, secret=False)
    own = {"driver": "sql", "list_limit": ctx.settings.api.max_limit}
    found = {
        one: {name: own.get(name) if one == "identity" else None for name in names}
        for one, names in OPTIONS.items()
        if group in (None, one)
    }
    return _tell(found, option)


READ = rule("identity:domain_configs:read", ADMIN)
SHOW = rule("identity:domain_configs:show", ANYONE)
WRITE = rule("identity:domain_configs:write", ADMIN)
ALL = "/domains/{domain_id}/config"
GROUP = ALL + "/{group}"
ONE = GROUP + "/{option}"
ROUTES = [
    Route("GET", "/domains/config/default", READ, None, show_default),
    Route("GET", "/domains/config/{group}/default", READ, None, show_default),
    Route("GET", "/domains/config/{group}/{option}/default", READ, None, show_default),
    Route("PUT", ALL, WRITE, FIELDS, create),
    *(Route("GET", path, SHOW, None, show) for path in (ALL, GROUP, ONE)),
    *(Route("PATCH", path, WRITE, FIELDS, update) for path in (ALL, GROUP, ONE)),
    *(Route("DELETE", path, WRITE, None, delete) for path in (ALL, GROUP, ONE)),
]
