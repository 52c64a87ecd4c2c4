"""`python -m web.migrations "what it adds"`: a new revision, from the difference between tables and models."""

import sys
import tempfile
from pathlib import Path

from alembic import command

from . import build_config


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    number = len(list((Path(__file__).parent / "versions").glob("[0-9]*.py"))) + 1
    with tempfile.TemporaryDirectory() as folder:
        config = build_config(f"sqlite:///{folder}/empty.db")
        command.upgrade(config, "head")
        command.revision(config, message=sys.argv[1], autogenerate=True, rev_id=f"{number:04d}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
