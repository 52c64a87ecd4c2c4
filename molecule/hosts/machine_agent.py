"""In a machine: says that it has booted, runs the one script that makes it a host of its own, says how that ended.

The script comes over a virtio port (machines.py sends it), ends with a line that is END, and is run by sh.
"""

import subprocess
import time

PORT = "/dev/virtio-ports/lab.identity"

subprocess.run(["systemctl", "is-system-running", "--wait"], stdout=subprocess.DEVNULL)
with open(PORT, "r+b", buffering=0) as port:
    port.write(b"ready\n")
    script = b""
    while not script.endswith(b"\nEND\n"):
        part = port.read(65536)
        script += part or b""
        if not part:  # nobody is at the other end (any more)
            time.sleep(0.1)
    ended = subprocess.run(["sh", "-e"], input=script.removesuffix(b"END\n"), capture_output=True)
    said = ended.stderr.decode(errors="replace").replace("\n", " ")[-500:]
    port.write(f"ended {ended.returncode} {said}\n".encode())
