"""The built-in pair with a depth: what needed the agent is answered after a closer look."""

import pytest

pytest.importorskip("torch")

from speceyes import SpecEyes
from speceyes.bench.grade import grade
from speceyes.builtin.suite import draw_item
from speceyes.config import Settings
from speceyes.events import Looked

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.local]
HARD = [item for item in (draw_item(i, seed=8) for i in range(80)) if item.is_hard][:30]


async def settle(depth):
    truths = {item.query.query_id: item for item in HARD}
    async with SpecEyes(settings=Settings(depth=depth)) as eyes:
        found = [one async for one in eyes.answer_many([i.query for i in HARD], concurrency=4)]
    accepted = [one for one in found if one.answer.route == "speculative"]
    right = [
        one
        for one in accepted
        if grade(
            one.answer.text, (item := truths[one.query_id]).answer, item.query.options
        ).is_right
    ]
    return found, len(accepted), len(right)


async def test_hard_items_are_accepted_after_a_look_and_not_before():
    _, at_first_sight, _ = await settle(0)
    found, after_a_look, right = await settle(1)
    print(f"of {len(HARD)} hard items accepted: {at_first_sight}, {after_a_look} after a look")
    assert at_first_sight <= 3
    assert after_a_look >= 12
    assert right >= after_a_look - 1
    boxes = [e.box_px for one in found for e in one.trace if isinstance(e, Looked)]
    assert boxes
    assert all(box.size[0] <= 400 for box in boxes if box is not None)
