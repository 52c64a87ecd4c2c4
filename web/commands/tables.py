"""Rows of text in aligned columns, for a terminal."""

from __future__ import annotations


def show_table(head: tuple[str, ...], rows: list[tuple]) -> str:
    """The rows under their headings; cells are turned into text, None into a dash."""
    cells = [[str("-" if cell is None else cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[index]) for row in cells) for index in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def show_time(moment) -> str | None:
    """A moment to the second, in UTC."""
    return moment.strftime("%Y-%m-%d %H:%M:%S") if moment else None
