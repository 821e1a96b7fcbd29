"""What a demo shows while it runs and when it is done."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from speceyes.bench.comparison import compare
from speceyes.bench.telling import show_event
from speceyes.bench.terminal import LiveProgress, show_comparison, summary_table
from speceyes.engines.replay import scripted
from speceyes.events import Speculated, TurnFinished
from speceyes.types import FinalAnswer
from tests.scripted_pair import tiny_run


def a_console(width=120, *, terminal=False):
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)


def printed(console):
    return console.file.getvalue()


@pytest.fixture(scope="module")
def comparison():
    (made,) = compare([tiny_run()])
    return made


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal_whole(comparison, width):
    console = a_console(width)
    console.print(summary_table(comparison.summary, width=width))
    text = printed(console)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert ("tokens" in text) == (width == 120)


def test_every_row_has_its_figures_and_intervals(comparison):
    console = a_console()
    console.print(summary_table(comparison.summary, width=120))
    text = printed(console)
    for row in comparison.summary.rows:
        assert row.name in text
        gain, figures = row.gains["SpecEyes"], row.figures["SpecEyes"]
        for figure in (f"{gain.speedup:.2f}x", f"{figures.limit:.2f}x"):
            assert figure in text
        assert f"got {gain.share_of_limit:.2f}" in text
        low, high = gain.speedup_interval.low, gain.speedup_interval.high
        assert f"{low:.2f}–{high:.2f}" in text


def test_the_facts_tell_of_the_parts(comparison):
    console = a_console()
    show_comparison(console, comparison)
    text = printed(console)
    for words in ("average", "routes", "sent the right way", "AUROC", "zooms on the target"):
        assert words in text


@pytest.mark.parametrize("methods", [("small",), ("specreason",), ("baseline", "specreason")])
def test_any_choice_of_methods_can_be_shown(methods):
    console = a_console()
    (made,) = compare([tiny_run(6, methods=methods)])
    show_comparison(console, made)
    assert ("proposals accepted" in printed(console)) == ("specreason" in methods)


def test_what_is_partial_or_not_as_released_is_said(comparison):
    run = comparison.runs[0]
    suite = replace(comparison.suite, released=dict.fromkeys(comparison.suite.counts, 21))
    cut = replace(run, records=run.records[:-5], manifest=replace(run.manifest, suite=suite))
    console = a_console()
    show_comparison(console, compare([cut])[0])
    text = printed(console)
    assert "5 answers are still to come: these figures are partial" in text
    assert "attribute has 20 items here, 21 in the release" in text
    assert "left out" in text


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
