"""What a demo shows while it runs and when it is done."""

import io

import pytest
from rich.console import Console

from speceyes.bench.summary import summarise
from speceyes.bench.terminal import LiveProgress, show_event, summary_facts, summary_table
from speceyes.engines.replay import scripted
from speceyes.events import Speculated, TurnFinished
from speceyes.types import FinalAnswer
from tests.scripted_pair import tiny_run


def a_console(width=120, *, terminal=False):
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)


def printed(console):
    return console.file.getvalue()


@pytest.fixture(scope="module")
def summary():
    run = tiny_run()
    return summarise(run.records, run.times, concurrency=1)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal_whole(summary, width):
    console = a_console(width)
    console.print(summary_table(summary, width=width))
    text = printed(console)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert ("tokens" in text) == (width == 120)


def test_every_row_has_its_figures_and_intervals(summary):
    console = a_console()
    console.print(summary_table(summary, width=120))
    text = printed(console)
    for row in summary.rows:
        assert row.name in text
        for figure in (f"{row.speedup:.2f}x", f"{row.limit:.2f}x", f"{row.share_of_limit:.2f}"):
            assert figure in text
        for interval in (row.speedup_interval, row.difference_interval):
            assert interval is not None
        assert f"{row.speedup_interval.low:.2f}–{row.speedup_interval.high:.2f}" in text


def test_the_facts_tell_of_the_parts(summary):
    console = a_console()
    console.print(summary_facts(summary))
    text = printed(console)
    for words in ("routes", "sent the right way", "AUROC", "zooms on the target", "median"):
        assert words in text


def test_a_run_without_anything_can_be_shown():
    console = a_console()
    nothing = summarise([], [], concurrency=1)
    console.print(summary_table(nothing, width=120))
    console.print(summary_facts(nothing))
    assert "–" in printed(console)


def test_where_nobody_watches_lines_take_the_place_of_a_table():
    console = a_console()
    with LiveProgress(console) as progress:
        progress.begins("answering", 120)
        for record in tiny_run().records[:80]:
            progress.saw(record)
    assert printed(console).splitlines() == ["answering (120)", "  40 answered", "  80 answered"]


def test_a_live_table_is_drawn_seldom():
    console, now_s = a_console(terminal=True), [0.0]
    with LiveProgress(console, clock=lambda: now_s[0]) as progress:
        progress.begins("answering", 60)
        for record in tiny_run().records[:60]:
            now_s[0] += 0.1
            progress.saw(record)
    drawn = printed(console).count("SpecEyes")
    assert 8 <= drawn <= 14  # six seconds, twice a second, and the end


def test_a_live_table_counts_by_method():
    console, now_s = a_console(terminal=True), [0.0]
    with LiveProgress(console, clock=lambda: now_s[0]) as progress:
        progress.begins("answering", 40)
        for record in tiny_run().records[:40]:
            now_s[0] += 1.0
            progress.saw(record)
    last = printed(console).rindex("agent alone")
    assert "20" in printed(console)[last : last + 40]
    assert "40/40" in printed(console)


def test_words_of_a_model_are_shown_as_they_are():
    console, said = a_console(), scripted("a [red]b[/x] <think>[/y]</think>", separability=None)
    show_event(console, Speculated("q", 0.0, said))
    show_event(console, TurnFinished("q", 0.0, 1, said, FinalAnswer("b")))
    assert "a [red]b[/x] <think>[/y]</think>" in printed(console)
    assert "turn 1      a [red]b[/x]" in printed(console)
