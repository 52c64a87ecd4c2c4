"""What is packed for a host's root helper is read without the control plane: by files alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_document_s_schema_is_read_alone(tmp_path):
    """`web/desired/document.py` imports nothing of web: the packer has no such package."""
    packer = ROOT / "roles/host_base/files/pack_root.py"
    done = subprocess.run([sys.executable, "-S", packer, ROOT, tmp_path / "root.tar"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "root.tar").stat().st_size > 0
