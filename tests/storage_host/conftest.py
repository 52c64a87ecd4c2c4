"""The lab of the scenario storage: one storage host with a whole kernel, and no control plane."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "multi_host"))

from cloud_lab import CloudLab


@pytest.fixture(scope="session")
def lab() -> CloudLab:
    """The hosts in whose network namespace these tests run."""
    if "KUMO_LAB_FOLDER" not in os.environ:
        pytest.exit("run me by: molecule/hosts/lab.py run molecule/storage -- .venv/bin/python -m pytest …", 2)
    return CloudLab()
