"""The benchmark of policies on a pair: each answers the same items, and is set beside the agent."""

from __future__ import annotations

from argparse import Namespace
from itertools import islice

import anyio
import pytest

from benchmarks.policies_pair import POLICIES, WARM_UP_ITEMS, items_of, measure
from tests.scripted_pair import ScriptedPair, funnel

SEED, ITEMS, REPETITIONS = 3, 2, 3


@pytest.mark.parametrize("policies", [list(POLICIES), ["agent", "serial"], ["agent", "adaptive"]])
def test_every_policy_is_set_beside_the_agent_on_the_same_items(policies):
    known = [
        *islice(items_of("mixed", seed=SEED), ITEMS * REPETITIONS),
        *islice(items_of("mixed", seed=SEED, stream="calibration"), WARM_UP_ITEMS),
    ]
    asked = Namespace(seed=SEED, items=ITEMS, rounds=1, repetitions=REPETITIONS, policy=policies)

    async def told():
        base = funnel(ScriptedPair(known, pace=0.01))
        return await measure(base, asked, suite="mixed", concurrency=1)

    found = anyio.run(told)
    figures = {figure["policy"]: figure for figure in found["figures"]}
    assert list(figures) == policies
    assert {figure["failed"] for figure in figures.values()} == {0}
    assert figures["agent"]["ratios"] == [1.0] * REPETITIONS
    assert figures["agent"]["accepted"] == 0.0
    assert figures["agent"]["accepted_s"] is None
    for figure in figures.values():
        assert figure["prepared_s"] > 0.0
        assert (figure["accepted_s"] is None) == (figure["accepted"] == 0.0)
    over = found["adaptive_over_best"]
    own = {name for name in policies if name in {"serial", "overlap", "race"}}
    assert set(over) == (
        {"adaptive"} & set(policies if own else ())
        | {"adaptive-agent"} & set(policies if "race-agent" in policies else ())
    )
    for name, beside in over.items():
        alike = own if name == "adaptive" else {"race-agent"}
        assert beside["over"] in alike
        assert figures[beside["over"]]["of_sums"] == max(figures[one]["of_sums"] for one in alike)
        assert beside["of_sums"] == figures[name]["of_sums"] / figures[beside["over"]]["of_sums"]
