"""A library's shadow in SpecEyes or over a slow funnel, and a gate made of what it observed."""

import random
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace

from speceyes import Query, Shadow, ShadowSettings, SpecEyes
from speceyes.bench.calibrating import Wish, calibrate
from speceyes.bench.shadows import read_shadows
from speceyes.policies.fixed import serial
from tests.shadow_plans import AGREES, AT_ONCE
from tests.stand_in_pair import GATE, RING, SURE, says, small_says
from tests.stand_ins import a_funnel, a_picture, an_agent, engines

AUDIT = ShadowSettings(mode="audit", share=1.0, max_loss=0.05)
OBSERVE = ShadowSettings(mode="observe")
WISH = Wish(max_loss=0.1, by="agreement", made_at="2026-01-02T03:04:05+00:00", version="0.1.0")


def eyes_with(shadow, small=SURE, large=None, **more):
    large = large or says(RING)
    return SpecEyes(small=small_says(small), large=large, gate=GATE, shadow=shadow, **more)


@asynccontextmanager
async def slow(settings, plan=AGREES, *, policy=serial, **engine):
    """Open a shadow over a funnel whose engines take their time, and hear of all it answers."""
    small, large = engines(plan, **engine)
    shadow = Shadow(settings, draw=random.Random(1).random)
    told = Counter()
    shadow.tell = lambda outcome, usage: told.update([outcome])
    funnel = a_funnel(small, large, policy, parts={"agent": an_agent(large)})
    async with shadow.overheard(funnel, prompts={}) as overheard, shadow:
        yield shadow, overheard, told


def query(question="which?"):
    return Query(question, (a_picture(),), query_id=question)


async def observed(path, *, count=60, every=20, name="seen.jsonl", **more):
    """Observe queries, of which one in so many the small model answers wrongly and less sure."""
    file = path / name
    settings = replace(OBSERVE, file=str(file), **more)
    async with slow(settings, AT_ONCE) as (shadow, funnel, _):
        for place in range(count):
            await funnel.answer(
                replace(query("easy" if place % every else "slice"), query_id=f"{name}{place}")
            )
            await shadow.drain()
    return file


async def certified(path, **more):
    return calibrate([read_shadows(await observed(path, **more))], WISH)
