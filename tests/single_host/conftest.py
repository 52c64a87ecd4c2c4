"""Fixtures of the tests on one host that is everything: those of tests/multi_host."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "multi_host"))

from lab_fixtures import image, lab, tenant

__all__ = ["image", "lab", "tenant"]
