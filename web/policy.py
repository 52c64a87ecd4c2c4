"""Who may do what: every route names a permission; oslo.policy decides, and reads operators' overrides.

Owns the default rules. A service's resources register theirs with `rule`; the override file
(`[policy] file`, YAML or JSON as every OpenStack service has it) replaces any of them.
"""

from __future__ import annotations

import functools

from oslo_config import cfg
from oslo_policy import policy as oslo_policy

from .errors import Forbidden

ADMIN = "rule:admin"
MANAGER = "rule:manager"
MEMBER = "rule:member"
READER = "rule:reader"
ANYONE = "@"  # with a valid token

_BASE = {
    "admin": "role:admin",
    "manager": "role:admin or (role:manager and project_id:%(project_id)s)",
    "member": "role:admin or (role:member and project_id:%(project_id)s)",
    "reader": "role:admin or (role:reader and project_id:%(project_id)s)",
    "service": "role:admin or role:service",
}
_RULES: dict[str, str] = {}


def rule(permission: str, default: str) -> str:
    """Register a permission with its default rule and return its name, for use in a route table."""
    if _RULES.setdefault(permission, default) != default:
        raise ValueError(f"permission {permission} is registered twice with different rules")
    return permission


@functools.cache
def _parse(name: str, text: str) -> oslo_policy.RuleDefault:
    """A default rule with its check; parsing all of them takes long enough to do it once a process."""
    return oslo_policy.RuleDefault(name, text)


def list_rules() -> dict[str, str]:
    """Every permission and its default."""
    return dict(sorted(_RULES.items()))


class Policy:
    """The rules in force: the defaults and the operator's overrides."""

    def __init__(self, path: str | None):
        conf = cfg.ConfigOpts()
        conf(args=[], project="kumo", default_config_files=[], default_config_dirs=[])
        self.enforcer = oslo_policy.Enforcer(conf, policy_file=path or "/nonexistent/policy.yaml", use_conf=False)
        self.enforcer.suppress_default_change_warnings = True
        defaults = {name: _parse(name, text) for name, text in {**_BASE, **_RULES}.items()}
        self.enforcer.register_defaults(defaults.values())
        self.overrides = _load_overrides(path)
        if self.overrides:
            self.enforcer.set_rules(oslo_policy.Rules.from_dict(self.overrides), overwrite=False, use_conf=False)
        for name, default in defaults.items():
            if name not in self.enforcer.rules:
                self.enforcer.rules[name] = default.check

    def allows(self, permission: str, credentials: dict, target: dict) -> bool:
        """Whether these credentials have the permission on the target."""
        check = self.enforcer.rules.get(permission)
        if check is None:
            raise KeyError(f"permission {permission} is not registered")
        return bool(check(target, credentials, self.enforcer, permission))

    def check(self, permission: str, credentials: dict, target: dict) -> None:
        """Forbidden where the credentials lack the permission."""
        if not self.allows(permission, credentials, target):
            raise Forbidden(f"Policy doesn't allow {permission} to be performed.")


def _load_overrides(path: str | None) -> dict[str, str]:
    if not path:
        return {}
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        return {}
    return oslo_policy.parse_file_contents(text)
