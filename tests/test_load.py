"""How busy an engine is: read from metrics, and known of an engine at hand."""

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.engines.replay import ReplayEngine, Take, scripted
from speceyes.engines.wire.prometheus import read_load
from speceyes.load import Busy, Load, Probed
from tests.stand_ins import engines

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b} c"} 3.0
vllm:num_requests_running{engine="1",model_name="a b} c"} 2.0 1700000000000
vllm:num_requests_waiting{engine="0",model_name="a b} c"} 4.0
vllm:num_requests_waiting{engine="1",model_name="a b} c"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
vllm:e2e_request_latency_seconds_bucket{le="+Inf"} 12.0
"""


@pytest.mark.parametrize(
    ("text", "load"),
    [
        (VLLM, Load(running=5, waiting=4)),
        ("sglang:num_running_reqs 7\nsglang:num_queue_reqs 1e1\n", Load(running=7, waiting=10)),
        ("vllm:num_requests_running 1\n", None),
        ("vllm:num_requests_running 1\nvllm:num_requests_waiting NaN\n", None),
        ("vllm:num_requests_running 1\nvllm:num_requests_waiting -2\n", None),
        ("vllm:num_requests_running\nvllm:num_requests_waiting x\n", None),
        ("", None),
        ("<html>", None),
    ],
)
def test_a_load_is_read_from_metrics(text, load):
    assert read_load(text) == load


@given(st.text() | st.text(alphabet="vllm:num_requests_waiting{} 1.\n"))
def test_metrics_of_any_kind_can_be_read(text):
    assert read_load(text) is None or isinstance(read_load(text), Load)


def test_a_queue_is_told_per_seat():
    assert Load(running=4, waiting=2).queue_per_seat == 0.5
    assert Load(running=0, waiting=2).queue_per_seat == 2.0


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_replay_engine_knows_its_load():
    engine = ReplayEngine(lambda _: Take(scripted("x"), 1.0), max_batch=2)
    assert isinstance(engine, Busy)
    assert not isinstance(engine, Probed)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(engine.generate, None)
        await anyio.sleep(0.5)
        assert engine.present_load == Load(running=2, waiting=3)
    assert engine.present_load == Load(running=0, waiting=0)
    small, _ = engines(None)
    assert small.present_load == Load(running=0, waiting=0)
