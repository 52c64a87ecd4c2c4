"""Figures, and the table that docs/performance.md carries of them. Pure: measures nothing, touches no file.

Next room: `command.py`, which prints and writes what is built here.
"""

from __future__ import annotations

from dataclasses import dataclass

BEGIN = "<!-- bench/run writes what is between here and the next such line. -->"
END = "<!-- Up to here by bench/run. -->"


@dataclass(frozen=True)
class Figure:
    """One measured figure, with what it is to be held against.

    ``most`` and ``least`` are the aim, in ``unit``. ``ratio`` is the figure (or the part of it that ``of`` says) to
    what was measured beside it, which ``of`` names in words; ``ratio_most`` is its aim. ``openstack`` is a text.
    ``profile`` says where the time goes; it is shown where the aim is missed.
    """

    name: str
    value: float
    unit: str
    openstack: str = ""
    most: float | None = None
    least: float | None = None
    ratio: float | None = None
    of: str = ""
    ratio_most: float | None = None
    profile: str = ""

    @property
    def has_aim(self) -> bool:
        """Whether there is anything to be met."""
        return any(aim is not None for aim in (self.most, self.least, self.ratio_most))

    @property
    def missed(self) -> bool:
        """Whether an aim is not met."""
        return (
            (self.most is not None and self.value > self.most)
            or (self.least is not None and self.value < self.least)
            or (self.ratio_most is not None and (self.ratio is None or self.ratio > self.ratio_most))
        )


def format_number(value: float) -> str:
    """Three digits or so: 0.054, 1.37, 13.7, 263; whole numbers as they are."""
    if value == int(value):
        return f"{int(value):,}"
    size = abs(value)
    return f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3}f}"


def format_quantity(value: float, unit: str) -> str:
    """The number with its unit, which may be none."""
    return f"{format_number(value)} {unit}".rstrip()


def build_cells(figure: Figure) -> list[str]:
    """[name, OpenStack's, aim, value, ratio, verdict] of one figure."""
    aim = ""
    if figure.most is not None:
        aim = f"≤ {format_quantity(figure.most, figure.unit)}"
    elif figure.least is not None:
        aim = f"≥ {format_quantity(figure.least, figure.unit)}"
    ratio = ""
    if figure.ratio is not None:
        ratio = f"{figure.ratio:.2f} of {figure.of}"
        if figure.ratio_most is not None:
            ratio += f" (aim: ≤ {format_number(figure.ratio_most)})"
    verdict = "" if not figure.has_aim else "**missed**" if figure.missed else "met"
    return [figure.name, figure.openstack, aim, format_quantity(figure.value, figure.unit), ratio, verdict]


HEAD = ["", "OpenStack", "aim", "Kumo", "ratio", ""]


def build_table(figures: list[Figure]) -> str:
    """A table in Markdown, a row for each figure."""
    lines = [HEAD, ["---"] * len(HEAD), *map(build_cells, figures)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def build_text(figures: list[Figure]) -> str:
    """The same for a terminal, in columns."""
    lines = [HEAD, *map(build_cells, figures)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEAD))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def build_profiles(figures: list[Figure]) -> str:
    """Where the time of the missed figures goes, as far as it was looked at while measuring."""
    shown = [figure for figure in figures if figure.missed and figure.profile]
    return "".join(f"\n{figure.name}, where its time goes:\n\n```\n{figure.profile.strip()}\n```\n" for figure in shown)


def build_part(figures: list[Figure], sentence: str) -> str:
    """All that stands between the two marks: how it was measured, the table, profiles of what is missed."""
    return f"{sentence}\n\n{build_table(figures)}{build_profiles(figures)}"


def replace_part(text: str, part: str) -> str:
    """The document with what is between its two marks replaced; ValueError where it has not each of them once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the document wants the line {BEGIN!r} once, and after it {END!r} once")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{part.strip()}\n\n{END}{rest.split(END)[1]}"
