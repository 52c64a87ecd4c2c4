"""The contract of storage backends (tests/host/volumes) on the backend lvm: run in the host, told here test by test."""

import io
import re
import subprocess
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "tests/host/volumes"
HOST, FOLDER = "storage1", "/root/contract"
SECONDS = 3600
# A volume group of its own on the machine's second disk, small, so that blocks are given out again.
PREPARE = f"""set -e
rm -rf {FOLDER}
mkdir -p {FOLDER}
tar xz -C {FOLDER}
vgs contract >/dev/null 2>&1 || vgcreate -q contract /dev/vdc
lvs contract/pool >/dev/null 2>&1 ||
    lvcreate -q --type thin-pool --size 512m --poolmetadatasize 8m --zero y -n pool contract
"""
STORAGE = '{"backend": "lvm", "volume_group": "contract", "thin_pool": "pool"}'
RUN = f"""cd {FOLDER} && export PYTHONPATH={FOLDER} KUMO_TEST_STORAGE='{STORAGE}'
exec python3 -m pytest -q -p no:cacheprovider --junit-xml=report.xml volumes
"""


def list_tests() -> list[str]:
    """Names of the suite's test functions."""
    texts = "\n".join(path.read_text() for path in sorted(SUITE.glob("test_*.py")))
    return sorted(set(re.findall(r"^def (test_\w+)\(", texts, re.MULTILINE)))


@pytest.fixture(scope="module")
def report(lab) -> dict:
    """{test function: sentences of what went wrong}, of one run of the suite in the host."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for folder, name in ((ROOT / "module_utils/kumo", "ansible/module_utils/kumo"), (SUITE, "volumes")):
            for path in sorted(folder.glob("*.py")):
                archive.add(path, f"{name}/{path.name}")
    become = [*lab.ssh(HOST), "sudo", "-n", "sh", "-c"]
    subprocess.run([*become, f"'{PREPARE}'"], input=packed.getvalue(), check=True, timeout=SECONDS)
    said = lab.run(HOST, RUN, root=True, code=None, timeout=SECONDS)
    found: dict = {}
    for case in ElementTree.fromstring(lab.run(HOST, f"cat {FOLDER}/report.xml", root=True, timeout=300)).iter(
        "testcase"
    ):
        wrong = [(one.text or "")[-3000:] for kind in ("failure", "error", "skipped") for one in case.findall(kind)]
        found.setdefault(case.get("name").partition("[")[0], []).extend(wrong)
    assert found, said
    return found


@pytest.mark.parametrize("name", list_tests())
def test_lvm(report, name):
    assert report[name] == []
