"""Tokens: made by a login or from another token, shown, checked and revoked.

A 401 never says which part was wrong. Tokens themselves are `web/auth.py`'s. Source: Identity API
reference, "Authentication and token management". Security cases 30 and 34. Next room:
`login_methods.py`.
"""

from __future__ import annotations

from sqlalchemy import delete, select

from ...auth import REFUSED, Token, issue_token, read_token
from ...delegations import APP
from ...errors import BadRequest, Forbidden, NotFound, Unauthorized
from ...fields import HEX_ID, field, items, mapping, one_of, text
from ...grants import read_roles
from ...http import Context
from ...models import Domain, Project, RevokedToken, User, now
from ...policy import ADMIN, ANYONE, rule
from ...routes import Reply, Route
from .catalog import build_catalog
from .lists import read_flag, write_time
from .login_methods import APPLICATION_CREDENTIAL, DOMAIN, PASSWORD, TOTP, Proof, check_methods, find_domain_named
from .logins import forget_failures
from .trusts import TRUST_SCOPE, use_trust
from .user_options import check_factors

PROJECT = mapping({"id": HEX_ID, "name": text(255, 1), "domain": DOMAIN})
METHODS = ("password", "token", "totp", APP)
IDENTITY = mapping(
    {
        "methods": {**items(one_of(*METHODS), len(METHODS), unique=True), "minItems": 1},
        "password": PASSWORD,
        "totp": TOTP,
        APP: APPLICATION_CREDENTIAL,
        "token": mapping({"id": text(2048, 1)}, ("id",)),
    },
    ("methods",),
)
SCOPE = {
    "anyOf": [
        one_of("unscoped"),
        mapping(
            {
                "project": PROJECT,
                "domain": DOMAIN,
                "system": mapping({"all": one_of(True)}),
                "unscoped": mapping({}),
                TRUST_SCOPE: mapping({"id": HEX_ID}, ("id",)),
            }
        ),
    ]
}
EXPIRED_S = 172800  # how long after its end `allow_expired` shows a token
ACCESS_RULES = "OpenStack-Identity-Access-Rules"
FIELDS = {"identity": field(IDENTITY, secret=True, required=True), "scope": field(SCOPE)}


def _find_scope(session, given) -> tuple[str, str] | None:
    """(kind, id) of the scope asked for, ("", "") for unscoped, None where the choice is ours."""
    if given is None:
        return None
    if given == "unscoped" or "unscoped" in given:
        return "", ""
    if len(given) != 1:
        raise BadRequest("Invalid input for field/attribute scope: one of project, domain, system, unscoped")
    if "system" in given:
        return "system", ""
    if "domain" in given:
        domain = find_domain_named(session, given["domain"], "scope/domain")
        if domain is None:
            raise Unauthorized(REFUSED)
        return "domain", domain.id
    project = given["project"]
    if "id" in project:
        return "project", project["id"]
    if "name" not in project:
        raise BadRequest("Invalid input for field/attribute scope/project: it needs the project's id or name")
    domain = find_domain_named(session, project.get("domain"), "scope/project/domain")
    found = domain and session.scalar(
        select(Project.id).where(Project.domain_id == domain.id, Project.name == project["name"])
    )
    if not found:
        raise Unauthorized(REFUSED)
    return "project", found


def _choose_default_scope(session, user: User, parent: Token | None) -> tuple[str, str]:
    """Without a scope: the token's own, or the user's default project where the user has a role on it."""
    if parent is not None:
        return "", ""
    project = session.get(Project, user.default_project_id) if user.default_project_id else None
    if project is not None and project.enabled and read_roles(session, user.id, "project", project.id):
        domain = session.get(Domain, project.domain_id)
        if domain.enabled:
            return "project", project.id
    return "", ""


def create(ctx: Context) -> Reply:
    """A token in X-Subject-Token; a token made from another one lives no longer than that one."""
    given = ctx.body["identity"]
    proofs = check_methods(ctx, given)
    # The rows are read again, locked: a password changed since then refuses, one changed later kills the token.
    with ctx.write() as session:
        parent = read_token(session, ctx.keys, given["token"]["id"]) if "token" in given["methods"] else None
        who = {proof.user_id for proof in proofs} | ({parent.user_id} if parent else set())
        user_id = who.pop()
        user = session.execute(select(User).where(User.id == user_id).with_for_update(read=True)).scalar()
        if who or user is None or not all(proof.holds(session) for proof in proofs):
            raise Unauthorized(REFUSED)
        for proof in proofs:
            forget_failures(ctx, session, proof.account)
        holder_id, kind, target, via = _choose_scope(ctx, session, user, parent, proofs)
        check_factors(user, {*given["methods"], *(parent.methods if parent else ())})
        written, token = issue_token(
            session,
            ctx.keys,
            holder_id,
            kind,
            target,
            given["methods"],
            ctx.settings.identity.token_lifetime_s,
            parent,
            via,
        )
        body = {"token": view(ctx, token)}
    return Reply(body, 201, {"X-Subject-Token": written, "Vary": "X-Auth-Token"})


def _choose_scope(ctx: Context, session, user: User, parent: Token | None, proofs: list[Proof]) -> tuple:
    """(user id, kind, target, via): what was handed on has a scope of its own; what comes from it stays within."""
    given = ctx.body.get("scope")
    for proof in proofs:
        if proof.via:
            if given is not None:
                raise Unauthorized("Application credentials cannot request a scope.")
            return user.id, "project", proof.project_id, proof.via
    if isinstance(given, dict) and TRUST_SCOPE in given:
        if parent is not None and parent.delegation is not None:
            raise Forbidden("A trust cannot be used with a token that was made through something handed on.")
        return use_trust(session, user, given)
    scope = _find_scope(session, given)
    if parent is not None and parent.delegation is not None:
        own = ("project", parent.project_id)
        if scope not in (None, own):
            raise Forbidden(f"A token that was made through a {parent.delegation.kind} cannot change its scope.")
        return user.id, *own, (parent.delegation.kind, parent.delegation.id)
    return user.id, *(_choose_default_scope(session, user, parent) if scope is None else scope), ()


def _read_subject(ctx: Context, session, permission: str, expired_s: int = 0) -> tuple[str, Token]:
    text_ = ctx.headers.get("X-Subject-Token", "")
    if not text_:
        raise BadRequest("The header X-Subject-Token is missing: it names the token in question.")
    try:
        subject = read_token(session, ctx.keys, text_, expired_s)
    except Unauthorized:
        raise NotFound("Could not find token.") from None
    if subject.user_id != ctx.token.user_id and not ctx.allows(permission):
        raise Forbidden(f"Policy doesn't allow {permission} to be performed.")
    return text_, subject


def show(ctx: Context) -> Reply:
    """Whose token X-Subject-Token is: one's own, or any for admins and services.

    With `allow_expired` services see one that expired lately: what it was used for may outlast it. One that is
    confined by access rules is shown to those only who say that they heed them.
    """
    expired = read_flag(ctx, "allow_expired") and ctx.allows(VALIDATE_OTHERS)
    written, subject = _read_subject(ctx, ctx.session, VALIDATE_OTHERS, EXPIRED_S if expired else 0)
    if subject.delegation and subject.delegation.access_rules and not ctx.headers.get(ACCESS_RULES):
        raise NotFound("Could not find token.")
    return Reply({"token": view(ctx, subject)}, 200, {"X-Subject-Token": written, "Vary": "X-Auth-Token"})


def delete_(ctx: Context) -> Reply:
    """Revoked at once, with every token that was made from it."""
    _, subject = _read_subject(ctx, ctx.session, REVOKE_OTHERS)
    ctx.session.execute(delete(RevokedToken).where(RevokedToken.expires_at < now()))
    if ctx.session.get(RevokedToken, subject.audit_ids[0]) is None:
        ctx.session.add(RevokedToken(audit_id=subject.audit_ids[0], expires_at=subject.expires_at))
    return Reply(None, 204)


def view(ctx: Context, token: Token) -> dict:
    """The token's body, with the catalog where it has a scope (and `nocatalog` is not in the query)."""
    body = {
        "methods": list(token.methods),
        "user": {
            "id": token.user_id,
            "name": token.user_name,
            "domain": {"id": token.user_domain[0], "name": token.user_domain[1]},
            "password_expires_at": None,
        },
        "audit_ids": list(token.audit_ids),
        "issued_at": write_time(token.issued_at),
        "expires_at": write_time(token.expires_at),
    }
    if token.scope == "project":
        domain = {"id": token.project_domain[0], "name": token.project_domain[1]}
        body["project"] = {"id": token.project_id, "name": token.project_name, "domain": domain}
        body["is_domain"] = False
    elif token.scope == "domain":
        body["domain"] = {"id": token.domain[0], "name": token.domain[1]}
    elif token.scope == "system":
        body["system"] = {"all": True}
    if token.delegation is not None:
        body |= token.delegation.view
    if token.scope:
        body["roles"] = [{"id": role_id, "name": name} for role_id, name in token.roles]
        if "nocatalog" not in ctx.query:
            body["catalog"] = build_catalog(ctx, token)
    return body


SHOW = rule("identity:tokens:show", ANYONE)
DELETE = rule("identity:tokens:delete", ANYONE)
VALIDATE_OTHERS = rule("identity:tokens:validate_others", "rule:service")
REVOKE_OTHERS = rule("identity:tokens:revoke_others", ADMIN)
ROUTES = [
    Route("POST", "/auth/tokens", None, FIELDS, create, key="auth", transaction=False),
    Route("GET", "/auth/tokens", SHOW, None, show),
    Route("DELETE", "/auth/tokens", DELETE, None, delete_),
]
