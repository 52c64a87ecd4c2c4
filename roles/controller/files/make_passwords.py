#!/usr/bin/python3
"""Write new random passwords for the accounts that bootstrap makes: make_passwords.py FILE

Root's alone, written whole or not at all, and never over a file that is there. The passwords are on
no command line and in no output. Next room: `kumo bootstrap`, which reads them.
"""

import os
import secrets
import sys
from pathlib import Path

ACCOUNTS = ("admin", "demo")


def main() -> None:
    """Make FILE, unless it is there."""
    path = Path(sys.argv[1])
    if path.exists():
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write("[passwords]\n")
        stream.writelines(f"{account} = {secrets.token_urlsafe(18)}\n" for account in ACCOUNTS)
    partial.replace(path)


if __name__ == "__main__":
    main()
