"""Every known defect of the reference code, and a test for each that it is not here.

The rest is held elsewhere under the same name, `test_defect_...`: the options of V* with the
suites, the grader's article with the grades, code and its variables with the python tool, the
key-value cache between turns over a real vLLM.
"""

import json
from collections import Counter
from dataclasses import replace

import pytest

from speceyes.bench.comparison import compare
from speceyes.bench.folder import open_folder, read_run
from speceyes.bench.grade import grade
from speceyes.bench.manifest import to_json
from speceyes.bench.suites.choice import option_order
from speceyes.engine_names import parse_engine
from speceyes.engines.replay import ReplayEngine, Take, scripted
from speceyes.errors import EngineUnavailable
from speceyes.events import ToolFinished, TurnFinished
from speceyes.pictures import DecodedPictures, open_picture
from speceyes.policies.fixed import agent_only
from speceyes.types import Box
from tests.scripted_pair import ListSuite, ScriptedPair, funnel, keep, manifest, run, tiny_items

pytestmark = pytest.mark.anyio


async def test_defect_a_batch_that_raises_is_not_dropped_and_counts_as_wrong():
    items = tiny_items(6)
    pair = ScriptedPair(items)
    pair.large = ReplayEngine(lambda _: Take(EngineUnavailable("large", "oom")), name="large")
    done = await run(items, pair=pair, methods=("baseline",), concurrency=6)
    figures = compare([done])[0].summary.overall.figures["agent alone"]
    assert (figures.accuracy.count, figures.failed, figures.accuracy.value) == (6, 6, 0.0)


def test_defect_the_right_option_of_vstar_does_not_always_stand_first():
    firsts = Counter(option_order(f"vstar-{n}", 4, seed=0).index(0) for n in range(400))
    assert set(firsts) == {0, 1, 2, 3}
    assert max(firsts.values()) < 2 * min(firsts.values())


def test_defect_an_answer_of_a_is_not_found_in_b_a_dog():
    graded = grade("B. A dog", "A cat", ("A cat", "A dog"))
    assert not graded.is_right
    assert graded.answer == "A dog"


async def test_defect_time_and_tokens_are_attributed_to_each_phase_of_each_query():
    done = await run(tiny_items(12), methods=("speceyes",), pace=0.02)
    screened = [r for r in done.records if r.speculation is not None]
    rejected = [r for r in screened if not r.speculation.accepted]
    assert rejected
    for record in done.records:
        assert record.phase_s["screen"] > 0.0
        assert record.usage_by_phase["screen"].prompt_tokens > 0
    for record in rejected:  # work that came to nothing is counted all the same
        assert record.phase_s["speculate"] > 0.0
        assert record.usage_by_phase["speculate"].completion_tokens > 0


async def test_defect_a_malformed_call_is_answered_by_the_user_and_never_put_in_the_models_mouth():
    (item,) = tiny_items(1)
    pair = ScriptedPair([item])
    bad, good = "<tool_call>{oops</tool_call>", "<answer>star</answer>"
    left = [bad, good]
    pair.large = ReplayEngine(
        lambda _: Take(scripted(left.pop(0), separability=None)), name="large"
    )
    async with funnel(pair, agent_only) as eyes:
        outcome = await eyes.settle(item.query)
    said = [m for m in pair.large.calls[1].request.messages if m.role == "assistant"]
    assert [part.text for message in said for part in message.parts] == [bad]
    assert pair.large.calls[1].request.messages[-1].role == "user"
    told = next(event for event in outcome.trace if isinstance(event, ToolFinished))
    assert told.observation.error


async def test_defect_a_crash_does_not_lose_what_was_answered(tmp_path):
    class Crash(BaseException):
        pass

    items = tiny_items(30)

    class Crashing:
        def begins(self, *_, **__):
            pass

        def __init__(self):
            self.count = 0

        def saw(self, record):
            self.count += 1
            if self.count == 17:
                raise Crash

    with pytest.raises(BaseException), open_folder(tmp_path, manifest(ListSuite(items))) as folder:  # noqa: B017, PT011 - the backend may wrap it
        await keep(folder, items, watcher=Crashing(), warm_up=[])
    assert len(read_run(tmp_path).records) == 17


def test_defect_settings_are_written_down_and_not_read_out_of_file_names(tmp_path):
    asked = manifest(ListSuite(tiny_items(1)))
    folder = tmp_path / "deepeyes_min_0.99_K64"
    with open_folder(folder, asked):
        pass
    assert read_run(folder).manifest.gate == asked.gate
    assert json.loads(to_json(asked))["gate"]["threshold"] == asked.gate.threshold


def test_defect_no_model_class_hangs_on_a_part_of_its_path():
    names = ("local:/models/Qwen3-VL", "local:/models/other")
    one, two = (parse_engine(name, role="small") for name in names)
    assert type(one) is type(two)


async def test_defect_the_agents_loop_of_one_query_overlaps_with_others():
    items = [replace(item, is_hard=True) for item in tiny_items(12)]
    pair = ScriptedPair(items, pace=0.05)
    await run(items, pair=pair, methods=("speceyes",), concurrency=6)
    assert pair.large.max_in_flight == 6


async def test_defect_a_picture_goes_out_as_the_bytes_that_came_in():
    picture = tiny_items(1)[0].query.pictures[0]
    whole = DecodedPictures((picture,)).cut(Box(0, 0, *picture.size), picture.size)
    assert whole.data is picture.data
    assert open_picture(picture.data).data == picture.data


async def test_defect_a_bad_reply_costs_a_turn_and_not_the_query():
    (item,) = tiny_items(1)
    pair = ScriptedPair([item])
    left = ["nothing of use", "<answer>star</answer>"]
    pair.large = ReplayEngine(
        lambda _: Take(scripted(left.pop(0), separability=None)), name="large"
    )
    async with funnel(pair, agent_only) as eyes:
        outcome = await eyes.settle(item.query)
    assert sum(isinstance(event, TurnFinished) for event in outcome.trace) == 2
    assert outcome.answer.text == "star"
