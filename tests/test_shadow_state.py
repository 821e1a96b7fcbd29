"""What a shadow has come to is written down whole, and gone on from as far as it still counts."""

import json
import random
from dataclasses import replace
from itertools import product

import pytest

from speceyes import ShadowSettings
from speceyes.calibration.audit import Seen
from speceyes.calibration.drift import reference_of
from speceyes.errors import InputError
from speceyes.screen import ScreenSpec
from speceyes.shadow.records import Setup
from speceyes.shadow.state import Kept, from_text, plain_setup, resumed, to_text
from speceyes.shadow.watch import begin, checked, edges_above, scored
from tests.stand_ins import GATE

AUDIT = ShadowSettings(mode="audit", share=1.0, max_loss=0.05, on_breach="tighten")
SETUP = Setup(
    small="small",
    large="large",
    protocol="tags",
    prompts={"screen": "a", "speculate": "b"},
    gate=GATE,
    screen=ScreenSpec(),
    screen_by="large",
    max_answer_tokens=20,
    depth=0,
)
PLAIN = plain_setup(SETUP, None)


def calm(watch, count=300):
    """Check answers far above the gate, none of which differs."""
    for _ in range(count):
        watch = checked(watch, Seen(8.0, differs=False))
    return watch


def broken(watch, most=100):
    """Find answers just above the gate to differ until the shadow does something."""
    before = (watch.state, watch.gate)
    for _ in range(most):
        watch = checked(watch, Seen(watch.gate.threshold + 0.1, differs=True))
        if (watch.state, watch.gate) != before:
            return watch
    raise AssertionError("the bound holds")


def with_scores(watch, count, middle=8.0, seed=1):
    rng = random.Random(seed)
    for _ in range(count):
        watch = scored(watch, rng.gauss(middle, 1.0))
    return watch


def a_watch(settings=AUDIT, **more):
    return begin(settings, GATE, **more)


def a_breach(on_breach="tighten"):
    watch = broken(calm(a_watch(replace(AUDIT, on_breach=on_breach))))
    assert watch.state == {"tell": "broken", "tighten": "tightened", "off": "off"}[on_breach]
    return watch


EVERY = {
    "new": a_watch(),
    "calm": calm(a_watch()),
    "first": with_scores(a_watch(replace(AUDIT, drift_after=50)), 20),
    "drift": with_scores(with_scores(a_watch(replace(AUDIT, drift_after=50)), 90), 100, 2.0),
    "calibrated": with_scores(a_watch(reference=reference_of([5.0, 6.0, 7.0, 8.0] * 20)), 30),
    "broken": a_breach("tell"),
    "tightened": calm(a_breach("tighten"), 30),
    "off": a_breach("off"),
    "observe": calm(a_watch(ShadowSettings(mode="observe"))),
}


DAMAGES = {
    "version": lambda raw: raw.update(state_version=99),
    "no setup": lambda raw: raw.pop("setup"),
    "no gate": lambda raw: raw["watch"].pop("gate"),
    "state": lambda raw: raw["watch"].update(state="fine"),
    "queries": lambda raw: raw["watch"]["audit"].update(queries="many"),
    "bets": lambda raw: raw["watch"]["audit"]["bets"].pop(),
    "no number": lambda raw: raw["watch"]["audit"].update(bets=[float("nan")] * 5),
    "hits": lambda raw: raw["watch"]["audit"]["counts"]["hits"].pop(),
    "checks": lambda raw: raw["watch"]["audit"]["recent"]["checks"].append(1),
    "drift": lambda raw: raw["watch"]["drift"]["counts"].append(1),
    "edges": lambda raw: raw["watch"]["drift"]["reference"].update(edges=[3.0, 1.0]),
}


class TestWrittenDown:
    @pytest.mark.parametrize("name", EVERY)
    def test_what_is_read_is_what_was_written(self, name):
        kept = Kept(PLAIN, EVERY[name])
        text = to_text(kept)
        assert from_text(text) == kept
        assert text.count("\n") == 1
        assert text.endswith("\n")

    @pytest.mark.parametrize("name", ["calm", "drift", "tightened"])
    def test_no_part_of_it_is_taken_for_the_whole(self, name):
        text = to_text(Kept(PLAIN, EVERY[name])).rstrip()
        for end in range(0, len(text), 7):
            with pytest.raises(InputError, match="no state of a shadow"):
                from_text(text[:end])

    @pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
    def test_what_could_not_be_gone_on_with_is_refused(self, change):
        watch = with_scores(calm(a_watch(replace(AUDIT, drift_after=50)), 9), 70)
        raw = json.loads(to_text(Kept(PLAIN, watch)))
        change(raw)
        with pytest.raises(InputError):
            from_text(json.dumps(raw))


class TestGoneOnWith:
    @pytest.mark.parametrize("name", sorted({*EVERY} - {"calibrated"}))
    def test_the_same_settings_go_on_as_if_nothing_had_been(self, name):
        watch = EVERY[name]
        assert resumed(a_watch(watch.settings), watch) == watch

    def test_so_does_what_is_held_against_the_calibration(self):
        reference = reference_of([5.0, 6.0, 7.0, 8.0] * 20)
        watch = EVERY["calibrated"]
        assert resumed(a_watch(reference=reference), watch) == watch
        other = a_watch(reference=reference_of([1.0, 2.0, 3.0] * 20))
        assert resumed(other, watch) == other  # another calibration of the same gate
        assert resumed(a_watch(), watch) == a_watch()  # and none at all

    def test_nothing_left_is_a_beginning(self):
        assert resumed(a_watch(), None) == a_watch()

    @pytest.mark.parametrize("name", ["tightened", "off"])
    def test_what_another_place_found_is_obeyed(self, name):
        watch = resumed(a_watch(EVERY[name].settings), None, [EVERY["calm"], EVERY[name]])
        assert (watch.state, watch.gate) == (EVERY[name].state, EVERY[name].gate)
        assert watch.audit.queries == 0
        watch = resumed(a_watch(EVERY[name].settings), EVERY["calm"], [EVERY[name]])
        assert (watch.state, watch.gate) == (EVERY[name].state, EVERY[name].gate)

    def test_a_tightened_gate_taken_from_elsewhere_is_audited_anew_with_fewer_false_alarms(self):
        watch = resumed(a_watch(), EVERY["calm"], [EVERY["tightened"]])
        assert watch.audit.spec.edges == edges_above(EVERY["tightened"].gate)
        assert watch.audit.spec.false_alarm == AUDIT.false_alarm / 2
        assert broken(watch).state in {"tightened", "off"}

    def test_the_worst_of_all_places_counts(self):
        tighter = broken(calm(EVERY["tightened"]))
        assert tighter.gate.threshold > EVERY["tightened"].gate.threshold
        for mine, other in product([None, EVERY["tightened"], tighter], repeat=2):
            watch = resumed(a_watch(), mine, [w for w in (other, tighter) if w is not None])
            assert watch.gate == tighter.gate
        found = [EVERY["off"], tighter, EVERY["tightened"], EVERY["calm"]]
        assert resumed(a_watch(), None, found).state == "off"

    @pytest.mark.parametrize(
        "change", [{"share": 0.5}, {"max_loss": 0.04}, {"false_alarm": 0.01}, {"workers": 3}]
    )
    @pytest.mark.parametrize("name", ["calm", "tightened", "off"])
    def test_under_other_terms_counts_begin_anew_and_a_breach_stays(self, change, name):
        workers = change.get("workers", 1)
        settings = replace(
            EVERY[name].settings, **{k: v for k, v in change.items() if k != "workers"}
        )
        fresh = a_watch(settings, workers=workers)
        watch = resumed(fresh, EVERY[name])
        assert (watch.state, watch.gate) == (EVERY[name].state, EVERY[name].gate)
        assert watch.audit.queries == 0
        most = fresh.audit.spec.false_alarm
        assert watch.audit.spec.false_alarm == (most / 2 if name == "tightened" else most)
        assert watch.settings == settings

    @pytest.mark.parametrize("name", ["calm", "broken", "tightened", "off"])
    def test_where_more_is_allowed_now_nothing_that_was_found_counts(self, name):
        for change in ({"max_loss": 0.06}, {"unread": "left_out"}):
            fresh = a_watch(replace(EVERY[name].settings, **change))
            assert resumed(fresh, EVERY[name], [EVERY[name]]) == fresh
        # To count what cannot be read, once it was left out, allows less.
        lax = replace(EVERY["off"], settings=replace(EVERY["off"].settings, unread="left_out"))
        assert resumed(a_watch(EVERY["off"].settings), lax).state == "off"

    @pytest.mark.parametrize("name", ["broken", "tightened", "off"])
    def test_a_breach_is_answered_as_the_settings_say_by_now(self, name):
        told = resumed(a_watch(replace(AUDIT, on_breach="tell")), EVERY[name])
        assert (told.state, told.gate) == ("broken", GATE)
        off = resumed(a_watch(replace(AUDIT, on_breach="off")), EVERY[name])
        assert off.state == ("tightened" if name == "tightened" else "off")
        assert off.gate.threshold > GATE.threshold

    def test_a_breach_that_was_only_told_can_be_tightened_afterwards(self):
        watch = resumed(a_watch(), EVERY["broken"])
        assert (watch.state, watch.gate) == ("tightened", a_breach("tighten").gate)
        # What others found tells nothing of where the bound holds: then nothing is accepted.
        assert resumed(a_watch(), None, [EVERY["broken"]]).state == "off"

    def test_scores_outlive_another_window(self):
        few, many = replace(AUDIT, drift_after=10), replace(AUDIT, drift_after=500)
        first = with_scores(a_watch(replace(AUDIT, drift_after=50)), 20)
        assert resumed(a_watch(many), first).first == first.first
        assert scored(resumed(a_watch(few), first), 1.0).drift is not None
        watch = resumed(a_watch(many), EVERY["drift"])
        assert watch.drift.reference.edges == EVERY["drift"].drift.reference.edges
        assert (watch.drift.reference.window, watch.drift.windows) == (500, 0)
