"""What a part must bring along, read from the tree: names what is missing (docs/adding-a-resource.md)."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import ansible.module_utils
import jsonschema
import pytest

from web import models
from web.desired.document import SCHEMA, build_reference
from web.resources import SERVICES
from web.settings import OPTIONS, build_sample

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path.stem for path in (ROOT / "library").glob("kumo_*.py"))
SOURCES = [path for folder in ("web", "library", "module_utils", "plugins") for path in (ROOT / folder).rglob("*.py")]


def test_the_copies_of_the_documents_are_true():
    assert (ROOT / "docs" / "host-document.md").read_text() == build_reference()
    assert ansible.module_utils.__path__


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_every_resource_file_is_mounted_and_tested(service):
    package = importlib.import_module(f"web.resources.{service.name}")
    folder = Path(package.__file__).parent
    with_routes = {path.stem for path in folder.glob("*.py") if re.search(r"^ROUTES\b", path.read_text(), re.M)}
    mounted = {resource.__name__.rsplit(".", 1)[1] for resource in package.RESOURCES}
    assert with_routes == mounted
    tests = "\n".join(path.read_text() for path in (ROOT / "tests" / "api").glob(f"test_{service.name}*.py"))
    for route in service.routes:
        if route.path and not route.root:
            noun = route.path.strip("/").split("/")[0]
            assert noun in tests, f"no test in tests/api/test_{service.name}_*.py mentions {noun}"


def test_no_two_routes_overlap():
    for service in SERVICES:
        seen: dict[tuple, list] = {}
        for route in service.routes:
            shape = re.sub(r"{[^}]*}", "{}", route.path)
            for other in seen.setdefault((route.method, shape, route.action, route.root), []):
                low = max(_number(route.since), _number(other.since))
                high = min(_number(route.until or "999.0"), _number(other.until or "999.0"))
                assert low > high, (
                    f"{service.name} {route.method} {route.path} {route.action}: two routes at one version"
                )
            seen[(route.method, shape, route.action, route.root)].append(route)


def _number(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def test_every_model_is_exported():
    for table in models.Base.metadata.tables:
        owners = [name for name in models.__all__ if getattr(getattr(models, name), "__tablename__", None) == table]
        assert owners, f"table {table} has no model in web.models.__all__"


def test_every_list_of_the_document_has_a_section_that_reads_it():
    code = "\n".join(path.read_text() for path in (ROOT / "module_utils" / "kumo").glob("*.py"))
    for name in SCHEMA["properties"]:
        assert f'"{name}"' in code, f"nothing under module_utils/kumo reads document.{name}"


def test_sections_have_their_four_functions_and_tests():
    core = importlib.import_module("ansible.module_utils.kumo.core")
    for section in core.SECTIONS:
        module = importlib.import_module(f"ansible.module_utils.kumo.{section}")
        for verb in ("read", "plan", "apply", "report"):
            assert callable(getattr(module, f"{verb}_{section}")), f"{section}: {verb}_{section} is missing"
        assert list((ROOT / "tests" / "modules").glob(f"test_{section}*.py")), f"no table test of section {section}"


def test_every_option_is_documented_and_sampled():
    sample = build_sample()
    for option in OPTIONS:
        assert len(option.help) > 10
        assert f"# {option.name} = " in sample


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_documentation(name):
    text = (ROOT / "library" / f"{name}.py").read_text()
    for part in ("DOCUMENTATION", "EXAMPLES", "RETURN", "check_mode:"):
        assert part in text, f"{name}: no {part}"


@pytest.mark.parametrize("role", sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir()))
def test_every_role_declares_its_arguments(role):
    assert (ROOT / "roles" / role / "meta" / "argument_specs.yml").exists()
    assert (ROOT / "roles" / role / "meta" / "main.yml").exists()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_owns(path):
    text = path.read_text().lstrip()
    if text and "versions/" not in str(path):
        text = re.sub(r"^(#.*\n)+", "", text).lstrip()
        assert text.startswith(('"""', 'r"""', "DOCUMENTATION")), "the file has no docstring"


def test_the_document_written_by_hand_fits_the_schema(example_document):
    jsonschema.validate(example_document, SCHEMA)
