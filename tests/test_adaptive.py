"""The adaptive policy: its rule by cases, what it learns, and that the best start is found."""

import math
from dataclasses import replace

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.engines.replay import ReplayEngine, Take, scripted, scripted_screen
from speceyes.load import Load
from speceyes.phases import Passage
from speceyes.policies.adaptive import Adaptive, Outlook, choose
from speceyes.policies.contest import OVERLAP, RACE, SERIAL, Start
from speceyes.policies.fixed import overlap, race, serial
from speceyes.policies.pace import Line, Mean
from speceyes.screen import ScreenSpec
from speceyes.types import Usage
from tests.stand_ins import (
    ACCEPTED,
    CALL,
    NEEDS_TOOL,
    REJECTED,
    Plan,
    a_funnel,
    a_query,
    engines,
    turns,
)

CALM = Outlook(
    p_accepted=0.5,
    p_screened=0.7,
    haste=1.0,
    large_delay=0.0,
    small_delay=0.0,
    wasted=0.0,
    queries=9,
)
shares = st.floats(0.0, 1.0)


def chosen(budget=0.5, **more):
    return choose(replace(CALM, **more), waste_budget=budget)


@pytest.mark.parametrize(
    ("seen", "start"),
    [
        ({}, RACE),
        ({"large_delay": 0.9}, RACE),
        ({"large_delay": 1.1}, OVERLAP),  # the odds that the agent is needed are 1
        ({"large_delay": 1.1, "p_accepted": 0.4}, RACE),
        ({"small_delay": 2.2}, RACE),
        ({"small_delay": 2.4}, Start(speculation=False, agent=True)),  # .7 / .3 is 2.33
        ({"small_delay": 9.0, "large_delay": 9.0}, SERIAL),
        ({"wasted": 0.6}, OVERLAP),
        ({"p_accepted": 0.021, "large_delay": 40.0}, RACE),  # hardly anything is wasted
        ({"p_accepted": 1.0}, OVERLAP),  # all accepted: there is nothing to gain
        ({"p_screened": 0.01}, Start(speculation=False, agent=True)),
        ({"large_delay": None, "small_delay": None, "queries": 4}, RACE),
        ({"large_delay": None, "small_delay": None, "queries": 5}, OVERLAP),
        ({"large_delay": 0.9, "haste": 0.5}, OVERLAP),  # there is less to save
        ({"p_accepted": 0.021}, RACE),
        ({"p_accepted": 0.019}, None),
        ({"p_accepted": 0.0, "untried": 14}, None),
        ({"p_accepted": 0.0, "untried": 15}, SERIAL),  # every sixteenth is tried
    ],
)
def test_the_rule_by_cases(seen, start):
    assert chosen(**seen) == start


@given(st.floats(0.02, 1.0), st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_a_fuller_engine_never_invites_an_earlier_agent(p_accepted, delay, more):
    fuller = chosen(p_accepted=p_accepted, large_delay=delay + more)
    assert not fuller.agent or chosen(p_accepted=p_accepted, large_delay=delay).agent


@given(shares, shares)
def test_the_budget_bounds_what_may_be_wasted(wasted, budget):
    assert chosen(budget, wasted=wasted).agent == (wasted <= budget)


def test_a_mean_forgets_its_guess_and_then_the_past():
    mean = Mean(0.5)
    for value in [1.0] * 200:
        mean.add(value)
    assert mean.value == pytest.approx(1.0, abs=0.01)
    for value in [0.0] * 50:
        mean.add(value)
    assert 0.1 < mean.value < 0.4


def test_a_line_tells_company_from_chance():
    crowded, calm = Line(), Line()
    assert crowded.delay(3) is None
    for n in range(60):
        crowded.add(n % 6, 2.0 * (1 + 0.5 * (n % 6)))
        calm.add(n % 6, 2.0 + 0.2 * (-1) ** n)
    assert crowded.delay(4) == pytest.approx(2.0, rel=0.35)
    assert calm.delay(4) < 0.15
    assert crowded.delay(0) == 0.0


def test_a_line_without_company_shows_no_delay():
    line = Line()
    for n in range(40):
        line.add(0, 1.0 + 0.3 * (n % 3))
    assert line.delay(5) == 0.0


async def answer(plans, policy, *, concurrency, prompt="paper", **limits):
    small, large = engines(plans, **limits)
    patience = {f"{name}_timeout_s": 1e6 for name in ("screen", "speculate", "fall_back")}
    screen = ScreenSpec(prompt=prompt)
    async with a_funnel(small, large, policy, screen=screen, **patience) as funnel:
        asked = [a_query(name) for name in plans]
        got = [one.answer async for one in funnel.answer_many(asked, concurrency=concurrency)]
    return sum(one.elapsed_s for one in got) / len(got), got


def mixed(count):
    kinds = [ACCEPTED, NEEDS_TOOL, ACCEPTED, REJECTED, ACCEPTED]
    return {f"q{n}": kinds[n % 5] for n in range(count)}


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize("concurrency", [1, 4, 32])
@pytest.mark.parametrize("plans", [mixed(240), {f"q{n}": NEEDS_TOOL for n in range(160)}])
async def test_adaptive_is_as_good_as_the_best_fixed_policy(plans, concurrency):
    fixed = [
        (await answer(plans, policy, concurrency=concurrency, max_batch=8))[0]
        for policy in (serial, overlap, race)
    ]
    mean_s, _ = await answer(plans, Adaptive(), concurrency=concurrency, max_batch=8)
    assert mean_s <= 1.03 * min(fixed)


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_an_all_hard_suite_costs_the_agent_alone():
    plans = {f"q{n}": NEEDS_TOOL for n in range(60)}
    mean_s, got = await answer(plans, Adaptive(), concurrency=1)
    assert 5.0 <= mean_s <= 5.0 + 1.0 / 16  # the screen's second, of every sixteenth
    # Speculation, which nothing is gained by, is left out before the screen is.
    assert sum("speculate" in one.phase_s for one in got) <= 5


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize(("prompt", "is_early"), [("shared", False), ("paper", True)])
async def test_an_agent_waits_for_a_screen_that_reads_its_prompt_for_it(prompt, is_early):
    plans = {f"q{n}": [ACCEPTED, NEEDS_TOOL, NEEDS_TOOL][n % 3] for n in range(60)}
    _, got = await answer(plans, Adaptive(), concurrency=1, prompt=prompt)
    hard_s = {one.elapsed_s for one in got if one.reason == "needs_tool"}
    assert hard_s == {5.0 if is_early else 1.0 + 5.0}


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize(("prompt", "haste"), [("paper", 3.0 / 2.0), ("shared", 2.0 / 1.0)])
async def test_a_race_is_reckoned_from_when_its_agent_may_begin(prompt, haste):
    # Beside the screen, which takes 1 s: answers that take 2 s and are accepted, 3 s and are not.
    plans = {
        f"q{n}": replace(REJECTED, small=replace(REJECTED.small, latency_s=3.0))
        if n % 2
        else ACCEPTED
        for n in range(40)
    }
    policy = Adaptive(waste_budget=0.0)  # no race, so that all of them are settled
    small, large = engines(plans)
    async with a_funnel(small, large, policy, screen=ScreenSpec(prompt=prompt)) as funnel:
        for name in plans:
            await funnel.answer(a_query(name))
        assert seen_by(policy, funnel).haste == pytest.approx(haste)


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_what_is_not_worth_it_is_left_out_until_it_is():
    hard = {f"hard{n}": NEEDS_TOOL for n in range(160)}
    easy = {f"easy{n}": ACCEPTED for n in range(120)}
    _, got = await answer(hard | easy, Adaptive(), concurrency=1)
    first, late, changed, last = got[:11], got[80:160], got[160:200], got[-80:]
    assert all(one.phase_s.get("screen") for one in first)
    assert got[11].reason == "not_worth_it"
    left_out = [one for one in late if one.reason == "not_worth_it"]
    assert len(left_out) == 75  # of 80: every sixteenth is tried
    assert all(list(one.phase_s) == ["fall_back"] for one in left_out)
    assert all(one.route == "agentic" for one in left_out)
    assert sum(one.reason == "accepted" for one in changed) > 10
    assert all(one.reason == "accepted" for one in last)


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_budget_of_nothing_lets_the_agent_wait():
    talks = scripted("answer large", separability=None, usage=Usage(100, 0, 50, 1))
    plans = {name: replace(plan, turns=(Take(talks, 5.0),)) for name, plan in mixed(60).items()}
    mean_s, got = await answer(plans, Adaptive(waste_budget=0.0), concurrency=1)
    raced = [one for one in got if one.reason == "accepted" and "fall_back" in one.phase_s]
    assert len(raced) == 1  # which showed what it costs
    assert mean_s <= (await answer(plans, overlap, concurrency=1))[0]


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_queries_that_fail_teach_nothing_and_are_counted_out():
    policy = Adaptive()
    small, large = engines(Plan(small=REJECTED.small, turns=turns("x", "x", "x", "x")))
    funnel = a_funnel(small, large, policy)
    assert [(await funnel.settle(a_query())).answer for _ in range(3)] == [None] * 3
    with anyio.move_on_after(0.5):
        await funnel.settle(a_query())
    assert seen_by(policy, funnel).queries == 0
    assert seen_by(policy, funnel).p_accepted == 0.5


def seen_by(policy, funnel):
    parts, rules = funnel.parts, funnel.rules
    passage = Passage(query=a_query(), sight=None, parts=parts, rules=rules, narrator=None)
    return policy.outlook(passage)


class Remote:
    """An engine elsewhere: it does not know its load, but who asks for it may be told."""

    name = "remote"

    def __init__(self, engine, load, *, after_s=0.0):
        self.generate = engine.generate
        self.load, self.after_s, self.asked = load, after_s, 0

    async def read(self):
        self.asked += 1
        await anyio.sleep(self.after_s)
        return self.load


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize("after_s", [0.0, math.inf])
async def test_a_server_is_asked_beside_a_query_and_not_by_every_one(after_s):
    small, engine = engines(Plan(turns=turns(CALL, "answer large", latency_s=0.1)))
    large = Remote(engine, Load(running=2, waiting=9), after_s=after_s)
    policy = Adaptive(probe=large)
    funnel = a_funnel(small, large, policy)
    started_s = anyio.current_time()
    for _ in range(20):
        await funnel.answer(a_query())
    lasted_s = anyio.current_time() - started_s
    assert lasted_s <= 20 * 2.0  # nobody waits for it
    assert 4 <= large.asked <= lasted_s / 0.5 + 1
    told = seen_by(policy, funnel).large_delay
    assert told >= 4.5 if after_s == 0.0 else told < 4.5


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_an_old_load_counts_for_nothing():
    small, engine = engines(ACCEPTED)
    large = Remote(engine, Load(running=1, waiting=50))
    policy = Adaptive(probe=large)
    funnel = a_funnel(small, large, policy)
    await funnel.answer(a_query())
    assert seen_by(policy, funnel).large_delay == 50.0
    await anyio.sleep(10.0)
    assert seen_by(policy, funnel).large_delay is None


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_one_engine_in_both_parts_is_counted_once():
    def script(request):
        kind = request.messages[0].parts[-1].text.partition("|")[0]
        return {"agent": turns("answer large")[0], "screen": Take(scripted_screen(0.1), 1.0)}.get(
            kind, ACCEPTED.small
        )

    both = ReplayEngine(script)
    policy = Adaptive()
    funnel = a_funnel(both, both, policy)
    await funnel.answer(a_query())
    assert len(policy._counters) == 1
