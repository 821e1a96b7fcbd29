"""The report: one page that stands alone, whose figures are those of the runs."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from xml.etree import ElementTree

import pytest
from rich.console import Console

from speceyes.bench.comparison import compare
from speceyes.bench.folder import MANIFEST, RECORDS
from speceyes.bench.grade import Grade
from speceyes.bench.items import Spoiled
from speceyes.bench.lines import to_line
from speceyes.bench.manifest import to_json
from speceyes.bench.page.gallery import choose
from speceyes.bench.page.published import published
from speceyes.bench.page.report import headline, overview, render
from speceyes.bench.records import Place, record_of_spoiled
from speceyes.bench.suites.opening import open_suite
from speceyes.commands.report import open_again, run_report
from speceyes.errors import ConfigError, SuiteError
from tests.pages import ALL, as_vstar, crowded, drawn, failed, looking, only, tiny, with_records
from tests.scripted_pair import drawn_run, tiny_run

MOST_BYTES = 8_000_000
ITEMS = 6
VOID = {"meta", "link", "img", "input", "br"}
SUBSETS = [subset for size in range(1, 5) for subset in combinations(ALL, size)]


class Nesting(HTMLParser):
    """Complain of tags that are not closed in order, and collect what is asked for."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.attributes = []

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page():
    return render(*drawn(ITEMS))


def test_where_the_small_model_looked_closer_no_other_gate_is_judged():
    page = render(*looking(ITEMS))
    Nesting().feed(page)
    assert "is left out.</p>" in page
    assert "looks closer at <code>[8, 8, 24, 24]</code>" in page
    assert '<dt class="under">after a closer look</dt>' in page
    for heading in (
        "If the threshold were elsewhere",
        "If K were another",
        "Which score ranks best",
    ):
        assert heading in render(*drawn(ITEMS))
        assert heading not in page


@pytest.fixture(scope="module")
def crowded_page():
    return render(*crowded(ITEMS), absent={"vstar": "data/vstar is no folder here"})


def read(page):
    reader = Nesting()
    reader.feed(page)
    reader.close()
    return reader


def text_of(page):
    bare = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub("<[^>]*>", " ", bare).split())


def check_sound(page):
    """See that a page nests, that its figures are XML, and that no number is missing in them."""
    assert read(page).open == []
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    for figure in figures:
        ElementTree.fromstring(figure)  # noqa: S314 - our own
    assert sum("viewBox" in figure for figure in figures) == len(figures)
    assert not re.search(r"\b(nan|inf|None)\b", re.sub('"data:[^"]*"', "", "".join(figures)))
    assert not re.search(r"\b(nan|inf|None)\b", text_of(page))
    return figures


def test_the_page_is_sound(page, crowded_page):
    assert len(check_sound(page)) >= 9 + ITEMS
    assert len(check_sound(crowded_page)) > len(check_sound(page))


def test_the_page_stands_alone(crowded_page):
    links = [v for _, name, v in read(crowded_page).attributes if name in {"src", "href", "srcset"}]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "http" not in crowded_page
    assert "@import" not in crowded_page
    assert "url(" not in crowded_page


def test_the_page_is_small(page):
    (comparison,) = drawn(ITEMS)[0]
    per_card = len(page) / len(choose(comparison.entrants))
    assert len(page) + 24 * per_card < MOST_BYTES


def test_the_page_follows_the_readers_theme(page):
    assert "prefers-color-scheme: dark" in page
    assert "color-scheme: light dark" in page


def test_the_page_says_what_the_runs_came_to(page):
    (comparison,) = drawn(ITEMS)[0]
    whole = comparison.summary.overall
    told = text_of(page)
    assert f"{whole.gains['SpecEyes'].speedup:.2f}×" in told
    for figures in whole.figures.values():
        assert f"{100 * figures.accuracy.value:.1f} %" in told
    for name in ("attribute", "position", "existence", "all items", "average over the splits"):
        assert name in told
    assert "Re-scored from the records, not run again" in told
    assert "Abacus 9000" in told


def test_a_row_holds_all_figures_of_its_entrant(page):
    (comparison,) = drawn(ITEMS)[0]
    whole = comparison.summary.overall
    figures, gain = whole.figures["SpecEyes"], whole.gains["SpecEyes"]
    part = page[page.index("all items <small>") :]
    row = text_of(part[part.index("</i>SpecEyes") : part.index("</i>SpecReason")])
    spread = figures.accuracy.interval
    points = f"{100 * gain.difference:+.1f}".replace("-", "−")
    assert row.startswith(
        f"SpecEyes {100 * figures.accuracy.value:.1f} % "
        f"{100 * spread.low:.1f} to {100 * spread.high:.1f} {points} "
    )
    assert (
        f" {gain.speedup:.2f}× {gain.speedup_interval.low:.2f} to {gain.speedup_interval.high:.2f} "
        f"{figures.beta.value:.2f} "
    ) in row
    assert row.endswith(
        f" {figures.limit:.2f}× {gain.share_of_limit:.2f} of it {figures.depth:.2f} "
        f"{figures.completion_tokens:.0f} {figures.prompt_tokens:.0f} read 0 0"
    )


def test_every_entrant_has_its_row_in_every_split(page):
    table = page[page.index('<table class="entrants">') : page.index("</table>")]
    for label in ("agent alone", "SpecEyes", "SpecReason", "small alone"):
        assert table.count(f"</i>{label}</th>") == 3 + 2  # splits, all, average


def test_phases_are_timed_over_the_queries_that_went_through_them(page):
    (comparison,) = drawn(ITEMS)[0]
    asked = sum("speculate" in r.phase_s for r in comparison.entrants[1].records)
    told = text_of(page[page.index("95th") :])
    ours = told[told.index("SpecEyes") : told.index("SpecReason")]
    assert f"II speculate {asked} " in ours
    assert f"whole query {ITEMS} " in ours


@pytest.mark.parametrize("methods", SUBSETS, ids="+".join)
def test_any_methods_make_a_page(methods):
    comparisons = compare([only(tiny_run(60, methods=ALL), *methods)])
    made = render(comparisons, shown=3)
    check_sound(made)
    told = text_of(made)
    assert ("Accuracy against speedup" in told) == ("baseline" in methods and len(methods) > 1)
    assert ("If the threshold were elsewhere" in told) == ({"baseline", "speceyes"} <= {*methods})
    assert ("peaks" in told) == bool({"speceyes", "small"} & {*methods})
    assert ("SpecReason: scores of the proposals" in told) == ("specreason" in methods)


def test_where_everything_failed_the_page_says_so():
    made = render(compare([with_records(tiny_run(60, methods=ALL), failed)]), shown=3)
    check_sound(made)
    told = text_of(made)
    assert "EngineTimeout 60 the engine did not answer within 30 s" in told
    assert told.count("0.0 %") > 4


def test_undecided_answers_are_counted_and_told_apart():
    def unclear(record):
        graded = Grade("undecided", None, "two answers are given")
        return replace(record, grade=graded) if record.item_id == "tiny-1" else record

    run = with_records(tiny_run(60, methods=ALL), unclear)
    (comparison,) = compare([run])
    assert comparison.summary.overall.figures["SpecEyes"].undecided == 1
    made = render([comparison])
    assert '<b class="bad">1</b>' in made
    assert 'data-grade="undecided"' in made
    assert "two answers are given" in made


def test_rows_that_could_not_be_asked_are_named():
    error = SuiteError("pope.parquet, row 3", "has no picture")
    spoiled = Spoiled("pope@row 3", "attribute", error)
    run = tiny_run(60, methods=ALL)
    extra = tuple(record_of_spoiled(spoiled, place=Place(method)) for method in ALL)
    made = render(compare([replace(run, records=run.records + extra)]))
    check_sound(made)
    assert "1 row of the suite could not be asked" in text_of(made)
    assert "pope@row 3 (pope.parquet, row 3: has no picture)" in text_of(made)


def test_a_suite_that_is_not_as_released_says_so(crowded_page):
    told = text_of(crowded_page)
    assert "direct attributes has 2 items here, 115 in the release" in told
    assert "relative position has 4 items here, 76 in the release" in told


def test_a_run_cut_short_says_so():
    run = tiny_run(60)
    made = text_of(render(compare([replace(run, records=run.records[:30])])))
    assert "Cut short: 150 answers are still to come; 10 of 60 items" in made
    assert "Cut short" not in text_of(render(tiny()))


def test_a_run_with_nothing_in_common_still_has_a_page():
    run = tiny_run(60)
    ended = [r for r in run.records if (r.method == "baseline") == (r.item_id == "tiny-0")]
    made = render(compare([replace(run, records=tuple(ended))]))
    check_sound(made)
    assert "ended before all methods had answered anything" in made


def test_words_of_a_model_are_text_not_markup():
    said = "<script>alert(1)</script>"
    run = with_records(tiny_run(60), lambda record: replace(record, text=said))
    made = render(compare([run]), shown=2)
    assert said not in made
    assert "&lt;script&gt;alert(1)" in made


def test_the_headline_has_the_figures():
    gain = tiny()[0].summary.overall.gains["SpecEyes"]
    assert headline(tiny()).startswith(f"60 questions answered {gain.speedup:.2f} times as fast")
    alone = compare([only(tiny_run(60), "speceyes")])
    assert headline(alone).startswith("60 questions answered; right were")
    assert "12 questions of 2 suites" in headline(crowded(ITEMS)[0])


def test_several_suites_are_put_side_by_side_first(crowded_page):
    made = overview(crowded(ITEMS)[0])
    assert made.suites == (
        ("builtin", ("attribute", "position", "existence")),
        ("vstar", ("direct_attributes", "relative_position")),
    )
    assert "All suites" in crowded_page
    assert "All suites" not in render(tiny())


def test_an_average_leaves_no_split_out():
    run = tiny_run(60, methods=ALL)
    both = compare([run, only(as_vstar(run), "baseline", "speceyes")])
    rows = {row.label: row for row in overview(both).rows}
    assert rows["SpecEyes"].average.accuracy is not None
    assert rows["SpecReason"].cells[-1] is None
    assert rows["SpecReason"].average.accuracy is None


def test_the_papers_numbers_stand_beside_ours_where_it_has_some(crowded_page, page):
    told = text_of(crowded_page)
    assert "Beside the paper" in told
    assert "other hardware" in told
    for accuracy in ("90.4 %", "89.5 %", "73.9 %"):  # SpecEyes' twice; SpecReason on positions
        assert accuracy in told
    assert "Beside the paper" not in page
    assert "The paper has no numbers for this suite" in page


def test_the_papers_table_is_read_as_it_was_printed():
    assert published("pope", "thyme")["random"]["specreason"].accuracy == 0.9027
    assert published("hrbench", "thyme")["8k"]["speceyes"].speedup == 0.95
    assert published("vstar", "qwen3-vl") == {}
    assert published("builtin", "deepeyes") == {}
    assert sum(len(published(suite, "deepeyes")) for suite in ("vstar", "hrbench", "pope")) == 7


# The command.


def leave(run, folder):
    """Write a run as the bench does."""
    folder.mkdir()
    (folder / MANIFEST).write_text(to_json(run.manifest), encoding="utf-8")
    lines = "".join(to_line(record) + "\n" for record in run.records)
    (folder / RECORDS).write_text(lines, encoding="utf-8")
    return folder


def real_run():
    # Of a suite that can be opened again, from its manifest alone.
    run, _ = drawn_run(ITEMS)
    suite = open_suite("builtin:6", seed=7).facts
    return replace(run, manifest=replace(run.manifest, suite=suite))


def test_report_shows_tables_and_writes_the_page(tmp_path, capsys):
    folder = leave(real_run(), tmp_path / "run")
    out = tmp_path / "pages" / "out.html"
    run_report([folder], Console(width=120), html=out, items=4, as_json=False)
    shown = capsys.readouterr().out
    assert "SpecEyes" in shown
    assert str(out) in shown
    made = out.read_text(encoding="utf-8")
    assert made.count("<article") == 4
    assert made.count('<image href="data:image/webp') == 4


def test_report_prints_one_document_last(tmp_path, capsys):
    folder = leave(real_run(), tmp_path / "run")
    run_report([folder], Console(stderr=True), html=None, items=4, as_json=True)
    assert json.loads(capsys.readouterr().out)["suites"][0]["compared"] == ITEMS


def test_report_does_without_pictures_that_are_gone(tmp_path):
    run = real_run()
    gone = replace(run.manifest.suite, source="jsonl:gone/questions.jsonl", name="jsonl")
    folder = leave(replace(run, manifest=replace(run.manifest, suite=gone)), tmp_path / "run")
    out = tmp_path / "out.html"
    run_report([folder], Console(quiet=True), html=out, items=4, as_json=False)
    made = out.read_text(encoding="utf-8")
    assert made.count("<article") == made.count('class="absent"') == 4
    assert "questions.jsonl" in made


def test_a_page_that_cannot_be_written_is_an_error_of_the_option(tmp_path):
    folder = leave(real_run(), tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="html"):
        run_report(
            [folder], Console(quiet=True), html=tmp_path / "file" / "x", items=0, as_json=False
        )


@pytest.mark.parametrize("source", ["builtin", "builtin:7"])
def test_a_suite_is_opened_again_as_it_was(source):
    per_split = 2 if source == "builtin" else None
    facts = open_suite(source, splits=("position",), seed=3, per_split=per_split).facts
    assert open_again(facts).facts == facts
