"""What every tier of tests needs: ``ansible.module_utils.kumo`` is the repository's ``module_utils/kumo``."""

import gc
from pathlib import Path

import ansible.module_utils
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(ROOT / "module_utils"))


class _HostVars(yaml.SafeLoader):
    """YAML as Ansible reads it, its `!unsafe` texts as plain ones."""


_HostVars.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))


def pytest_collection_finish():
    """What is imported by now stays: walking it for each collection of garbage took a quarter of the api tier."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture
def example_document() -> dict:
    """The host document of inventories/example, which is written by hand."""
    text = (ROOT / "inventories" / "example" / "host_vars" / "compute1.yml").read_text()
    return yaml.load(text, _HostVars)["kumo_document"]
