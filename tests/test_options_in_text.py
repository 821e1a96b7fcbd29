"""Whether options come apart, as in the laboratory, or in the text, as at a gateway: one result."""

from dataclasses import replace

import pytest

from speceyes import SpecEyes
from speceyes.bench.grade import grade
from speceyes.builtin.suite import draw_items
from speceyes.prompts import question_text

pytestmark = [pytest.mark.anyio, pytest.mark.local, pytest.mark.slow]

ITEMS = {item.query.query_id: item for item in draw_items(60, seed=6)}


async def test_the_built_in_pair_decides_alike_on_both():
    said = {}
    async with SpecEyes() as eyes:
        for in_text in (False, True):
            queries = [item.query for item in ITEMS.values()]
            if in_text:
                queries = [replace(q, question=question_text(q), options=()) for q in queries]
            said[in_text] = {
                one.query_id: (one.answer.text, one.answer.route)
                async for one in eyes.answer_many(queries, concurrency=4)
            }
    for in_text, answers in said.items():
        wrong = [
            name
            for name, (text, route) in answers.items()
            if route == "speculative"
            and not grade(text, ITEMS[name].answer, ITEMS[name].query.options).is_right
        ]
        print(f"options in the text: {in_text}; accepted and wrong: {len(wrong)} of {len(answers)}")
    assert said[True] == said[False]
