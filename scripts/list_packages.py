"""Print the Debian packages that the roles install on a compute and storage host, one a line: for the host tests."""

from pathlib import Path

import yaml

ROLES = Path(__file__).resolve().parent.parent / "roles"


def list_packages() -> list[str]:
    """Every list in the roles' defaults whose name ends in `_packages`, merged."""
    found: set[str] = set()
    for role in ("host_base", "hypervisor", "storage_node", "guest_image"):
        defaults = yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text())
        for name, value in defaults.items():
            if name.endswith("_packages"):
                found.update(value)
    return sorted(found)


if __name__ == "__main__":
    print("\n".join(list_packages()))
