"""The gateway before a real vLLM, heard by the openai SDK and curl: in the method, and past it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest
from openai import BadRequestError, OpenAI

from speceyes.builtin.pair import BUILTIN
from speceyes.builtin.scenes import VIEW_PX
from speceyes.specs import gate_to_toml
from tests.e2e.gateway_transcript import body_of, questions
from tests.e2e.vllm_server import Pair
from tests.gateway_process import Process, serving

pytestmark = [pytest.mark.e2e, pytest.mark.local, pytest.mark.timeout(900)]

USAGE = {"include_usage": True}
MANY_TOKENS = 3000  # far more than there is time for before the client leaves


@pytest.fixture(scope="module")
def gateway(vllm_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("gateway")
    served = replace(BUILTIN.gate, small_model="small", large_model="large")  # by these names
    (folder / "gate.toml").write_text(gate_to_toml(served))
    screen = "\n".join(
        f"{name} = {json.dumps(value)}"
        for name, value in asdict(BUILTIN.screen).items()
        if value is not None
    )
    (folder / "speceyes.toml").write_text(f"""
gate = "gate.toml"
small = {{ engine = "{vllm_pair.small.base_url}#{vllm_pair.small.name}" }}
large = {{ engine = "{vllm_pair.large.base_url}#{vllm_pair.large.name}" }}
settings = {{ min_view_px = {VIEW_PX**2}, max_view_px = {VIEW_PX**2} }}
[screen]
{screen}
""")
    with serving(folder, "--config", str(folder / "speceyes.toml")) as process:
        yield process


@pytest.fixture(scope="module")
def client(gateway: Process) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.mark.parametrize(
    ("route", "model"), [("speculative", "small"), ("agentic", "large")], ids=["small", "large"]
)
def test_both_ways_through_the_funnel_are_heard_whole_and_streamed(
    client: OpenAI, route: str, model: str
):
    asked = body_of(questions()[route])
    said = client.chat.completions.create(**asked)
    assert (said.model, said.speceyes["route"]) == (model, route)
    assert said.choices[0].message.content in (questions()[route].options or ("yes", "no"))
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options=USAGE))
    told = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert told == said.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == said.usage.completion_tokens


def test_curl_hears_a_stream_to_its_end(gateway: Process):
    asked = body_of(questions()["agentic"]) | {"stream": True}
    words = ["curl", "--silent", "--data-binary", "@-", f"{gateway.url}/v1/chat/completions"]
    done = subprocess.run(words, input=json.dumps(asked).encode(), capture_output=True, check=True)
    assert done.stdout.endswith(b"data: [DONE]\n\n")
    assert b"reasoning_content" in done.stdout


def test_what_is_past_the_method_is_vllms_own_reply(client: OpenAI):
    asked = {"model": "speceyes", "messages": [{"role": "user", "content": "Say yes."}]}
    raw = client.chat.completions.with_raw_response.create(
        **asked, max_tokens=3, logprobs=True, top_logprobs=2, n=2, temperature=0.5
    )
    assert raw.headers["x-speceyes-route"] == "bypass"
    said = raw.parse()
    assert (said.model, len(said.choices)) == ("large", 2)
    assert len(said.choices[0].logprobs.content[0].top_logprobs) == 2
    chunks = list(client.chat.completions.create(**asked, max_tokens=3, stream=True))
    assert chunks[-1].choices[0].finish_reason in {"stop", "length"}


def test_what_vllm_refuses_is_vllms_own_refusal(client: OpenAI):
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(
            model="speceyes",
            messages=[{"role": "user", "content": "Say yes."}],
            logprobs=True,
            top_logprobs=5000,
        )
    assert caught.value.response.headers["x-speceyes-route"] == "bypass"


def test_a_later_turn_asks_about_the_earlier_ones_picture(client: OpenAI):
    asked = body_of(questions()["speculative"])
    asked["messages"] += [
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": asked["messages"][0]["content"][1]["text"]},
    ]
    said = client.chat.completions.create(**asked)
    assert said.speceyes["route"] in {"speculative", "agentic"}
    assert said.choices[0].message.content


def test_a_client_that_leaves_ends_what_vllm_does_for_it(client: OpenAI, vllm_pair: Pair):
    running, said = "vllm:num_requests_running", "vllm:generation_tokens_total"
    before = vllm_pair.large.read_metric(said)
    stream = client.chat.completions.create(
        model="speceyes",
        messages=[{"role": "user", "content": "Go on and on."}],
        max_tokens=MANY_TOKENS,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    assert vllm_pair.large.read_metric(running) == 1
    stream.close()
    until_s = time.monotonic() + 10
    while vllm_pair.large.read_metric(running) and time.monotonic() < until_s:
        time.sleep(0.1)
    assert vllm_pair.large.read_metric(running) == 0
    assert vllm_pair.large.read_metric(said) - before < MANY_TOKENS
