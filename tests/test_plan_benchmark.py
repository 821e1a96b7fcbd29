"""The benchmark of plans: runs to fit and runs to test take turns, and a plan sees the former."""

from __future__ import annotations

from argparse import Namespace
from statistics import fmean

import anyio
import pytest

from benchmarks.plan_vllm import WARM_UP_ITEMS, plan_and_compare, steps_of, take_run
from speceyes.bench.folder import read_run
from speceyes.bench.suites.opening import open_suite
from speceyes.builtin.suite import draw_items
from tests.scripted_pair import ScriptedPair, funnel

SEED, ITEMS = 3, 6


def asked_for(folder):
    return Namespace(out=folder, passes=2, fit=[2, 4], concurrency=[1, 3])


def test_every_other_pass_goes_the_other_way_round(tmp_path):
    there, back = (
        [step.folder.relative_to(tmp_path).as_posix() for step in steps_of(asked_for(tmp_path), n)]
        for n in (1, 2)
    )
    assert there == [
        f"pass-1/{name}" for name in ("fit-at-1", "test-at-3", "fit-at-2", "test-at-1", "fit-at-4")
    ]
    assert [name.replace("pass-2", "pass-1") for name in back] == there[::-1]


def test_runs_to_test_are_foretold_from_runs_to_fit(tmp_path):
    suite = open_suite(f"builtin:{ITEMS}", seed=SEED)
    known = [*suite.entries(), *draw_items(WARM_UP_ITEMS, seed=SEED, stream="calibration")]
    asked = asked_for(tmp_path)

    async def take_passes():
        base = funnel(ScriptedPair(known, pace=0.1))
        for number in (1, 2):
            for step in steps_of(asked, number):
                await take_run(base, suite, step, policy="serial")

    anyio.run(take_passes)
    fit, found = plan_and_compare(asked)
    assert [(one.policy, one.callers, one.queries) for one in fit.found] == [
        (policy, at, 2 * ITEMS) for at in (2, 4) for policy in ("agent_only", "serial")
    ]
    assert [(one.told.policy, one.told.callers, one.told.queries) for one in found] == [
        (policy, at, 2 * ITEMS) for at in (1, 3) for policy in ("agent_only", "serial")
    ]
    for one in found:
        method = {"agent_only": "baseline", "serial": "speceyes"}[one.told.policy]
        first, second = (mean_in(tmp_path, n, one.told.callers, method) for n in (1, 2))
        mean_s = (first + second) / 2
        assert one.told.seen_s == pytest.approx(mean_s)
        assert one.sampling_error == pytest.approx(abs(first - second) / 2 / mean_s)
        assert (1.0 + one.mean_error) * mean_s == pytest.approx(one.told.found_s)


def mean_in(folder, number, callers, method):
    """Read seconds a query off a run to test."""
    run = read_run(folder / f"pass-{number}" / f"test-at-{callers}")
    return fmean(record.elapsed_s for record in run.records if record.method == method)
