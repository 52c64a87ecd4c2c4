"""Print the Debian packages that the roles install on a compute and storage host, one a line: for the host tests.

With --all a controller's, too: what hosts that reach no registry must have (molecule/hosts).
"""

import sys
from pathlib import Path

import yaml

ROLES = Path(__file__).resolve().parent.parent / "roles"


HOST_ROLES = ("host_base", "hypervisor", "storage_node", "guest_image")


def list_packages(roles: tuple[str, ...] = HOST_ROLES) -> list[str]:
    """Every list in the roles' defaults whose name ends in `_packages`, merged."""
    found: set[str] = set()
    for role in roles:
        defaults = yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text())
        for name, value in defaults.items():
            if name.endswith("_packages"):
                found.update(value)
    return sorted(found)


if __name__ == "__main__":
    print("\n".join(list_packages((*HOST_ROLES, "controller") if "--all" in sys.argv[1:] else HOST_ROLES)))
