"""Which score ranks best: curves and areas worked out by hand, candidates, slices, the page."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.bench.calibrating import calibrate
from speceyes.bench.candidates import CANDIDATES, combine, read_candidates
from speceyes.bench.comparison import compare
from speceyes.bench.page.calibrated import holding_of
from speceyes.bench.page.report import render
from speceyes.bench.page.scores import draw_scores
from speceyes.bench.ranking import rank_scores
from speceyes.bench.selective import compare_scores, curve_of
from speceyes.bench.stats import auroc
from speceyes.bench.trials import trials_of
from speceyes.engines.replay import scripted
from speceyes.gate import GateSpec, score
from tests.command_line import call
from tests.pages import only
from tests.scripted_pair import GATE, sure
from tests.test_calibrating import COUNT, WISH, _of_checksum, a_run, kept

answers = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40)


def measured(rows, draws=20):
    scores = np.array([float(s) for s, _ in rows])
    wrong = np.array([w for _, w in rows])
    rng = np.random.default_rng(0)
    return compare_scores(
        {"min": scores, "minus": -scores}, wrong, reference="min", rng=rng, draws=draws
    )


def test_areas_worked_out_by_hand():
    # Best first: right, wrong, right, wrong: risks 0, 1/2, 1/3, 1/2.
    found = measured([(4, False), (3, True), (2, False), (1, True)])
    assert found["min"].auroc == 0.75
    assert found["min"].aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    # The other way round: 1, 1/2, 2/3, 1/2.
    assert found["minus"].aurc == pytest.approx((1 + 1 / 2 + 2 / 3 + 1 / 2) / 4)
    assert found["minus"].gain == pytest.approx(found["min"].aurc - found["minus"].aurc)
    assert found["min"].gain == found["min"].gain_interval.low == 0.0


def test_alike_scores_count_as_the_mean_of_all_orders():
    found = measured([(1, True), (1, False)])["min"]
    assert found.aurc == pytest.approx(((1 + 1 / 2) / 2 + (0 + 1 / 2) / 2) / 2)
    assert found.auroc == 0.5


@given(answers)
def test_areas_agree_with_plain_counting(rows):
    found = measured(rows, draws=2)["min"]
    right = [float(s) for s, w in rows if not w]
    wrong = [float(s) for s, w in rows if w]
    assert (found.auroc is None) == (not right or not wrong)
    if found.auroc is not None:
        assert found.auroc == pytest.approx(auroc(right, wrong))
    rng = np.random.default_rng(1)
    risks = []
    for _ in range(300):
        order = rng.permutation(len(rows))
        ranked = sorted((rows[place] for place in order), key=lambda row: -row[0])
        failed = np.cumsum([w for _, w in ranked])
        risks.append(np.mean(failed / np.arange(1, len(rows) + 1)))
    assert found.aurc == pytest.approx(np.mean(risks), abs=0.08)
    assert 0.0 <= found.aurc_interval.low <= found.aurc_interval.high <= 1.0


@given(answers)
def test_curves_begin_at_nothing_and_end_at_all(rows):
    wrong = np.array([w for _, w in rows])
    curve = curve_of(np.array([float(s) for s, _ in rows]), wrong)
    assert (curve.coverage[0], curve.coverage[-1]) == (0.0, 1.0)
    assert curve.risk[-1] == pytest.approx(wrong.mean())
    assert curve.kept[-1] == float(not wrong.all())
    for column in (curve.coverage, curve.kept, curve.let_through):
        assert (np.diff(column) >= 0).all()


def test_no_answers_no_qualities():
    assert measured([]) == {}


def test_an_interval_shrinks_with_the_data():
    rows = [(5, False), (4, True), (3, False), (2, True), (1, False)]
    few, many = measured(rows * 4, 400)["min"], measured(rows * 100, 400)["min"]
    assert few.aurc == pytest.approx(many.aurc, abs=0.02)
    assert few.aurc_interval.low < many.aurc_interval.low < many.aurc_interval.high
    assert many.aurc_interval.high < few.aurc_interval.high


def test_candidates_worked_out_by_hand():
    generation = sure("a star", 6.0)
    found = read_candidates(generation, GATE)
    row = generation.evidence.logp_topk[0, : GATE.k].astype(float)
    assert set(found) == set(CANDIDATES) - {"combined"}
    assert found["min"] == score(generation.evidence, replace(GATE, threshold=0.0))
    assert found["p_top"] == pytest.approx(np.exp(row[0]))
    assert found["margin"] == pytest.approx(row[0] - row[1])
    rest = 1 - np.exp(row).sum()
    assert found["entropy"] == pytest.approx((np.exp(row) * row).sum() + rest * np.log(rest))
    assert read_candidates(scripted("star", separability=None), GATE) is None


def test_every_candidate_is_higher_where_the_model_is_surer():
    low, high = (read_candidates(sure("star", s), GATE) for s in (3.0, 9.0))
    assert [name for name in low if not low[name] < high[name]] == []


def test_a_combination_finds_what_single_scores_miss():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(600, 3))
    wrong = rng.random(600) < 1 / (1 + np.exp(3 * (table[:, 0] + table[:, 1])))
    both = combine(table, wrong)
    right, failed = both[~wrong].tolist(), both[wrong].tolist()
    assert auroc(right, failed) > 0.9 > auroc(table[~wrong, 0].tolist(), table[wrong, 0].tolist())


@pytest.mark.parametrize("wrong", [[], [True] * 9, [False] * 9, [True, *[False] * 8]])
def test_with_nothing_to_learn_from_nothing_is_combined(wrong):
    table = np.zeros((len(wrong), 2))
    assert np.isfinite(combine(table, np.array(wrong, dtype=bool))).all()


def test_slices_are_all_the_screened_and_each_split():
    made = rank_scores(trials_of(compare([a_run()])), GATE)
    assert [part.name for part in made.slices] == [
        "all answers",
        "screened",
        "attribute",
        "position",
        "existence",
    ]
    whole, screened, *splits = made.slices
    assert whole.count == COUNT == sum(part.count for part in splits)
    assert whole.wrong == sum(part.wrong for part in splits) > screened.wrong
    assert set(whole.qualities) == set(made.curves) == set(CANDIDATES)
    assert whole.better == ()  # the scripted pair's answers are told apart by separability alone


def test_where_nothing_could_be_scored_there_is_no_ranking():
    assert rank_scores(trials_of(compare([a_run()])), GateSpec(threshold=0.0, k=96)) is None


def test_the_command_shows_and_prints_them(tmp_path):
    folder = kept(tmp_path / "run", a_run())
    done = call("scores", folder, "--json")
    assert done.exit_code == 0, done.output
    (suite,) = json.loads(done.stdout)["suites"]
    assert suite["k"] == GATE.k
    assert suite["slices"][0]["qualities"]["min"]["auroc"] > 0.8
    assert "no score is better than min beyond chance" in " ".join(done.stderr.split())
    refused = call("scores", folder, "--k", "96")
    assert refused.exit_code == 2
    assert "has no answer with K = 96" in refused.stderr


def test_charts_stay_on_their_canvas():
    drawn = draw_scores(rank_scores(trials_of(compare([a_run()])), GATE))
    assert len(set(drawn.tones.values())) == len(CANDIDATES)
    for chart in (drawn.roc, drawn.risk):
        (panel,) = chart.panels
        assert len(panel.lines) == len(CANDIDATES)
        for line in panel.lines:
            points = [pair.split() for pair in line.path.removeprefix("M").split(" L")]
            assert all(chart.x.start <= float(x) <= chart.x.end for x, _ in points)
            assert all(panel.y.end <= float(y) <= panel.y.start for _, y in points)


def test_the_page_shows_the_scores_and_how_a_gate_holds():
    made = calibrate([a_run()], WISH)
    fresh = replace(a_run(8), manifest=_of_checksum(a_run(8), "another"))
    own, others = compare([a_run()]), compare([fresh])
    page = render(own, gates=[made])
    assert "Which score ranks best?" in page
    assert "This run was part of the calibration" in page
    assert "The calibrated gate" not in render(own)
    page = render(others, gates=[made])
    assert "On this run, which had no part in it, the bound holds" in page
    (held,) = holding_of(others[0], [made])
    assert held.is_fresh
    assert held.risk.of == COUNT
    assert not held.is_own


def test_a_bound_that_is_broken_says_so():
    made = calibrate([a_run()], WISH)
    strict = replace(made.certificate, max_loss=1e-6)
    loose = replace(made, gate=replace(made.gate, threshold=0.0), certificate=strict)
    fresh = replace(a_run(8), manifest=_of_checksum(a_run(8), "another"))
    assert "the bound is broken" in render(compare([fresh]), gates=[loose])


def test_a_gate_of_another_prompt_or_without_its_methods_is_left_out():
    made = calibrate([a_run()], WISH)
    other = replace(made, gate=replace(made.gate, prompt_id="another"))
    (comparison,) = compare([a_run()])
    assert holding_of(comparison, [other]) == ()
    (alone,) = compare([only(a_run(), "speceyes", "small")])
    assert holding_of(alone, [made]) == ()
