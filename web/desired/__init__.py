"""Rows in, host document out: pure builders around one reading of rows. Imports models only."""

from .build import build_document
from .rows import Rows, read_rows

__all__ = ["Rows", "build_document", "read_rows"]
