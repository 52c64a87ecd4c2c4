"""What the worker's runs start in place of ansible-playbook: asks the warm one (warm.py) to run the same words.

Started as `python -I -S warm_client.py SOCKET EXECUTABLE WORD …`: the standard library alone, for it is started for
every run. The warm one gets this process's own standard streams, environment and directory, and ends what it runs when
this process ends. Where it is not there, refuses, or ends during the run (it may be another worker's of this machine,
and that was killed), this becomes EXECUTABLE itself, with a warning: what a run has done is not done again.
"""

import array
import json
import os
import socket
import sys

CONNECT_S = 2.0
LOST = 75  # EX_TEMPFAIL, sysexits.h: the warm one ended during the run, and so did who asked for it


def main(argv: list[str]) -> int:
    """The exit status of ``argv[2:]``; of the executable itself nothing comes back."""
    path, executable, *words = argv
    parent = os.getppid()
    try:
        status = ask(path, [executable, *words])
    except (OSError, ValueError) as error:
        status, reason = None, str(error)
    else:
        reason = "it refuses an environment that is not its own"
        if status == LOST and os.getppid() == parent:
            status, reason = None, "it ended during the run"
    if status is None:
        print(f"[WARNING]: the warm ansible-playbook cannot be used ({reason}); starting {executable}", flush=True)
        os.execv(executable, [executable, *words])
    return status


def ask(path: str, words: list[str]) -> int | None:
    """The exit status; None where it was refused. OSError where nobody is there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_S)
    connection.connect(path)
    request = json.dumps({"words": words, "environment": dict(os.environ), "directory": os.getcwd()}).encode()
    streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
    connection.sendmsg([len(request).to_bytes(4, "big")], streams)
    connection.sendall(request)
    accepted = connection.recv(1)
    if accepted != b"y":
        if not accepted:
            raise OSError("it hung up")
        return None
    connection.settimeout(None)
    ended = connection.recv(1)
    return ended[0] if ended else LOST


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
