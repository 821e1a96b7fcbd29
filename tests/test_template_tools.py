"""Tools by way of the chat template: the model is shown what the protocol gives the engine."""

import json
import shutil

import pytest

from speceyes.engines.rendering import APART, Renderer
from speceyes.errors import EngineProtocolError, InputError
from speceyes.protocols import make_protocol
from speceyes.types import (
    Box,
    GenerateRequest,
    Message,
    Observation,
    Query,
    Text,
    View,
)
from tests.speakers import SPEAKERS
from tests.tiny_checkpoints import checkpoint_folder, loaded, noise, opened

pytestmark = [pytest.mark.local]

# As Qwen's templates do: tools in the system's turn, what a tool says in a user's.
TEMPLATE = """\
{%- macro shown(content) -%}
{%- for part in content -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text -}}
{%- endfor -%}
{%- endmacro -%}
{%- if tools -%}
{{- '<|im_start|>system\\n' -}}
{%- for tool in tools -%}{{- tool | tojson + '\\n' -}}{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<|im_start|>user\\n<tool_response>\\n' + shown(message.content) + '\\n</tool_response>' -}}
{%- else -%}
{{- '<|im_start|>' + message.role + '\\n' + shown(message.content) -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
SCHEMA = json.dumps({"type": "function", "function": {"name": "zoom", "parameters": {}}})
PICTURE, CROP = noise((64, 48), seed=1), noise((32, 32), seed=2)


@pytest.fixture
def folder(tmp_path):
    """Copy a tiny checkpoint, and give it a template that shows tools."""
    copied = shutil.copytree(checkpoint_folder("qwen3_vl"), tmp_path / "tiny")
    (copied / "chat_template.jinja").write_text(TEMPLATE)
    return copied


def renderer(folder):
    return Renderer(
        loaded(folder).tokenizer, special=["<|im_start|>", "<|im_end|>"], apart=APART, engine="tiny"
    )


def a_story(name):
    """Let a model of that protocol zoom once."""
    protocol, speaker = make_protocol(name), SPEAKERS[name]
    whole = Box(0, 0, *PICTURE.size)
    conversation = protocol.opening(
        Query("Which?", (PICTURE,), query_id="q"), (View(PICTURE, whole),)
    )
    seen = Observation(pictures=(CROP,), boxes_px=(whole,))
    conversation = protocol.proceed(None, conversation, reply=speaker.quarter(), outcome=seen)
    return protocol, speaker, conversation


@pytest.mark.parametrize("name", ["qwen3-vl", "qwen3.5"])
def test_the_template_shows_the_tool_and_what_it_brought(folder, name):
    protocol, speaker, conversation = a_story(name)
    request = GenerateRequest(conversation, max_tokens=5, tools=protocol.tools)
    rendered = renderer(folder).render(request).replace(APART, "")
    first, *_ = rendered.splitlines()[1:]
    assert json.loads(first) == json.loads(protocol.tools[0])
    assert rendered.endswith(
        f"<|im_start|>assistant\n{speaker.quarter()}<|im_end|>\n<|im_start|>user\n<tool_response>\n"
        "<|vision_start|><|image_pad|><|vision_end|>\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_without_tools_nothing_is_shown_of_them(folder):
    request = GenerateRequest((Message("user", (Text("Which?"),)),), max_tokens=5)
    assert "zoom" not in renderer(folder).render(request)


def test_a_template_that_shows_no_tools_is_refused():
    request = GenerateRequest((Message("user", (Text("zoom?"),)),), max_tokens=5, tools=(SCHEMA,))
    with pytest.raises(EngineProtocolError, match="shows no tools"):
        renderer(checkpoint_folder("qwen3_vl")).render(request)


BAD_SCHEMAS = {
    "not JSON": "{zoom}",
    "no object": "[1]",
    "nested too deep": '{"a":' * 100_000,
}


@pytest.mark.parametrize("schema", BAD_SCHEMAS.values(), ids=BAD_SCHEMAS.keys())
def test_a_tool_that_is_no_json_object_is_the_callers_fault(folder, schema):
    request = GenerateRequest((Message("user", (Text("?"),)),), max_tokens=5, tools=(schema,))
    with pytest.raises(InputError) as caught:
        renderer(folder).render(request)
    assert caught.value.field == "tools"


@pytest.mark.anyio
async def test_the_local_engine_answers_with_tools_and_a_tools_turn(folder):
    messages = (
        Message("user", (Text("?"),)),
        Message("assistant", (Text("<tool_call>x</tool_call>"),)),
        Message("tool", (Text("seen"),)),
    )
    plain = GenerateRequest(messages, max_tokens=4)
    async with opened(folder) as engine:
        without = await engine.generate(plain)
        answer = await engine.generate(GenerateRequest(messages, max_tokens=4, tools=(SCHEMA,)))
    assert answer.token_count == 4
    assert answer.usage.prompt_tokens > without.usage.prompt_tokens + 20


@pytest.mark.parametrize("ending", ["", "\n", "\n</tool_call>", " Then I see"])
def test_a_call_in_the_conversation_can_be_sent_in_the_servers_own_form(ending):
    # However the engine or the model ended it, what stands there reads as one native call.
    hermes = pytest.importorskip("speceyes.engines.wire.hermes")
    protocol, speaker, _ = a_story("qwen3-vl")
    reply = speaker.quarter().removesuffix("\n</tool_call>")
    reply += ending if ending.strip() != "Then I see" else "\n</tool_call>" + ending
    before = (Message("user", (Text("?"),)),)
    said = protocol.proceed(None, before, reply=reply, outcome=Observation("seen"))[1]
    words, calls = hermes.unfold_calls(said.parts[0].text)
    assert (words, [call.name for call in calls]) == ("I look closer.", ["image_zoom_in_tool"])
    assert json.loads(calls[0].arguments)["img_idx"] == 0
