"""Progress: what a person sees on a terminal and where there is none."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from infra import progress
from infra.progress import Progress

NOTE = "epoch 33/90, step 351,234/900,900, errors 40.1 % and 18.2 %"


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_all_of_it(width: int) -> None:
    """A count, a rate and the note, whole, within 80 columns; no empty line without a note."""
    bar = progress._terminal_bar("train", 115_000_000, "images", 0)
    for note in ("", NOTE):
        bar.update(bar.task_ids[0], completed=45_003_000, rate="1,234", note=note)
        screen = Console(file=io.StringIO(), width=width)
        screen.print(bar.get_renderable())
        shown = screen.file.getvalue()  # type: ignore[attr-defined]
        assert "45003000/115000000 1,234 images/s, ETA" in shown
        assert shown.splitlines()[1:] == ([note] if note else [])


def test_elsewhere_lines_are_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the time left at the rate so far, which does not count what was there before."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("train", 1000, "images", already=200) as bar:
        now[0] += 20
        bar.advance(400, NOTE)
    first, second, last = capsys.readouterr().err.splitlines()
    assert first == "train: 200 of 1,000 images are there already"
    assert second == last == f"train: 600 of 1,000 images (60 %), 20 images/s, ETA 0:20, {NOTE}"
