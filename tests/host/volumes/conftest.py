"""The contract of storage backends, of whichever KUMO_TEST_STORAGE names; where nothing is said, of `file`.

This folder runs alone too, beside a copy of module_utils: that is how `test_lvm.py` runs it on a whole kernel.
"""

import os
import shutil
import uuid
from pathlib import Path

import pytest
from storage_lab import STORAGE, apply, build_document, read_contents, running_tgtd

collect_ignore = [] if STORAGE["backend"] == "lvm" else ["test_thin_pool.py"]


@pytest.fixture(scope="session")
def target():
    """(control port, portal) of a tgtd."""
    with running_tgtd() as found:
        yield found


@pytest.fixture
def state_dir():
    """A state directory, gone afterwards."""
    directory = Path(f"/var/lib/kumo-test-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    directory.mkdir(mode=0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def storage(target, state_dir):
    """A function from lists to a document of this storage host; what it was used to make is gone afterwards."""

    def build(**lists):
        return build_document(state_dir, *target, **lists)

    yield build
    remove_all(build())


def remove_all(document: dict) -> None:
    """Nothing of this state directory is left on the host."""
    contents = read_contents(document)
    ids = {kind: [] for kind in ("volume", "snapshot")}
    for object_id, one in contents["objects"].items():
        ids[one["kind"]].append(object_id)
    ids["volume"] += [object_id for object_id in contents["unfinished"] if object_id not in contents["objects"]]
    rows = {f"{kind}s": [{"id": one, "wanted": "absent"} for one in sorted(found)] for kind, found in ids.items()}
    rows["snapshots"] = [{**row, "volume": row["id"]} for row in rows["snapshots"]]
    result = apply({**document, **rows})
    assert not any(one["error"] for one in result["objects"]["volumes"].values()), result["objects"]
    left = read_contents(document)
    assert (left["objects"], left["unfinished"]) == ({}, set())
