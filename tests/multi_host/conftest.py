"""Fixtures of the tests on real hosts; they are in lab_fixtures.py, which tests/single_host shares."""

from lab_fixtures import image, lab, tenant


def pytest_configure(config):
    """The mark of what is run on the scenario two-hypervisors, and so in CI (`./run_tests.sh hosts`)."""
    config.addinivalue_line("markers", "ci: also on the scenario two-hypervisors")


__all__ = ["image", "lab", "tenant"]
