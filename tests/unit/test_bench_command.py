"""bench/run: when it measures, when it writes, and what it says; the parts are played."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench import command
from bench.figures import BEGIN, END, Figure

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of which the busy percent and the parts that fail can be set; ``document`` is what is written."""

    class Machine:
        busy, failing, asked = 0.0, set(), []
        document = tmp_path / "performance.md"

        def run(self, *words: str) -> int:
            return command.main([*words, "--document", str(self.document)])

    played = Machine()
    played.document.write_text(f"# Performance\n\n{BEGIN}\n\nold\n\n{END}\n")

    def run_part(part, rounds, words=()):
        played.asked.append((part.name, rounds, *words))
        if part.name in played.failing:
            raise RuntimeError("it ended with status 1")
        return [Figure(f"figure of {part.name}", 1.5, "s", most=2.0)]

    played.asked = []
    monkeypatch.setattr(command, "run_part", run_part)
    monkeypatch.setattr(command, "read_busy_percent", lambda: played.busy)
    return played


def test_everything_is_measured_and_written(machine, capsys):
    assert machine.run("--rounds", "3") == 0
    assert machine.asked == [(part.name, 3) for part in command.PARTS]
    text = machine.document.read_text()
    for part in command.PARTS:
        assert f"| figure of {part.name} |  | ≤ 2 s | 1.50 s |  | met |" in text
    assert "`bench/run --rounds 3`" in text
    assert "old" not in text
    assert "not idle" not in text
    assert "figure of rest" in capsys.readouterr().out


def test_a_machine_that_is_not_idle_is_refused(machine, capsys):
    machine.busy = 80.0
    assert machine.run() == 1
    assert machine.asked == []
    assert "old" in machine.document.read_text()
    assert "80 % of one core" in capsys.readouterr().err


def test_anyway_the_table_says_that_the_machine_was_not_idle(machine):
    machine.busy = 80.0
    assert machine.run("--anyway") == 0
    assert "80 % of one core were busy. **The machine was not idle" in machine.document.read_text()


@pytest.mark.parametrize("words", [("--no-write",), ("rest",), ("rest", "rates")], ids=" ".join)
def test_a_part_alone_is_only_printed(machine, capsys, words):
    assert machine.run(*words) == 0
    assert "old" in machine.document.read_text()
    assert "figure of rest" in capsys.readouterr().out


def test_a_table_with_a_hole_is_not_written(machine, capsys):
    machine.failing = {"servers"}
    assert machine.run() == 1
    assert len(machine.asked) == len(command.PARTS)
    assert "old" in machine.document.read_text()
    said = capsys.readouterr()
    assert "figure of rates" in said.out
    assert "not measured: servers" in said.err


def test_install_is_asked_for_by_name_only(machine):
    assert machine.run("--install") == 0
    assert [asked for asked in machine.asked if len(asked) > 2] == [("install", 5, "--anew")]


def test_a_part_that_ends_badly_and_a_python_that_is_not_there_are_told(tmp_path):
    bad = command.Part("nothing_of_that_name", "", command.ANY, False)
    with pytest.raises(RuntimeError, match="status 1"):
        command.run_part(bad, 1)
    with pytest.raises(FileNotFoundError, match=r"stack\.sh"):
        command.run_part(command.Part("rest", "", (str(tmp_path / "python"),), False), 1)


def test_it_starts_by_any_python_from_anywhere(tmp_path):
    done = subprocess.run([str(ROOT / "bench" / "run"), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    for part in command.PARTS:
        assert part.about in done.stdout
