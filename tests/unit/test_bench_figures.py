"""The table of bench/run: figures in, Markdown out; and its place in docs/performance.md."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.command import PARTS, choose_parts
from bench.figures import BEGIN, END, Figure, build_part, build_table, build_text, format_number, replace_part

ROOT = Path(__file__).resolve().parents[2]

ROWS = [
    (Figure("idle", 0.1, "%"), "| idle |  |  | 0.10 % |  |  |"),
    (Figure("processes", 8, "", "64", most=12), "| processes | 64 | ≤ 12 | 8 |  | met |"),
    (Figure("memory", 263.4, "MB", "4.8 GB", most=250), "| memory | 4.8 GB | ≤ 250 MB | 263 MB |  | **missed** |"),
    (Figure("rate", 210.4, "requests/s", least=200), "| rate |  | ≥ 200 requests/s | 210 requests/s |  | met |"),
    (
        Figure("rate", 20.25, "requests/s", least=200),
        "| rate |  | ≥ 200 requests/s | 20.2 requests/s |  | **missed** |",
    ),
    (
        Figure("warm", 0.54, "s", ratio=0.41, of="the cold run, 1.31 s", ratio_most=0.22),
        "| warm |  |  | 0.54 s | 0.41 of the cold run, 1.31 s (aim: ≤ 0.22) | **missed** |",
    ),
    (
        Figure("made", 1.2, "s", most=2.0, ratio=1.1, of="by hand, 1.09 s", ratio_most=1.5),
        "| made |  | ≤ 2 s | 1.20 s | 1.10 of by hand, 1.09 s (aim: ≤ 1.50) | met |",
    ),
    (Figure("boot", 4.1, "s", ratio=1.05, of="by hand, 3.9 s"), "| boot |  |  | 4.10 s | 1.05 of by hand, 3.9 s |  |"),
]


@pytest.mark.parametrize(("figure", "row"), ROWS, ids=[row for _, row in ROWS])
def test_a_figure_becomes_a_row(figure, row):
    assert build_table([figure]).splitlines()[2:] == [row]


@pytest.mark.parametrize("figure", [figure for figure, _ in ROWS], ids=lambda figure: figure.name)
def test_a_figure_passes_through_json_as_it_is(figure):
    """Parts are processes of their own; what they measured must not be another thing afterwards."""
    assert Figure(**json.loads(json.dumps(asdict(figure)))) == figure


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0042, "0.004"), (0.18, "0.18"), (1.374, "1.37"), (13.74, "13.7"), (263.4, "263"), (1000, "1,000")],
)
def test_numbers_are_short(value, text):
    assert format_number(value) == text


def test_a_missed_aim_at_its_exact_value_is_met():
    assert not Figure("at it", 2.0, "s", most=2.0).missed
    assert not Figure("at it", 200, "requests/s", least=200).missed


def test_a_ratio_that_could_not_be_measured_is_a_miss():
    assert Figure("warm", 1.0, "s", ratio_most=0.2).missed


def test_profiles_are_shown_of_what_is_missed_only():
    met = Figure("met one", 1.0, "s", most=2.0, profile="not to be shown")
    missed = Figure("missed one", 3.0, "s", most=2.0, profile="  2.5 s sqlalchemy")
    part = build_part([met, missed], "Measured.")
    assert "missed one, where its time goes:\n\n```\n2.5 s sqlalchemy\n```\n" in part
    assert "not to be shown" not in part


def test_columns_of_the_terminal_begin_at_the_same_place():
    lines = build_text([figure for figure, _ in ROWS]).splitlines()
    place = lines[0].index("Kumo")
    assert all(line[place - 1] == " " and line[place] != " " for line in lines)


def test_only_what_is_between_the_marks_is_replaced():
    text = f"# Before\n\n{BEGIN}\n\nold\n\n{END}\n\nAfter | it.\n"
    once = replace_part(text, build_part([ROWS[0][0]], "Measured."))
    assert once.startswith(f"# Before\n\n{BEGIN}\n\nMeasured.\n\n| ")
    assert once.endswith(f"|\n\n{END}\n\nAfter | it.\n")
    assert "old" not in once
    assert replace_part(once, build_part([ROWS[0][0]], "Measured.")) == once


@pytest.mark.parametrize("text", ["", BEGIN, END + BEGIN, BEGIN + BEGIN + END], ids=["none", "one", "turned", "two"])
def test_a_document_without_its_marks_is_left_alone(text):
    with pytest.raises(ValueError, match="once"):
        replace_part(text, "new")


def test_the_document_has_its_marks():
    assert replace_part((ROOT / "docs" / "performance.md").read_text(), "new")


def test_every_part_is_a_module_with_its_function():
    for part in PARTS:
        assert "\ndef measure(rounds: int" in (ROOT / "bench" / f"{part.name}.py").read_text(), part.name


def test_parts_keep_their_order_and_unknown_ones_are_named():
    assert [part.name for part in choose_parts(["rates", "rest"], False)] == ["rest", "rates"]
    assert choose_parts([], True) == list(PARTS)
    with pytest.raises(SystemExit, match="'rest2'"):
        choose_parts(["rest2"], False)
    with pytest.raises(SystemExit, match="--install"):
        choose_parts(["rest"], True)
