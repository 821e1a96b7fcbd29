"""DeepEyes on the wire: what is put to the model, how its replies are read, what goes back."""

import json
import re
import sys

import pytest

from speceyes.errors import PictureShapeError
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.tools.zoom import ZoomTool
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

SCENE = Picture(b"scene", "image/png", 672, 672)
SEEN = Picture(b"seen", "image/png", 112, 112)
CROP = Picture(b"crop", "image/png", 112, 112)
VIEWS = (View(SEEN, Box(0, 0, 672, 672)),)
QUERY = Query("Which shape?", (SCENE,), ("star", "ring"), query_id="q")
PROTOCOL = DeepEyes(min_px=112 * 112, max_px=112 * 112)
CALL = {
    "name": "image_zoom_in_tool",
    "arguments": {"bbox_2d": [26, 50, 42, 66], "label": "red object"},
}
CALLED = f"<think> I zoom. </think>\n<tool_call>\n{json.dumps(CALL)}\n</tool_call>"
ANSWERED = "<think> It is a star. </think>\n<answer>star</answer>"
BOX = Box(156, 300, 252, 396)


def call(**arguments):
    made = {"name": "image_zoom_in_tool", "arguments": arguments}
    return f"<tool_call>{json.dumps(made)}</tool_call>"


def boxed(*corners):
    return call(bbox_2d=list(corners))


def read(reply, protocol=PROTOCOL, views=VIEWS):
    return protocol.parse(reply, views)


def box_of(reply, **more):
    made = read(reply, **more)
    assert isinstance(made, ToolCall), made
    return made.arguments["box"]


def words(message):
    return "".join(part.text if isinstance(part, Text) else "<image>" for part in message.parts)


# --- what is put to the model


def test_the_tool_is_shown_as_the_chat_template_of_qwen_shows_tools():
    system, _ = PROTOCOL.opening(QUERY, VIEWS)
    text = words(system)
    assert system.role == "system"
    assert "\n\n# Tools\n\n" in text
    (schema,) = (json.loads(line) for line in re.findall(r"<tools>\n(.*)\n</tools>", text))
    function = schema["function"]
    assert list(schema) == ["type", "function"]
    assert list(function) == ["name", "description", "parameters"]
    assert function["name"] == "image_zoom_in_tool" == ZoomTool().name
    box, label = (function["parameters"]["properties"][name] for name in ("bbox_2d", "label"))
    assert (box["type"], box["items"], box["minItems"], box["maxItems"]) == (
        ("array", {"type": "number"}, 4, 4)
    )
    assert label["type"] == "string"
    assert function["parameters"]["required"] == ["bbox_2d"]
    assert '\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>' in text


def test_its_own_example_is_a_call_it_can_read():
    system, _ = PROTOCOL.opening(QUERY, VIEWS)
    example = "<tool_call>" + words(system).rpartition("<tool_call>")[2]
    assert box_of(example, views=(View(SCENE, Box(0, 0, 672, 672)),)) == Box(40, 60, 160, 220)


def test_the_user_turn_shows_the_picture_then_asks_then_says_how_to_answer():
    _, user = PROTOCOL.opening(QUERY, VIEWS)
    assert user.role == "user"
    assert user.parts[0] == Image(SEEN)
    text = user.parts[1].text
    assert text.startswith("Which shape?\n(A) star (B) ring\nThink first, ")
    tags = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>"]
    assert re.findall(r"</?\w+>", text) == tags


def test_the_bounds_are_those_of_the_release():
    release = DeepEyes()
    assert release.budget == Budget(max_turns=6, max_tokens_per_turn=512)
    assert release.stop == ("</tool_call>", "</answer>")
    assert release.view_size((1, 1)) == (56, 56)  # 4 * 28 * 28 px at least
    assert release.view_size((1920, 1080)) == (1932, 1092)
    assert release.view_size((8000, 6000)) == (4116, 3080)  # at most 16384 * 28 * 28 px


def test_one_fixed_area_is_kept_whatever_the_pictures_aspect():
    # Qwen's rule alone gives 112x84 here, which an engine with these bounds makes 140x112 of.
    assert PROTOCOL.view_size((672, 672)) == PROTOCOL.view_size((300, 200)) == (112, 112)
    assert PROTOCOL.view_size((4000, 1000)) == (224, 56)


def test_areas_between_which_no_size_lies_give_one_all_the_same():
    assert DeepEyes(min_px=1000, max_px=1001).view_size((300, 300)) == (28, 28)


def test_a_picture_that_no_view_can_show_is_refused():
    with pytest.raises(PictureShapeError, match="20000x20"):
        PROTOCOL.view_size((20_000, 20))


# --- answers


ANSWERS = {
    "as trained": (ANSWERED, "star"),
    "whitespace": ("<answer> star\n</answer>", "star"),
    "stop string stripped": ("<think>x</think><answer>star", "star"),
    "the last one": ("<answer>star</answer> <answer>ring</answer>", "ring"),
    "the last whole one": ("<answer>star</answer> <answer>", "star"),
    "opened twice": ("<answer>a <answer>star</answer>", "star"),
    "boxed": (r"<answer>\boxed{star}</answer>", "star"),
    "nested braces": (r"<answer>It is $\boxed{\text{a {b}}}$.</answer>", r"\text{a {b}}"),
    "brace left open": (r"<answer>\boxed{star</answer>", "star"),
    "named in the thought": (
        "<think>I shall write <answer>ring</answer>.</think><answer>star</answer>",
        "star",
    ),
    "not English": ("<answer>星</answer>", "星"),
}


@pytest.mark.parametrize(("reply", "answer"), ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_is_read(reply, answer):
    assert read(reply) == FinalAnswer(answer)


EMPTY = {
    "nothing": "",
    "whitespace": " \n",
    "an empty box": r"\boxed{}",
    "two empty ones": "</answer><answer>",
}


@pytest.mark.parametrize("inside", EMPTY.values(), ids=EMPTY.keys())
def test_an_empty_answer_is_malformed(inside):
    assert read(f"<answer>{inside}</answer>").reason == "empty_answer"


# --- calls


def test_a_call_as_trained_is_read():
    made = read(CALLED)
    assert made == ToolCall(
        "image_zoom_in_tool",
        {"box": BOX, "size": (112, 112), "label": "red object", "was_clipped": False},
        json.dumps(CALL),
    )


LIBERAL = {
    "no thought": CALLED.partition("\n")[2],
    "no newlines": CALLED.replace("\n", ""),
    "stop string stripped": CALLED.removesuffix("</tool_call>"),
    "text after the call": CALLED + " The crop shows a star.",
    "text after a call left open": CALLED.removesuffix("</tool_call>") + "I wait.",
    "code fence": CALLED.replace("<tool_call>\n", "<tool_call>\n```json\n").replace(
        "}\n<", "}\n```\n<"
    ),
    "function for name": CALLED.replace('"name"', '"function"'),
    "floats": CALLED.replace("26, 50", "26.0, 50.0"),
    "the schema's own slip": CALLED.replace("bbox_2d", "bbox"),
    "answer only thought of": CALLED.replace(
        "I zoom.", "I could say <answer>star</answer>, or look."
    ),
    "thought left open": CALLED.replace("</think>", ""),
    "bare": call(**CALL["arguments"]),
    "arguments quoted": json.dumps({**CALL, "arguments": json.dumps(CALL["arguments"])}).join(
        ["<tool_call>", "</tool_call>"]
    ),
}


@pytest.mark.parametrize("reply", LIBERAL.values(), ids=LIBERAL.keys())
def test_a_call_is_read_liberally(reply):
    assert box_of(reply) == BOX


LABELS = {
    "none": {},
    "a number": {"label": 7},
    "null": {"label": None},
    "a list": {"label": ["red"]},
}


@pytest.mark.parametrize("more", LABELS.values(), ids=LABELS.keys())
def test_a_label_is_optional(more):
    assert read(call(bbox_2d=[26, 50, 42, 66], **more)).arguments["label"] is None


def test_of_a_call_and_an_answer_the_first_counts():
    # A stop string would have ended the turn there, and what follows a call was said unseen.
    assert isinstance(read(CALLED + ANSWERED), ToolCall)
    assert isinstance(read(CALLED + "\n<answer>star</answer>"), ToolCall)
    assert read(ANSWERED + CALLED + "<answer>ring</answer>") == FinalAnswer("star")


def test_boxes_always_mean_the_first_picture():
    later = View(CROP, Box(0, 0, 28, 28))
    assert box_of(CALLED, views=(*VIEWS, later)) == BOX


def test_boxes_are_mapped_through_the_part_that_the_view_shows():
    half = View(SEEN, Box(336, 0, 672, 336, 2))
    assert box_of(CALLED, views=(half,)) == Box(414, 150, 462, 198, 2)


def test_boxes_that_do_not_fall_on_pixels_grow_to_whole_ones():
    views = (View(SEEN, Box(0, 0, 100, 100)),)
    assert box_of(boxed(20, 20, 90, 90), views=views) == Box(17, 17, 81, 81)


PARTLY_OUTSIDE = {
    "left": ((-5, 20, 40, 60), Box(0, 120, 240, 360)),
    "below and right": ((90, 90, 500, 500), Box(540, 540, 672, 672)),
    "all around": ((-1e9, -1e9, 1e9, 1e9), Box(0, 0, 672, 672)),
}


@pytest.mark.parametrize(("corners", "box"), PARTLY_OUTSIDE.values(), ids=PARTLY_OUTSIDE.keys())
def test_a_box_partly_outside_is_clipped_and_that_is_noted(corners, box):
    made = read(boxed(*corners))
    assert (made.arguments["box"], made.arguments["was_clipped"]) == (box, True)


# --- small and thin boxes


def test_the_built_in_boxes_are_not_enlarged():
    assert box_of(boxed(20, 20, 34, 34)).size == (84, 84)


def test_a_box_with_a_short_side_grows_about_its_centre_in_original_pixels():
    views = (View(SCENE, Box(0, 0, 672, 672)),)
    assert box_of(boxed(100, 200, 110, 300), views=views) == Box(91, 200, 119, 300)
    assert box_of(boxed(0, 640, 10, 672), views=views) == Box(0, 640, 28, 672)
    assert box_of(boxed(0, 0, 10, 10), protocol=DeepEyes(min_side_px=1), views=views).size == (
        (10, 10)
    )


def test_a_very_thin_box_grows_until_its_aspect_is_allowed():
    views = (View(Picture(b"wide", "image/png", 9000, 90), Box(0, 0, 9000, 90)),)
    assert box_of(boxed(0, 10, 9000, 20), views=views) == Box(0, 0, 9000, 90)
    assert box_of(boxed(0, 10, 5000, 12), views=views).size == (5000, 50)


def test_a_picture_smaller_than_the_shortest_side_is_shown_whole():
    views = (View(SEEN, Box(0, 0, 1, 1)),)
    assert box_of(boxed(3, 3, 4, 4), views=views) == Box(0, 0, 1, 1)


# --- what is malformed


MALFORMED = {
    "nothing at all": ("", "no_answer_no_call"),
    "plain words": ("The object is a star.", "no_answer_no_call"),
    "only a thought": ("<think>I give up.</think>", "no_answer_no_call"),
    "answer within the thought": ("<think><answer>star</answer></think> star", "no_answer_no_call"),
    "empty call": ("<tool_call></tool_call>", "bad_json"),
    "null": ("<tool_call>null</tool_call>", "bad_json"),
    "a list": ("<tool_call>[1, 2]</tool_call>", "bad_json"),
    "trailing comma": ('<tool_call>{"name": "image_zoom_in_tool",}</tool_call>', "bad_json"),
    "single quotes": ("<tool_call>{'name': 'image_zoom_in_tool'}", "bad_json"),
    "nested too deep": ("<tool_call>" + '{"a":' * 100_000 + "</tool_call>", "bad_json"),
    "a number too long": ('<tool_call>{"name": ' + "9" * 5000 + "}</tool_call>", "bad_json"),
    "cut off inside": ('<tool_call>{"name": "image_zoom_in_tool", "argu', "truncated"),
    "cut off at once": ("<tool_call>", "truncated"),
    "another tool": (CALLED.replace("image_zoom_in_tool", "rotate"), "unknown_tool"),
    "no name": ('<tool_call>{"arguments": {}}</tool_call>', "unknown_tool"),
    "name in a list": ('<tool_call>{"name": ["image_zoom_in_tool"]}</tool_call>', "unknown_tool"),
    "no arguments": ('<tool_call>{"name": "image_zoom_in_tool"}</tool_call>', "missing_argument"),
    "no box": (call(label="red"), "missing_argument"),
    "box null": (call(bbox_2d=None), "missing_argument"),
    "arguments a list": (
        '<tool_call>{"name": "image_zoom_in_tool", "arguments": [1]}</tool_call>',
        "bad_argument",
    ),
    "box a string": (call(bbox_2d="1 2 3 4"), "bad_argument"),
    "box an object": (call(bbox_2d={"x1": 1}), "bad_argument"),
    "three numbers": (boxed(1, 2, 3), "bad_argument"),
    "five numbers": (boxed(1, 2, 3, 4, 5), "bad_argument"),
    "strings": (boxed("1", "2", "30", "40"), "bad_argument"),
    "a boolean": (boxed(1, 2, 30, True), "bad_argument"),
    "a null": (boxed(1, 2, 30, None), "bad_argument"),
    "a nested list": (boxed(1, 2, 30, [4]), "bad_argument"),
    "NaN": (boxed(float("nan"), 2, 30, 40), "bad_argument"),
    "inf": (boxed(1, 2, float("inf"), 40), "bad_argument"),
    "-inf": (boxed(float("-inf"), 2, 30, 40), "bad_argument"),
    "beyond any float": (boxed(1, 2, 30, 10**400), "bad_argument"),
    "inverted in x": (boxed(30, 10, 10, 40), "bad_box"),
    "inverted in y": (boxed(10, 40, 30, 10), "bad_box"),
    "no width": (boxed(10, 10, 10, 40), "bad_box"),
    "no height": (boxed(10, 10, 40, 10), "bad_box"),
    "outside right": (boxed(112, 10, 140, 40), "bad_box"),
    "outside left": (boxed(-40, 10, 0, 40), "bad_box"),
    "outside below": (boxed(10, 500, 40, 600), "bad_box"),
    "outside above": (boxed(10, -9, 40, -1), "bad_box"),
}


@pytest.mark.parametrize(("reply", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_neither_an_answer_nor_a_call_is_malformed_with_its_reason(reply, reason):
    found = read(reply)
    assert isinstance(found, Malformed), found
    assert found.reason == reason
    assert 10 < len(found.detail) < 300


NESTED_IN = {
    "name": '{"name": %s}',
    "box": json.dumps(CALL).replace("[26, 50, 42, 66]", "%s"),
}


@pytest.mark.parametrize("put", NESTED_IN.values(), ids=NESTED_IN.keys())
def test_no_depth_of_nesting_is_an_exception(put):
    # Just below the depth at which reading fails, quoting what was read fails.
    for depth in range(sys.getrecursionlimit() - 150, sys.getrecursionlimit() + 50):
        nested = "[" * depth + "]" * depth
        assert isinstance(read(f"<tool_call>{put % nested}</tool_call>"), Malformed)


TOLD = {
    "outside": (
        boxed(200, 10, 300, 40),
        "[200, 10, 300, 40] is outside the image, which is 112x112",
    ),
    "inverted": (boxed(30, 10, 10, 40), "x1 < x2 and y1 < y2"),
    "tool": (
        CALLED.replace("image_zoom_in_tool", "rotate"),
        '"rotate"; there is image_zoom_in_tool',
    ),
    "no box": (call(label="red"), "bbox_2d is missing"),
    "strings": (boxed("1", "2", "30", "40"), "four numbers [x1, y1, x2, y2]"),
    "nothing": ("star", "<answer>"),
}


@pytest.mark.parametrize(("reply", "told"), TOLD.values(), ids=TOLD.keys())
def test_the_model_is_told_what_to_do_about_it(reply, told):
    assert told in read(reply).detail


# --- what goes back


def test_an_observation_is_a_user_turn_with_the_crop_and_the_instruction_again():
    before = PROTOCOL.opening(QUERY, VIEWS)
    seen = Observation(pictures=(CROP,), boxes_px=(BOX,))
    after = PROTOCOL.proceed(QUERY, before, reply=CALLED, outcome=seen)
    assert after[:2] == before
    assert after[2] == Message("assistant", (Text(CALLED),))
    assert after[3].role == "user"
    assert after[3].parts[:2] == (Text("<tool_response>"), Image(CROP))
    instruction = words(before[1]).rpartition("\n")[2]
    assert words(after[3]) == f"<tool_response><image>\n{instruction}</tool_response>"


def test_a_malformed_reply_stays_the_assistants_and_the_error_is_told_by_the_user():
    # Defect of the reference code: malformed JSON appended the user's prompt as an assistant turn.
    before = PROTOCOL.opening(QUERY, VIEWS)
    reply = '<think> hm </think> <tool_call>{"name": </tool_call> and so on'
    malformed = read(reply)
    after = PROTOCOL.proceed(QUERY, before, reply=reply, outcome=malformed)
    assert [message.role for message in after] == ["system", "user", "assistant", "user"]
    assert after[2].parts == (Text(reply),)
    assert words(after[3]).startswith(f"<tool_response>Error: {malformed.detail}\nThink first")
    assert words(after[3]).endswith("</tool_response>")


def test_what_a_tool_could_not_do_is_told_the_same_way():
    before = PROTOCOL.opening(QUERY, VIEWS)
    failed = Observation(text="half", error="that part cannot be shown")
    after = PROTOCOL.proceed(QUERY, before, reply=CALLED, outcome=failed)
    assert words(after[3]).startswith("<tool_response>Error: that part cannot be shown\n")


KEPT = {
    "imagined answer": (CALLED + "\n<answer>ring</answer>", CALLED),
    "stop string stripped": (CALLED.removesuffix("\n</tool_call>"), CALLED),
    "all but newline": (CALLED.removesuffix("</tool_call>"), CALLED),
    "thought of": (
        "<think>no <tool_call>, or?</think>" + CALLED,
        "<think>no <tool_call>, or?</think>" + CALLED,
    ),
    "none": ("no call at all", "no call at all"),
}


@pytest.mark.parametrize(("reply", "kept"), KEPT.values(), ids=KEPT.keys())
def test_only_what_was_said_up_to_the_call_goes_into_the_conversation(reply, kept):
    seen = Observation(pictures=(CROP,), boxes_px=(BOX,))
    after = PROTOCOL.proceed(QUERY, PROTOCOL.opening(QUERY, VIEWS), reply=reply, outcome=seen)
    assert after[2] == Message("assistant", (Text(kept),))


@pytest.mark.parametrize("has_zoomed", [False, True])
def test_on_the_last_turn_the_last_user_turn_asks_for_the_answer(has_zoomed):
    before = PROTOCOL.opening(QUERY, VIEWS)
    if has_zoomed:
        seen = Observation(pictures=(CROP,), boxes_px=(BOX,))
        before = PROTOCOL.proceed(QUERY, before, reply=CALLED, outcome=seen)
    after = PROTOCOL.force_answer(QUERY, before)
    assert after[:-1] == before[:-1]
    assert after[-1].role == "user"
    assert after[-1].parts[:-1] == before[-1].parts
    assert words(after[-1]).endswith(
        "\nThis is the last turn: call no tool, give your <answer>...</answer> now."
    )
