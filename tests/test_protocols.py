"""What sets each protocol apart, as its release has it; what they share is the contract's."""

import json
import re
from pathlib import Path

import pytest

from speceyes.errors import ConfigError
from speceyes.protocols import PROTOCOLS, make_protocol
from speceyes.protocols.chain_of_focus import ChainOfFocus
from speceyes.protocols.mini_o3 import MiniO3
from speceyes.protocols.pixel_reasoner import PixelReasoner
from speceyes.protocols.qwen3_5 import Qwen35
from speceyes.protocols.qwen3_vl import Qwen3VL
from speceyes.types import (
    Box,
    Budget,
    FinalAnswer,
    Image,
    Malformed,
    Message,
    Observation,
    Picture,
    Query,
    Text,
    ToolCall,
    View,
)
from tests.speakers import SPEAKERS, any_look, any_zoom, crop, ground, tagged, xml

SCENE = Picture(b"scene", "image/png", 1000, 500)
QUERY = Query("Which shape?", (SCENE,), ("star", "ring"), query_id="q")
WHOLE = Box(0, 0, 1000, 500)
CROP = Picture(b"crop", "image/png", 448, 224)
SEEN = Observation(pictures=(CROP,), boxes_px=(Box(0, 0, 100, 50),))
RELEASES = {
    # name: (budget, stops, tools shown by the template, view of 8000x6000, view of 1x1)
    "deepeyes": (Budget(6, 512), ("</tool_call>", "</answer>"), 0, (4116, 3080), (56, 56)),
    "chain-of-focus": (Budget(6, 512), ("</tool_call>", "</answer>"), 0, (4424, 3304), (112, 112)),
    "qwen3-vl": (Budget(12, 2048), ("</tool_call>",), 1, (4704, 3520), (256, 256)),
    "qwen3.5": (Budget(12, 4096), ("</tool_call>",), 1, (4704, 3520), (256, 256)),
    "mini-o3": (Budget(12, 2048), ("</grounding>",), 0, (1624, 1204), (224, 224)),
    "pixel-reasoner": (Budget(5, 2048), (), 0, (2296, 1708), (644, 644)),
    "thyme": (Budget(5, 2048), ("</code>", "</answer>"), 0, (4116, 3080), (56, 56)),
    "deepeyes-v2": (Budget(10, 2048), ("</code>", "</answer>"), 0, (4116, 3080), (56, 56)),
    "pyvision": (Budget(10, 2048), ("</code>", "</answer>"), 0, (4116, 3080), (56, 56)),
}


def views(protocol, *crops):
    first = View(Picture(b"seen", "image/png", *protocol.view_size(SCENE.size)), WHOLE)
    return (first, *(View(CROP, box) for box in crops))


def made(protocol, reply, *crops):
    call = protocol.parse(reply, views(protocol, *crops))
    assert isinstance(call, ToolCall), call
    return call.arguments


def words(message):
    return "".join(part.text if isinstance(part, Text) else "<image>" for part in message.parts)


def after(protocol, reply, outcome=SEEN):
    before = protocol.opening(QUERY, views(protocol))
    return protocol.proceed(QUERY, before, reply=reply, outcome=outcome)


@pytest.mark.parametrize(("name", "release"), RELEASES.items(), ids=RELEASES.keys())
def test_bounds_stops_and_tools_are_the_releases(name, release):
    protocol = make_protocol(name)
    assert (
        protocol.budget,
        protocol.stop,
        len(protocol.tools),
        protocol.view_size((8000, 6000)),
        protocol.view_size((1, 1)),
    ) == release


def test_every_protocol_is_held_to_its_release():
    assert set(RELEASES) == set(PROTOCOLS)


def test_an_unknown_protocol_is_told_the_choices():
    with pytest.raises(
        ConfigError, match=r"'qwen' is unknown; choose from deepeyes, chain-of"
    ) as e:
        make_protocol("qwen")
    assert e.value.field == "protocol"


def test_the_example_in_the_architecture_is_a_protocol():
    text = (Path(__file__).parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    code = re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]
    spoken: dict[str, type] = {}
    exec(compile(code, "ARCHITECTURE.md", "exec"), spoken)  # noqa: S102 - our own document
    protocol = spoken["Looker"]()
    seen = views(protocol)
    conversation = protocol.opening(QUERY, seen)
    assert words(conversation[1]) == "<image>Which shape?\n(A) star (B) ring\nThink first."
    reply = '<look>{"bbox_2d": [10, 20, 60, 90]}</look>'
    assert protocol.parse(reply, seen).arguments["box"] == Box(100, 100, 600, 450)
    assert protocol.parse("<look>{}</look>", seen).reason == "missing_argument"
    assert protocol.parse(tagged("star"), seen) == FinalAnswer("star")
    conversation = protocol.proceed(QUERY, conversation, reply=reply, outcome=SEEN)
    assert [words(message) for message in conversation[2:]] == [reply, "<image>"]
    assert words(protocol.force_answer(QUERY, conversation)[-1]) == "<image>\nAnswer now."


# --- schemas are an interface


SCHEMAS = {
    "deepeyes": ("image_zoom_in_tool", ["bbox_2d", "label"], ["bbox_2d"]),
    "chain-of-focus": ("image_zoom_in_tool", ["bbox_2d", "label"], ["bbox_2d"]),
    "pixel-reasoner": (
        "crop_image_normalized",
        ["bbox_2d", "target_image"],
        ["bbox_2d", "target_image"],
    ),
    "qwen3-vl": (
        "image_zoom_in_tool",
        ["bbox_2d", "label", "img_idx"],
        ["bbox_2d", "label", "img_idx"],
    ),
    "qwen3.5": (
        "image_zoom_in_tool",
        ["bbox_2d", "label", "img_idx"],
        ["bbox_2d", "label", "img_idx"],
    ),
}


@pytest.mark.parametrize(("name", "schema"), SCHEMAS.items(), ids=SCHEMAS.keys())
def test_the_tools_schema_is_the_releases(name, schema):
    protocol = make_protocol(name)
    system = words(protocol.opening(QUERY, views(protocol))[0])
    shown = re.findall(r"<tools>\n(.*)\n</tools>", system)
    (found,) = map(json.loads, protocol.tools or shown)
    assert bool(protocol.tools) != bool(shown)
    function = found["function"]
    called, properties, required = schema
    assert list(found) == ["type", "function"]
    assert list(function)[:3] == ["name", "description", "parameters"]
    assert function["name"] == called
    parameters = function["parameters"]
    assert (list(parameters["properties"]), parameters["required"]) == (properties, required)
    assert parameters["properties"]["bbox_2d"]["items"] == {"type": "number"}


# --- chain-of-focus


def test_cof_enlarges_the_box_by_half_and_the_crop_by_two():
    protocol = ChainOfFocus()
    assert views(protocol)[0].picture.size == (1008, 504)
    arguments = made(protocol, any_zoom(bbox_2d=[504, 252, 604, 352]))
    # 504..604 becomes 479..629 in the view of 1008x504, and 150 px of it are shown as 300.
    assert arguments["box"] == Box(475, 225, 625, 375)
    assert arguments["size"] == (308, 308)
    assert arguments["mistake"] is None


def test_cof_shows_the_whole_image_for_a_bad_box_and_says_why():
    protocol = ChainOfFocus()
    for kind, reply in SPEAKERS["chain-of-focus"].odd.items():
        if kind == "at an edge":
            continue
        arguments = made(protocol, reply)
        assert (arguments["box"], arguments["size"]) == (WHOLE, (2016, 1008))
        assert "bbox_2d" in arguments["mistake"]


def test_cof_answers_a_call_without_tags_and_asks_again():
    protocol = ChainOfFocus()
    *_, opening, said, told = after(protocol, any_zoom())
    assert words(opening).startswith("<image>Question: Which shape?\n(A) star (B) ring\n")
    instruction = words(opening).rpartition("\n")[2]
    assert (said.role, told.role) == ("assistant", "user")
    assert words(told) == f"<image>\n{instruction}"


# --- qwen3-vl and qwen3.5


def test_qwen_boxes_run_to_1000_whatever_the_shape():
    protocol = Qwen3VL()
    arguments = made(protocol, any_look(bbox_2d=[100, 200, 600, 900]))
    assert arguments["box"] == Box(100, 100, 600, 450)
    assert arguments["label"] == "it"


def test_qwen_crops_are_upscaled_to_256_cells_of_32():
    protocol = Qwen3VL()
    small = made(protocol, any_look(bbox_2d=[0, 0, 100, 200]))
    assert (small["box"].size, small["size"]) == ((100, 100), (512, 512))
    tiny = made(protocol, any_look(bbox_2d=[500, 500, 501, 501]))
    assert (tiny["box"].size, tiny["size"]) == ((32, 32), (512, 512))
    tight = Qwen3VL(crop_max_px=300 * 32 * 32)
    assert made(tight, any_look(bbox_2d=[0, 0, 1000, 1000]))["size"] == (768, 384)


def test_qwen_counts_images_from_0_crops_included():
    protocol = Qwen3VL()
    observed = Box(200, 100, 400, 200, 0)
    arguments = made(protocol, any_look(bbox_2d=[500, 0, 1000, 500], img_idx=1), observed)
    assert arguments["box"] == Box(300, 100, 400, 150)


def test_qwen_tools_answer_in_their_own_role_with_the_picture_alone():
    for protocol, reply in ((Qwen3VL(), any_look()), (Qwen35(), xml())):
        *_, said, told = after(protocol, reply)
        assert said == Message("assistant", (Text(reply),))
        assert told == Message("tool", (Image(CROP),))


def test_qwen_errors_are_the_tools_only_if_there_is_a_call_to_answer():
    wrong = Malformed("bad_box", "no such box")
    cases = {
        (Qwen3VL, any_look()): "tool",
        (Qwen3VL, any_look(bbox_2d=None)): "tool",
        (Qwen3VL, "<tool_call>{nonsense</tool_call>"): "user",
        (Qwen3VL, "no call"): "user",
        (Qwen35, xml()): "tool",
        (Qwen35, any_look()): "tool",
        (Qwen35, "<tool_call><parameter=label>it</parameter></tool_call>"): "user",
    }
    for (kind, reply), role in cases.items():
        *_, said, told = after(kind(), reply, wrong)
        assert (words(said), told) == (reply, Message(role, (Text("Error: no such box"),)))


def test_qwen_answers_as_it_stands_and_only_if_it_ended_there():
    for protocol in (Qwen3VL(), Qwen35()):
        seen = views(protocol)
        assert protocol.parse(" A star.\n", seen) == FinalAnswer("A star.", is_open=True)
        assert protocol.parse("Hm.\n</think>\n\nA star.", seen) == FinalAnswer(
            "A star.", is_open=True
        )
        assert protocol.parse("So: \\boxed{star}.", seen) == FinalAnswer("star", is_open=True)
        assert protocol.parse(tagged("star"), seen) == FinalAnswer("star")


def test_a_call_only_thought_of_is_no_call():
    for protocol, call in ((Qwen3VL(), any_look()), (Qwen35(), xml())):
        reply = f"I might {call}, or not.\n</think>\n\nstar"
        assert protocol.parse(reply, views(protocol)) == FinalAnswer("star", is_open=True)


def test_qwen35_takes_names_and_values_with_and_without_line_breaks():
    protocol = Qwen35()
    expected = made(protocol, xml(bbox_2d=[100, 200, 600, 900]))
    assert expected["box"] == Box(100, 100, 600, 450)
    assert made(protocol, xml(bbox_2d=[100, 200, 600, 900]).replace("\n", "")) == expected
    unclosed = xml(bbox_2d=[100, 200, 600, 900]).replace("</parameter>\n", "")
    assert made(protocol, unclosed) == expected
    assert made(protocol, any_look(bbox_2d=[100, 200, 600, 900])) == expected
    assert made(protocol, xml(label='a "red" <b>'))["label"] == 'a "red" <b>'
    assert made(protocol, xml(label="7"))["label"] == "7"  # words, though it could be JSON


# --- mini-o3


def test_mini_o3_grounds_in_shares_of_the_source():
    protocol = MiniO3()
    assert made(protocol, ground(bbox_2d=[0.1, 0.2, 0.6, 0.9]))["box"] == Box(100, 100, 600, 450)
    first, second = Box(200, 100, 400, 200), Box(300, 100, 400, 150)
    reply = ground(bbox_2d=[0.5, 0, 1, 0.5], source="observation_1")
    assert made(protocol, reply, first, second)["box"] == second
    reply = ground(bbox_2d=[0, 0, 1, 1], source="observation_2")
    assert made(protocol, reply, first, second)["box"] == second


def test_mini_o3_counts_observations_after_all_originals():
    protocol = MiniO3()
    pair = tuple(View(CROP, Box(0, 0, 100, 50, index)) for index in (0, 1))
    observed = View(CROP, Box(10, 10, 60, 35, 1))
    reply = ground(bbox_2d=[0, 0, 1, 1], source="observation_1")
    assert protocol.parse(reply, (*pair, observed)).arguments["box"] == observed.box_px
    assert isinstance(protocol.parse(reply, pair), Malformed)


def test_mini_o3_numbers_actions_from_0_and_only_what_was_shown_from_1():
    protocol = MiniO3()
    conversation = protocol.opening(QUERY, views(protocol))
    wrong = Malformed("bad_box", "no such box")
    told = []
    for outcome in (SEEN, wrong, SEEN):
        conversation = protocol.proceed(QUERY, conversation, reply=ground(), outcome=outcome)
        told.append(words(conversation[-1]).partition("\n")[0])
    assert told == [
        "After the above Action 0, here is the zoom-in image (Observation 1):",
        "Error: no such box",
        "After the above Action 2, here is the zoom-in image (Observation 2):",
    ]


def test_mini_o3_crops_keep_to_its_areas():
    protocol = MiniO3()
    width, height = made(protocol, ground(bbox_2d=[0, 0, 0.01, 0.01]))["size"]
    assert 40_000 <= width * height <= 2_000_000


# --- pixel-reasoner


def test_pixel_reasoner_pads_by_a_tenth_of_the_image():
    protocol = PixelReasoner()
    assert made(protocol, crop(bbox_2d=[0.4, 0.5, 0.5, 0.6]))["box"] == Box(300, 200, 600, 350)
    assert made(protocol, crop(bbox_2d=[0.0, 0.9, 0.5, 0.99]))["box"] == Box(0, 400, 600, 500)


def test_pixel_reasoner_reads_pixels_of_the_view_above_1():
    protocol = PixelReasoner(pad=0.0)
    seen = views(protocol)[0].picture.size
    assert seen != SCENE.size
    quarter = [round(side / 4) for side in seen]
    box = made(protocol, crop(bbox_2d=[0, 0, *quarter]))["box"]
    assert box == Box(0, 0, 250, 125)
    assert made(protocol, crop(bbox_2d=[0.5, 0.5, 1, 1]))["box"] == Box(500, 250, 1000, 500)


def test_pixel_reasoner_counts_images_from_1():
    protocol = PixelReasoner(pad=0.0)
    observed = Box(200, 100, 400, 200)
    reply = crop(bbox_2d=[0.5, 0, 0.99, 0.5], target_image=2)
    assert made(protocol, reply, observed)["box"] == Box(300, 100, 398, 150)


def test_pixel_reasoners_last_call_or_answer_counts():
    protocol = PixelReasoner()
    seen = views(protocol)
    first, last = crop(bbox_2d=[0, 0, 0.2, 0.2]), crop(bbox_2d=[0.7, 0.7, 0.9, 0.9])
    assert protocol.parse(f"{first}\n{last}", seen) == protocol.parse(last, seen)
    assert protocol.parse(f"{first}\nNo: \\boxed{{star}}", seen) == FinalAnswer("star")
    assert protocol.parse(f"\\boxed{{star}}? {last}", seen) == protocol.parse(last, seen)
    assert protocol.parse(r"\boxed{a \boxed{b} {c}", seen).text == "b"
    assert protocol.parse(r"\boxed{a {b}", seen) == FinalAnswer("a {b}", is_open=True)


def test_pixel_reasoner_tells_the_crops_size_and_its_own_kind_of_error():
    protocol = PixelReasoner()
    *_, told = after(protocol, crop())
    assert words(told) == "\nHere is the cropped image (Image Size: 448x224):<image>"
    *_, told = after(protocol, crop(), Malformed("bad_box", "no such box"))
    assert words(told) == "\nExecution Error: no such box"


# --- a release's own wording

TELLS_OF_FILES = ("thyme", "pyvision")  # their sizes are put to the model, whatever the words


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_releases_own_words_are_taken_as_they_are(name):
    protocol = make_protocol(
        name,
        system_prompt='Say <tool_call>{"a": {"b": 1}}</tool_call> or {so}.',
        user_prompt='{question} Of {options}?\nBox it: \\boxed{}, {{x}}, {"y": {"z": 1}}.',
    )
    system, user = protocol.opening(QUERY, views(protocol))
    assert words(system) == 'Say <tool_call>{"a": {"b": 1}}</tool_call> or {so}.'
    text = 'Which shape? Of (A) star (B) ring?\nBox it: \\boxed{}, {x}, {"y": {"z": 1}}.'
    assert text in words(user)
    assert words(user) == f"<image>{text}" or name in TELLS_OF_FILES


@pytest.mark.parametrize("name", ["deepeyes", "chain-of-focus"])
def test_what_follows_the_question_is_said_again_after_an_observation(name):
    protocol = make_protocol(name, user_prompt="Q: {question}\nThink, then {{act}}. ")
    *_, told = after(protocol, any_zoom())
    assert "Think, then {act}." in words(told)
    assert "Q:" not in words(told)
    assert "Which" not in words(told)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_without_a_place_of_their_own_options_come_with_the_question(name):
    protocol = make_protocol(name, user_prompt="<{question}>")
    *_, user = protocol.opening(QUERY, views(protocol))
    text = "<Which shape?\n(A) star (B) ring>"
    assert text in words(user)
    assert words(user) == f"<image>{text}" or name in TELLS_OF_FILES


@pytest.mark.parametrize("name", PROTOCOLS)
def test_an_empty_system_prompt_is_no_message(name):
    protocol = make_protocol(name, system_prompt="")
    assert [message.role for message in protocol.opening(QUERY, views(protocol))] == ["user"]


def test_braces_in_a_question_are_not_filled_in():
    query = Query("What is {options} or {x}?", (SCENE,), query_id="q")
    protocol = make_protocol("mini-o3", user_prompt="{question}|{options}")
    *_, user = protocol.opening(query, views(protocol))
    assert words(user) == "<image>What is {options} or {x}?|"


REFUSED = {
    "an unknown placeholder": ("{question} {image}", r"\{image\}.*there are \{question\}.* only"),
    "no question": ("Look at {options}", r"no \{question\}"),
    "a question in two braces": ("{{question}}", r"no \{question\}"),
    "nothing": ("", r"no \{question\}"),
}


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize(("template", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_a_user_prompt_that_cannot_be_filled_in_is_refused(name, template, told):
    with pytest.raises(ConfigError, match=told) as e:
        make_protocol(name, user_prompt=template)
    assert e.value.field == "user_prompt"
