"""The HTTP engine on a server in this process: what it sends, what it makes of the reply."""

import base64
import json
from dataclasses import replace

import anyio
import numpy as np
import pytest
from PIL import Image as Pillow

from speceyes.errors import PictureTruncated
from speceyes.pictures import encode_png, open_picture
from speceyes.types import Image, Message, Picture, Text, Usage
from tests.http_asked import CALL, PHOTO, ZOOM, Asked, ask, generate, user, words
from tests.stub_server import Say, altered, entry, image_urls, say, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reply_becomes_a_generation(stream):
    got, server = await generate(words, stream=stream)
    assert (got.text, got.finish, got.stop_string) == ("a red disc", "stop", None)
    assert got.token_count == 3  # the end token, which the server tells and counts, is left out
    assert got.evidence.logp_topk.shape == (3, 8)
    assert got.evidence.logp_topk.dtype == np.float32
    assert [row[0] for row in got.evidence.candidates] == ["a", " red", " disc"]
    assert got.usage == Usage(50, 32, 4, 0)
    assert (got.engine, got.request_id) == (f"{server.url}#stub", "chatcmpl-1")


async def test_streaming_and_not_give_the_same():
    tool = {"name": "zoom", "arguments": '{"box": [1, 2]}'}
    calls = ({"id": "c1", "type": "function", "function": tool},)
    stopping = ask(stop=("sc",), top_logprobs=5)
    for script, request in [
        (words, ask(top_logprobs=8)),
        (words, ask()),
        (words, stopping),
        (words, ask(tokens=2, top_logprobs=3)),
        (lambda b: replace(words(b), usage=None), ask(top_logprobs=4)),
        (lambda b: replace(words(b), calls=calls, finish="tool_calls"), ask()),
        (lambda b: altered(words(b), lambda rows: rows[:-2]), ask(top_logprobs=4)),
    ]:
        streamed, _ = await generate(script, request, stream=True)
        whole, _ = await generate(script, request, stream=False)
        assert replace(streamed, engine="") == replace(whole, engine="")


async def test_a_request_is_worded_plainly():
    asked = ask(
        Message("system", (Text("Be "), Text("brief."))), user(PHOTO, "What?"), stop=("</a>",)
    )
    _, server = await generate(words, asked, stream=False)
    (body,) = server.bodies
    url = f"data:image/png;base64,{base64.b64encode(PHOTO.data).decode()}"
    assert body == {
        "model": "stub",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": url}},
                    {"type": "text", "text": "What?"},
                ],
            },
        ],
        "max_tokens": 16,
        "temperature": 0,
        "repetition_penalty": 1.0,
        "stop": ["</a>"],
    }


async def test_evidence_is_asked_for_and_a_final_message_is_continued():
    asked = ask(
        user("What?"),
        Message("assistant", (Text("It is"),)),
        top_logprobs=5,
        continue_final_message=True,
        tools=(ZOOM,),
    )
    _, server = await generate(words, asked, stream=True)
    (body,) = server.bodies
    assert (body["logprobs"], body["top_logprobs"]) == (True, 5)
    assert (body["add_generation_prompt"], body["continue_final_message"]) == (False, True)
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert body["tools"] == [json.loads(ZOOM)]
    assert body["messages"][-1] == {"role": "assistant", "content": "It is"}


async def test_a_picture_within_the_message_to_go_on_with_stays_in_its_place():
    looked = Message("assistant", (Text("I look. "), Image(PHOTO), Text("</sandbox_output>")))
    asked = ask(user("What?"), looked, continue_final_message=True)
    _, server = await generate(words, asked)
    (body,) = server.bodies
    said = body["messages"][-1]
    assert said["role"] == "assistant"
    assert [part["type"] for part in said["content"]] == ["text", "image_url", "text"]
    assert said["content"][-1]["text"] == "</sandbox_output>"
    assert (body["add_generation_prompt"], body["continue_final_message"]) == (False, True)


async def test_calls_go_out_natively_and_tools_answer_them_by_name():
    asked = ask(
        user("What?"),
        Message("assistant", (Text(f"Look.\n{CALL}\n{CALL}"),)),
        Message("tool", (Image(PHOTO), Text("seen"))),
        Message("tool", (Text("seen again"),)),
        Message("assistant", (Text("no call"),)),
        Message("tool", (Text("why?"),)),
        tools=(ZOOM,),
    )
    _, server = await generate(words, asked)
    _, said, seen, again, plain, stray = server.bodies[0]["messages"]
    function = {"name": "zoom", "arguments": '{"box": [1, 2]}'}
    assert said["content"] == "Look."
    assert said["tool_calls"] == [
        {"id": f"call0000{n}", "type": "function", "function": function} for n in (0, 1)
    ]
    assert [seen["tool_call_id"], again["tool_call_id"]] == ["call00000", "call00001"]
    assert plain == {"role": "assistant", "content": "no call"}
    assert stray["tool_call_id"] == "call00002"


async def test_without_tools_a_call_stays_the_text_it_is():
    asked = ask(user("?"), Message("assistant", (Text(CALL),)), user("seen"))
    _, server = await generate(words, asked)
    assert server.bodies[0]["messages"][1] == {"role": "assistant", "content": CALL}


async def test_native_calls_come_back_as_text():
    function = {"name": "zoom", "arguments": '{"box": [1, 2]}'}
    calls = ({"id": "c1", "type": "function", "function": function},)

    def script(body):
        return replace(say(body, ["Look."]), calls=calls, finish="tool_calls")

    got, _ = await generate(script, ask(tools=(ZOOM,), stop=("</tool_call>",)))
    assert (got.text, got.finish, got.stop_string) == (f"Look.\n{CALL}", "stop", "</tool_call>")


# What ended a reply. The server's say comes first, then its tokens, then tags left open.


def unsaid(body, text, finish="stop", **choice):
    return Say((text,), finish=finish, choice=choice)


@pytest.mark.parametrize(
    ("text", "choice", "stops", "want"),
    [
        ("<a>x", {"stop_reason": "</a>"}, ("</a>", "</b>"), "</a>"),
        ("<a>x", {"matched_stop": "</a>"}, ("</a>",), "</a>"),
        ("<a>x", {"matched_stop": 151645}, ("</a>",), None),
        ("<a>x", {"stop_reason": None}, ("</a>",), None),
        ("<a>x", {}, ("</a>", "</b>"), "</a>"),
        ("<a>x<b>y", {}, ("</a>", "</b>"), "</b>"),
        ("x", {}, ("</a>",), None),
        ("x", {}, ("END",), None),
        ("<a>x", {"stop_reason": "other"}, ("</a>",), None),
    ],
)
async def test_a_stripped_stop_string_is_put_back(text, choice, stops, want):
    got, _ = await generate(lambda b: unsaid(b, text, **choice), ask(stop=stops))
    assert (got.text, got.finish, got.stop_string) == (text + (want or ""), "stop", want)


async def test_a_stop_string_that_the_server_kept_or_ignored_ends_the_text():
    for text in ("<a>x</a>", "<a>x</a> and more</b>"):
        got, _ = await generate(lambda b, text=text: unsaid(b, text), ask(stop=("</b>", "</a>")))
        assert (got.text, got.stop_string) == ("<a>x</a>", "</a>")


async def test_the_tokens_tell_which_stop_string_was_stripped():
    def script(body):
        said = Say(("one",), tuple(entry(token, 4) for token in ("one", " EN", "D.")), choice={})
        return replace(said, usage={"prompt_tokens": 9, "completion_tokens": 3})

    got, _ = await generate(script, ask(stop=("STOP", " END"), top_logprobs=4))
    assert (got.text, got.stop_string) == ("one END", " END")
    assert got.token_count == len(got.evidence.logp_topk) == 3


async def test_a_limit_is_no_stop():
    got, _ = await generate(lambda b: unsaid(b, "<a>x", "length"), ask(stop=("</a>",)))
    assert (got.text, got.finish, got.stop_string) == ("<a>x", "length", None)


# Pictures.


async def test_a_plain_picture_goes_out_as_the_bytes_that_came():
    data = PHOTO.data + b"trailing bytes that no encoder writes"
    picture = open_picture(data)
    _, server = await generate(words, ask(user(picture, "?")))
    (url,) = image_urls(server.bodies[0])
    assert base64.b64decode(url.partition("base64,")[2]) == data


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
async def test_any_other_picture_is_encoded_once(image_format):
    import io

    buffer = io.BytesIO()
    Pillow.new("RGBA", (40, 30), (255, 0, 0, 128)).save(buffer, "PNG")
    picture = open_picture(buffer.getvalue())
    assert not picture.is_plain
    async with serving(words) as server, Asked(server, image_format=image_format) as engine:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(engine.generate, ask(user(picture, picture, "?")))
        assert engine._urls.made == 1
    urls = {url for body in server.bodies for url in image_urls(body)}
    (url,) = urls
    sent = open_picture(base64.b64decode(url.partition("base64,")[2]))
    assert (sent.is_plain, sent.size) == (True, (40, 30))
    assert url.startswith(f"data:image/{image_format};") == (sent.media_type in url)


async def test_a_damaged_picture_is_the_callers_and_harms_no_other_call():
    broken = Picture(PHOTO.data[:80], "image/png", 64, 48, is_plain=False)
    async with serving(words) as server, Asked(server) as engine:
        for _ in range(2):
            with pytest.raises(PictureTruncated):
                await engine.generate(ask(user(broken, "?")))
        await engine.generate(ask(user(PHOTO, "?")))
    assert len(server.bodies) == 1


async def test_pictures_are_kept_up_to_a_number_of_bytes():
    tones = [
        encode_png(Pillow.effect_noise((64, 64), tone).convert("RGB")) for tone in (10, 20, 30)
    ]
    room = 2 * max(len(one.data) for one in tones) * 4 // 3 + 200
    async with serving(words) as server, Asked(server, max_shelf_bytes=room) as engine:
        for picture in (*tones, *tones):
            await engine.generate(ask(user(picture, "?")))
        assert engine._urls._shelf.held_bytes <= room
        assert engine._urls.made == 6
