"""The HTTP engine on a server in this process: what it sends, what it makes of the reply."""

import base64
import gc
import json
from dataclasses import replace

import anyio
import anyio.to_thread
import numpy as np
import pytest
from PIL import Image as Pillow

from speceyes.engines.http import HttpEngine, HttpSettings, ServedModel
from speceyes.engines.wire.terms import Learnt
from speceyes.errors import ConfigError, EngineUnavailable, PictureTruncated
from speceyes.pictures import encode_png, open_picture
from speceyes.types import GenerateRequest, Image, Message, Picture, Text, Usage
from tests.stub_server import Raw, Say, altered, entry, image_urls, refusal, say, serving

pytestmark = pytest.mark.anyio

PHOTO = encode_png(Pillow.linear_gradient("L").resize((64, 48)).convert("RGB"))
ZOOM = json.dumps({"type": "function", "function": {"name": "zoom", "parameters": {}}})
CALL = '<tool_call>\n{"name": "zoom", "arguments": {"box": [1, 2]}}\n</tool_call>'


@pytest.fixture
def anyio_backend():
    return "asyncio"


def user(*parts):
    return Message("user", tuple(Text(p) if isinstance(p, str) else Image(p) for p in parts))


def ask(*messages, tokens=16, **more):
    return GenerateRequest(messages or (user("What is it?"),), tokens, **more)


def words(body):
    return say(body, ["a", " red", " disc"])


class Asked:
    """An engine on a stub, for one test."""

    def __init__(self, server, **settings):
        more = {name: settings.pop(name) for name in ("key", "key_env") if name in settings}
        model = settings.pop("model", "stub")
        settings = HttpSettings(**({"backoff_s": 0.001} | settings))
        self.engine = HttpEngine(server.url, model=model, settings=settings, **more)

    async def __aenter__(self):
        return self.engine

    async def __aexit__(self, *_):
        await self.engine.aclose()


async def generate(script, request=None, **settings):
    async with serving(script) as server, Asked(server, **settings) as engine:
        return await engine.generate(request or ask(top_logprobs=8)), server


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


async def test_a_server_that_cannot_read_calls_is_asked_for_the_raw_text():
    def script(body):
        if body.get("tool_choice") == "auto":
            return refusal(400, '"auto" tool choice requires --enable-auto-tool-choice')
        return say(body, ["Look."])

    async with serving(script) as server, Asked(server) as engine:
        for _ in range(2):
            await engine.generate(ask(tools=(ZOOM,)))
    assert [body["tool_choice"] for body in server.bodies] == ["auto", "none", "none"]
    assert all(body["tools"] for body in server.bodies)


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


# Screening: the choices are imposed only where there are no log-probabilities.


def blind(body):
    return replace(say(body, ["no"]), entries=())


SCREEN = ask(tokens=1, top_logprobs=5, choices=("yes", "no"))


async def test_choices_are_not_imposed_on_a_server_with_evidence():
    async with serving(words) as server, Asked(server) as engine:
        for _ in range(2):
            await engine.generate(SCREEN)
    assert all("structured_outputs" not in body for body in server.bodies)


async def test_choices_are_imposed_once_a_reply_had_no_evidence():
    async with serving(blind) as server, Asked(server) as engine:
        got = [await engine.generate(SCREEN) for _ in range(2)]
        await engine.generate(replace(SCREEN, choices=()))
        server.script = words
        for _ in range(2):
            await engine.generate(SCREEN)
    imposed = [body.get("structured_outputs") for body in server.bodies]
    assert [one.evidence for one in got] == [None, None]
    assert imposed == [None, {"choice": ["yes", "no"]}, None, {"choice": ["yes", "no"]}, None]


async def test_a_server_that_refuses_log_probabilities_is_held_to_the_choices():
    def script(body):
        if "logprobs" in body:
            return refusal(400, "unknown field", param="top_logprobs")
        if "structured_outputs" in body and server.refuses_choice:
            return refusal(422, "extra inputs are not permitted")
        return say(body, ["no"])

    async with serving(script) as server, Asked(server) as engine:
        server.refuses_choice = False
        first = await engine.generate(SCREEN)
        assert "structured_outputs" in server.bodies[1]
        await engine.generate(SCREEN)
        assert len(server.bodies) == 3  # learnt: asked once
        server.refuses_choice = True
        assert (await engine.generate(SCREEN)).text == first.text == "no"
        await engine.generate(SCREEN)
    kinds = [("logprobs" in body, "structured_outputs" in body) for body in server.bodies]
    assert kinds == [(True, False), *[(False, True)] * 3, *[(False, False)] * 2]


async def test_a_server_with_a_cap_gives_the_least_that_is_content():
    def script(body):
        if body.get("top_logprobs", 0) > 20:
            return refusal(400, "Requested sample logprobs of 64, greater than max allowed: 20")
        return say(body, ["a"])

    many = ask(top_logprobs=64)
    async with serving(script) as server, Asked(server, least_top_logprobs=20) as engine:
        got = [await engine.generate(many) for _ in range(2)]
        small = await engine.generate(ask(top_logprobs=12))
    assert [body["top_logprobs"] for body in server.bodies] == [64, 20, 20, 12]
    assert [len(one.evidence.logp_topk[0]) for one in (*got, small)] == [20, 20, 12]
    got, _ = await generate(script, many)
    assert got.evidence is None


async def test_a_cap_told_within_a_stream_is_a_cap_all_the_same():
    told = {"error": {"message": "Requested sample logprobs of 96, max allowed: 64", "code": 400}}

    def script(body):
        if body["top_logprobs"] > 64:
            line = f"data: {json.dumps(told)}\n\ndata: [DONE]\n\n"
            return Raw(content_type="text/event-stream", pieces=(line.encode(),))
        return say(body, ["a"])

    async with serving(script) as server, Asked(server, least_top_logprobs=12) as engine:
        got = await engine.generate(ask(top_logprobs=96))
    assert [body["top_logprobs"] for body in server.bodies] == [96, 12]
    assert len(got.evidence.logp_topk[0]) == 12


async def test_a_server_without_the_penalty_setting_is_asked_without():
    def script(body):
        return (
            refusal(400, "Unrecognized argument") if "repetition_penalty" in body else words(body)
        )

    async with serving(script) as server, Asked(server) as engine:
        for _ in range(2):
            await engine.generate(ask())
    assert ["repetition_penalty" in body for body in server.bodies] == [True, False, False]


async def test_nothing_is_learnt_from_what_stays_refused():
    async with serving(lambda b: refusal(400, "bad request")) as server, Asked(server) as engine:
        with pytest.raises(Exception, match="bad request"):
            await engine.generate(replace(SCREEN, tools=(ZOOM,)))
        assert engine._learnt == Learnt()


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


# Who is asked.


async def test_nothing_is_opened_before_first_use():
    engine = HttpEngine("http://127.0.0.1:1/v1", model=None)
    assert engine.name == "http://127.0.0.1:1/v1"
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(EngineUnavailable, match="is closed"):
        await engine.generate(ask())


async def test_the_first_model_is_looked_up_once():
    models = ({"id": "first", "max_model_len": 512}, {"id": "second"})
    async with serving(words, models=models) as server, Asked(server, model=None) as engine:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(engine.generate, ask())
        assert await engine.served_models() == (
            ServedModel("first", 512),
            ServedModel("second", None),
        )
    assert (server.lookups, {body["model"] for body in server.bodies}) == (2, {"first"})


async def test_the_key_is_sent_and_never_shown():
    script = lambda body: refusal(401, "Incorrect API key provided: sk-top-secret")  # noqa: E731
    async with serving(script) as server, Asked(server, key="sk-top-secret\n") as engine:
        with pytest.raises(EngineUnavailable, match=r"key.*\*\*\*") as caught:
            await engine.generate(ask())
        shown = [repr(engine), str(engine), engine.name, repr(vars(engine)), str(caught.value)]
    assert server.headers[0]["Authorization"] == "Bearer sk-top-secret"
    assert not [text for text in shown if "sk-top-secret" in text]


@pytest.mark.parametrize(
    "base_url", ["", "127.0.0.1:1/v1", "ftp://h/v1", "http://", "http://h/v1?k=1", "http://h:x/v1"]
)
def test_what_is_no_address_is_refused(base_url):
    with pytest.raises(ConfigError, match="base_url"):
        HttpEngine(base_url, model=None)


def test_a_secret_in_the_address_is_refused_and_not_shown():
    with pytest.raises(ConfigError) as caught:
        HttpEngine("http://me:hush@h/v1", model=None)
    assert "hush" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        HttpEngine("http://h/v1", model=None, key="hu\nsh")
    assert "sh" not in str(caught.value).split(":")[1].replace("has", "")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"connect_timeout_s": 0}, "http.connect_timeout_s"),
        ({"total_timeout_s": float("inf")}, "http.total_timeout_s"),
        ({"backoff_s": -1}, "http.backoff_s"),
        ({"max_attempts": 0}, "http.max_attempts"),
        ({"image_format": "gif"}, "http.image_format"),
        ({"least_top_logprobs": 0}, "http.least_top_logprobs"),
        ({"tool_choice": "maybe"}, "http.tool_choice"),
    ],
)
def test_a_setting_that_cannot_work_names_its_field(settings, field):
    with pytest.raises(ConfigError) as caught:
        HttpSettings(**settings)
    assert caught.value.field == field


async def test_a_tool_that_is_no_json_is_the_callers_fault():
    async with serving(words) as server, Asked(server) as engine:
        with pytest.raises(ConfigError, match="tools"):
            await engine.generate(ask(tools=("zoom",)))


# Connections.


async def test_one_connection_serves_call_after_call():
    async with serving(words) as server:
        for stream in (True, False):
            async with Asked(server, stream=stream) as engine:
                for _ in range(5):
                    await engine.generate(ask())
                assert server.connections == 1
            await server.until(lambda server: not server.connections)


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelling_a_call_is_seen_by_the_server(stream):
    slow = lambda body: say(body, ["word "] * 500, token_s=0.01)  # noqa: E731
    async with serving(slow) as server, Asked(server, stream=stream) as engine:
        with anyio.move_on_after(0.15) as scope:
            await engine.generate(ask(tokens=500))
        assert scope.cancelled_caught
        await server.until(lambda server: not server.in_flight)
        assert (server.disconnects, server.finished) == (1, 0)
        server.script = words
        assert (await engine.generate(ask())).text == "a red disc"


async def test_no_more_calls_are_under_way_than_allowed():
    slow = lambda body: say(body, ["a"], token_s=0.01)  # noqa: E731
    async with serving(slow) as server, Asked(server, max_connections=3) as engine:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(engine.generate, ask())
        assert (server.max_in_flight, server.finished) == (3, 20)
        assert server.connections <= 3


async def test_closing_ends_the_calls_under_way():
    slow = lambda body: say(body, ["word "] * 500, token_s=0.01)  # noqa: E731
    errors = []

    async def call(engine):
        try:
            await engine.generate(ask(tokens=500))
        except EngineUnavailable as error:
            errors.append(str(error))

    async with serving(slow) as server, Asked(server) as engine:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, engine)
                await anyio.sleep(0.1)
                await engine.aclose()
    assert "closed" in errors[0]
    gc.collect()  # an unclosed connection would warn here, and warnings are errors


def test_on_trio_it_says_what_it_runs_on():
    engine = HttpEngine("http://127.0.0.1:1/v1", model="m")
    with pytest.raises(EngineUnavailable, match="asyncio"):
        anyio.run(engine.generate, ask(), backend="trio")


async def test_it_stays_with_its_event_loop():
    async with serving(words) as server, Asked(server) as engine:
        await engine.generate(ask())
        with pytest.raises(EngineUnavailable, match="event loop"):
            await anyio.to_thread.run_sync(anyio.run, engine.generate, ask())
        await engine.generate(ask())
