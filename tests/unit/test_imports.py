"""Imports point one way (docs/architecture.md): read from the source, not from what happens to load."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [path for folder in ("web", "library", "module_utils", "plugins") for path in (ROOT / folder).rglob("*.py")]


def read_imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, relative ones resolved."""
    package = list(path.relative_to(ROOT).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def _is(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def find_fault(path: Path, name: str) -> str | None:
    where = str(path.relative_to(ROOT))
    if _is(name, "flask") and not (where in ("web/app.py", "web/http.py") or where.startswith("web/dashboard/")):
        return "Flask appears in app.py, http.py and dashboard/ only"
    if _is(name, "ansible_runner") and where != "web/reconcile/run.py":
        return "ansible_runner is imported by reconcile/run.py only"
    if _is(name, "libvirt") and not where.startswith("module_utils/kumo/"):
        return "libvirt is imported under module_utils/kumo/ only"
    if _is(name, "web") and where.startswith(("library/", "module_utils/")):
        return "what runs on hosts never imports web"
    if where.startswith("web/models/") and _is(name, "web") and not _is(name, "web.models"):
        return "models import models only"
    if where.startswith("web/desired/") and _is(name, "web") and not _is(name, "web.models", "web.desired"):
        return "desired imports models only"
    if where.startswith("web/resources/"):
        if _is(name, "web.desired", "web.reconcile") and not (
            name == "web.reconcile" or _is(name, "web.reconcile.status", "web.reconcile.volume_status")
        ):
            return "resources import models, the scheduler and reconcile.status"
        service = where.split("/")[2]
        if _is(name, "web.resources") and not where.endswith("resources/__init__.py"):
            target = name.split(".")[2:3]
            if (
                target
                and target[0] in ("identity", "compute", "image", "network", "volume", "admin")
                and target[0] != service
            ):
                return "services do not import each other's resources"
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    faults = {f"{name}: {fault}" for name in read_imports(path) if (fault := find_fault(path, name))}
    assert not faults


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("web/resources/compute/servers.py", "flask"),
        ("web/resources/compute/servers.py", "web.desired.build"),
        ("web/cli.py", "ansible_runner"),
        ("library/kumo_host.py", "web.models"),
        ("web/reconcile/loop.py", "libvirt"),
        ("web/models/hosts.py", "web.http"),
    ],
)
def test_the_rule_can_fail(where, name):
    assert find_fault(ROOT / where, name)
