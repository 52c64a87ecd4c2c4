"""Fixtures of the tests on real hosts; they are in lab_fixtures.py, which tests/single_host shares."""

from lab_fixtures import image, lab, tenant

__all__ = ["image", "lab", "tenant"]
