"""What Kumo adds to making a thin volume by hand, on the lab's storage host with a kernel of its own (backend lvm).

Side by side, medians: POST /volumes to available against `lvcreate` on the storage host over an ssh connection that is
open already; and a run against that host that finds nothing to do, which is what Kumo may add once.

    molecule/hosts/lab.py run molecule/multi-host -- .venv/bin/python bench/volumes_lab.py [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import openstack

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "multi_host")]

from cloud_lab import CloudLab  # noqa: E402

from bench.cloud import timed, wait_status  # noqa: E402

READ_RUNS = """
import json, sqlite3, sys
rows = sqlite3.connect("file:/var/lib/kumo/kumo.db?mode=ro", uri=True).execute(
    "SELECT (julianday(r.finished_at) - julianday(r.started_at)) * 86400 FROM runs r JOIN hosts h ON h.id = r.host_id "
    "WHERE h.name = ? AND r.state = 'succeeded' AND NOT r.changed ORDER BY r.started_at DESC LIMIT 20", (sys.argv[1],)
)
print(json.dumps([row[0] for row in rows]))
"""


def read_idle_run(lab: CloudLab, host: str) -> float:
    """Median seconds of the host's last runs that changed nothing."""
    printed = lab.run(lab.controller, f"/usr/bin/python3 - {host}", root=True, input=READ_RUNS)
    return statistics.median(json.loads(printed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    lab = CloudLab()
    host = lab.groups["storage"][0]
    os.environ["OS_CLIENT_CONFIG_FILE"] = str(lab.write_clouds())
    cloud = openstack.connect(cloud="kumo")
    by_hand, by_kumo = [], []
    for number in range(args.rounds):
        name = f"bench{number}"
        by_hand.append(timed(lambda n=name: lab.run(host, f"lvcreate -q -V 1G --thin kumo/kumo -n {n}", root=True)))
        lab.run(host, f"lvremove -q -y kumo/{name}", root=True)
        started = time.perf_counter()
        volume = cloud.block_storage.create_volume(size=1, name="bench-volumes")
        wait_status(cloud, volume, "available")
        by_kumo.append(time.perf_counter() - started)
        cloud.block_storage.delete_volume(volume.id)
        cloud.block_storage.wait_for_delete(volume, interval=0.2, wait=120)
    run, hand, ours = read_idle_run(lab, host), statistics.median(by_hand), statistics.median(by_kumo)
    print(f"(r) a run that finds nothing to do on {host:<14} {run:6.2f} s")
    print(f"(h) volume made, by hand (lvcreate over ssh)         {hand:6.2f} s")
    print(f"(k) the same by Kumo's API                           {ours:6.2f} s")
    print(f"    (k - r) / h                                      {(ours - run) / hand:6.2f}   (aim: 1.50 at most)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
