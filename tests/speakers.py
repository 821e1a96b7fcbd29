"""How the models of each protocol speak: good calls, answers, and every way to get them wrong.

One entry of `SPEAKERS` per registered protocol. The contract suite and the golden transcripts run
over them, so a new protocol is tested by adding its speaker.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from speceyes.protocols import make_protocol
from speceyes.types import ToolProtocol

Corners = tuple[float, float, float, float]  # shares of the view's width and height


@dataclass(frozen=True)
class Speaker:
    """A protocol's model: how it calls for a part of view `index`, and how it answers.

    `bad` are malformed replies by name, each with its reason; `odd` are calls that are made all
    the same. `nests` if it can zoom into what a
    zoom brought. `scale` is how much a box is enlarged about its centre, `pad` what is then added
    on each side, as a share of the view; `step` to how fine a share of a side boxes are written.
    `writes_code`: its calls are Python, with no box to be read; `goes_on`: it is told in its own
    turn, which then goes on.
    """

    name: str
    call: Callable[[Corners, tuple[int, int], int], str]
    answer: Callable[[str], str]
    bad: Mapping[str, tuple[str, str]] = field(repr=False)  # one of them is very long
    odd: Mapping[str, str] = field(repr=False)
    nests: bool = False
    scale: float = 1.0
    pad: float = 0.0
    step: float | None = None  # None: whole pixels of the view
    writes_code: bool = False
    goes_on: bool = False

    @property
    def protocol(self) -> ToolProtocol:
        return make_protocol(self.name)

    def quarter(self, size: tuple[int, int] = (168, 168), index: int = 0) -> str:
        """Call for a quarter of each side, up and left of the middle."""
        return self.call((0.25, 0.25, 0.5, 0.5), size, index)

    def shown(self, corners: Corners) -> Corners:
        """Say which part of the view a call for some part brings."""
        more = [
            self.pad + (corners[axis + 2] - corners[axis]) * (self.scale - 1) / 2 for axis in (0, 1)
        ]
        low = [max(0.0, corners[axis] - more[axis]) for axis in (0, 1)]
        high = [min(1.0, corners[axis + 2] + more[axis]) for axis in (0, 1)]
        return (*low, *high)


def pixels(corners: Corners, size: tuple[int, int]) -> list[int]:
    return [round(share * size[axis % 2]) for axis, share in enumerate(corners)]


def hermes(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def zoom(**arguments: object) -> str:
    return hermes("image_zoom_in_tool", **arguments)


def thinking(said: str) -> str:
    return f"<think> I look. </think>\n{said}"


def tagged(text: str) -> str:
    return f"<think> I know. </think>\n<answer>{text}</answer>"


# --- in pixels: deepeyes, chain-of-focus

UNTAGGED = {
    "nothing at all": ("", "no_answer_no_call"),
    "plain words": ("It is a star.", "no_answer_no_call"),
    "only a thought": ("<think>I give up.</think>", "no_answer_no_call"),
}
EMPTY = {"empty answer": ("<answer> </answer>", "empty_answer")}
BAD_JSON = {
    "empty call": ("<tool_call></tool_call>", "bad_json"),
    "trailing comma": ('<tool_call>{"name": "image_zoom_in_tool",}</tool_call>', "bad_json"),
    "nested too deep": ("<tool_call>" + '{"a":' * 100_000 + "</tool_call>", "bad_json"),
    "cut off inside": ('<tool_call>{"name": "image_zoom_in_tool", "argu', "truncated"),
}


def bad_calls(call: Callable[..., str]) -> dict[str, tuple[str, str]]:
    """Give what is wrong with arguments; `call` makes a call of any box, or of other arguments."""
    return {
        "another tool": (call(name="rotate"), "unknown_tool"),
        "no box": (call(bbox_2d=None), "missing_argument"),
    }


def bad_boxes(call: Callable[..., str], far: float) -> dict[str, tuple[str, str]]:
    """Give boxes that are none; `far` is beyond any view."""
    return {
        "box a string": (call(bbox_2d="1 2 3 4"), "bad_argument"),
        "three numbers": (call(bbox_2d=[1, 2, 3]), "bad_argument"),
        "a boolean": (call(bbox_2d=[0, 0, 1, True]), "bad_argument"),
        "NaN": (call(bbox_2d=[0, 0, 1, float("nan")]), "bad_argument"),
        "beyond any float": (call(bbox_2d=[0, 0, 1, 10**400]), "bad_argument"),
        "inverted": (call(bbox_2d=[0.7, 0.2, 0.3, 0.6]), "bad_box"),
        "no area": (call(bbox_2d=[0.3, 0.2, 0.3, 0.6]), "bad_box"),
        "outside": (call(bbox_2d=[far, 0, 2 * far, 0.6]), "bad_box"),
    }


def any_zoom(name="image_zoom_in_tool", **arguments):
    made = {"bbox_2d": [10, 10, 40, 40], **arguments}
    return hermes(name, **{key: value for key, value in made.items() if value is not None})


DEEPEYES = Speaker(
    "deepeyes",
    lambda corners, size, _: thinking(zoom(bbox_2d=pixels(corners, size), label="the middle")),
    tagged,
    {
        **UNTAGGED,
        **EMPTY,
        **BAD_JSON,
        **bad_calls(any_zoom),
        **bad_boxes(any_zoom, far=1e6),
        "answer only thought of": ("<think><answer>star</answer></think>", "no_answer_no_call"),
    },
    {
        "without its closing tag": any_zoom().removesuffix("</tool_call>"),
        "partly outside": any_zoom(bbox_2d=[-20, 10, 40, 60.5]),
        "very small": any_zoom(bbox_2d=[80, 80, 81, 81]),
        "answered in the same breath": any_zoom() + "\n<answer>star</answer>",
    },
)

CHAIN_OF_FOCUS = Speaker(
    "chain-of-focus",
    DEEPEYES.call,
    tagged,
    {**UNTAGGED, **EMPTY, **BAD_JSON, **bad_calls(any_zoom)},
    {  # a bad box brings the whole image
        "partly outside": any_zoom(bbox_2d=[-20, 10, 40, 60]),
        "at an edge": any_zoom(bbox_2d=[0, 0, 60, 40]),
        **{kind: reply for kind, (reply, _) in bad_boxes(any_zoom, far=1e6).items()},
    },
    scale=1.5,
)

# --- from 0 to 1000: qwen3-vl, qwen3.5


def thousandths(corners: Corners) -> list[int]:
    return [round(1000 * share) for share in corners]


def any_look(name="image_zoom_in_tool", **arguments):
    made = {"bbox_2d": [100, 100, 400, 400], "label": "it", "img_idx": 0, **arguments}
    return hermes(name, **{key: value for key, value in made.items() if value is not None})


def bad_looks(call: Callable[..., str]) -> dict[str, tuple[str, str]]:
    return {
        **bad_calls(call),
        **bad_boxes(call, far=1e6),
        "no label": (call(label=None), "missing_argument"),
        "no index": (call(img_idx=None), "missing_argument"),
        "an image not seen": (call(img_idx=2), "bad_argument"),
        "a negative index": (call(img_idx=-1), "bad_argument"),
        "half an index": (call(img_idx=0.5), "bad_argument"),
        "an infinite index": (call(img_idx=float("inf")), "bad_argument"),
    }


SAYS_NOTHING = {
    "nothing at all": ("", "no_answer_no_call"),
    "only a thought": ("<think>I give up.</think>\n", "no_answer_no_call"),
    "a thought without end": ("<think>I wonder", "no_answer_no_call"),
}

QWEN3_VL = Speaker(
    "qwen3-vl",
    lambda corners, _, index: (
        "I look closer.\n" + zoom(bbox_2d=thousandths(corners), label="it", img_idx=index)
    ),
    lambda text: text,
    {**SAYS_NOTHING, **EMPTY, **BAD_JSON, **bad_looks(any_look)},
    {
        "without its closing tag": any_look().removesuffix("</tool_call>"),
        "partly outside": any_look(bbox_2d=[-20, 10, 1200, 600]),
        "very small": any_look(bbox_2d=[500, 500, 501, 501]),
        "an index with a point": any_look(img_idx=1.0),
        "after a thought that the template opened": "So I think.\n</think>\n\n" + any_look(),
        "two at once": any_look() + "\n" + any_look(img_idx=1),
    },
    nests=True,
    step=0.001,
)


def xml(name="image_zoom_in_tool", **arguments):
    made = {"bbox_2d": [100, 100, 400, 400], "label": "it", "img_idx": 0, **arguments}
    lines = [
        f"<parameter={key}>\n{value if isinstance(value, str) else json.dumps(value)}\n</parameter>"
        for key, value in made.items()
        if value is not None
    ]
    inside = "\n".join([f"<function={name}>", *lines, "</function>"])
    return f"<tool_call>\n{inside}\n</tool_call>"


QWEN3_5 = Speaker(
    "qwen3.5",
    lambda corners, _, index: (
        "I think so.\n</think>\n\n" + xml(bbox_2d=thousandths(corners), img_idx=index)
    ),
    lambda text: f"I think so.\n</think>\n\n{text}",
    {
        **SAYS_NOTHING,
        **EMPTY,
        **bad_looks(xml),
        "empty call": ("<tool_call></tool_call>", "bad_json"),
        "bad JSON inside": ('<tool_call>{"name": "image_zoom_in_tool",}</tool_call>', "bad_json"),
        "no function": ("<tool_call><parameter=label>it</parameter></tool_call>", "bad_json"),
        "no arguments": (
            "<tool_call><function=image_zoom_in_tool></function></tool_call>",
            "missing_argument",
        ),
        "cut off inside": (
            "<tool_call><function=image_zoom_in_tool><parameter=bbox_2d>[1",
            "truncated",
        ),
    },
    {
        "in JSON, as a server's tool parser gives it": any_look(),
        "on one line": xml().replace("\n", ""),
        "without its closing tags": xml().removesuffix("\n</parameter>\n</function>\n</tool_call>")
        + "</tool_call>",
        "partly outside": xml(bbox_2d=[-20, 10, 1200, 600]),
    },
    nests=True,
    step=0.001,
)

# --- from 0 to 1: mini-o3, pixel-reasoner


def shares(corners: Corners) -> list[float]:
    return [round(share, 4) for share in corners]


def ground(**arguments):
    made = {"bbox_2d": [0.1, 0.1, 0.4, 0.4], "source": "original_image", **arguments}
    kept = {key: value for key, value in made.items() if value is not None}
    return f"<grounding>{json.dumps(kept)}</grounding>"


MINI_O3 = Speaker(
    "mini-o3",
    lambda corners, _, index: thinking(
        ground(
            bbox_2d=shares(corners),
            # The tests' queries have two originals, of which it can name the first.
            source=f"observation_{index - 1}" if index else "original_image",
        )
    ),
    tagged,
    {
        **UNTAGGED,
        **EMPTY,
        "empty call": ("<grounding></grounding>", "bad_json"),
        "trailing comma": ('<grounding>{"bbox_2d": [0, 0, 1, 1],}</grounding>', "bad_json"),
        "cut off inside": ('<grounding>{"bbox_2d": [0.1, ', "truncated"),
        "no box": (ground(bbox_2d=None), "missing_argument"),
        **bad_boxes(ground, far=3.0),
        "no source": (ground(source=None), "missing_argument"),
        "an observation to come": (ground(source="observation_1"), "bad_argument"),
        "observation zero": (ground(source="observation_0"), "bad_argument"),
        "an observation of endless number": (
            ground(source="observation_" + "9" * 5000),
            "bad_argument",
        ),
        "a source in a list": (ground(source=["original_image"]), "bad_argument"),
    },
    {
        "without its closing tag": ground().removesuffix("</grounding>"),
        "partly outside": ground(bbox_2d=[-0.1, 0.5, 0.5, 1.5]),
        "very small": ground(bbox_2d=[0.5, 0.5, 0.50001, 0.50001]),
    },
    nests=True,
    step=0.0001,
)


def crop(name="crop_image_normalized", **arguments):
    made = {"bbox_2d": [0.1, 0.1, 0.4, 0.4], "target_image": 1, **arguments}
    return hermes(name, **{key: value for key, value in made.items() if value is not None})


PIXEL_REASONER = Speaker(
    "pixel-reasoner",
    lambda corners, _, index: (
        "Let me look closer.\n\n" + crop(bbox_2d=shares(corners), target_image=index + 1)
    ),
    lambda text: f"So it is.\n\n\\boxed{{{text}}}",
    {
        "nothing at all": ("", "no_answer_no_call"),
        "plain words": ("It is a star.", "no_answer_no_call"),
        "an empty box": ("\\boxed{ }", "empty_answer"),
        "empty call": ("<tool_call></tool_call>", "bad_json"),
        "cut off inside": ('<tool_call>{"name": "crop_image_normalized", "argu', "truncated"),
        **bad_calls(crop),
        **bad_boxes(crop, far=1e6),
        "frames of a video": (hermes("select_frames", target_frames=[1]), "unknown_tool"),
        "no target": (crop(target_image=None), "missing_argument"),
        "target zero": (crop(target_image=0), "bad_argument"),
        "an image not seen": (crop(target_image=3), "bad_argument"),
    },
    {
        "without its closing tag": crop().removesuffix("</tool_call>"),
        "in pixels": crop(bbox_2d=[100, 100, 300, 200]),
        "at the image's edge": crop(bbox_2d=[0.5, 0.5, 1.0, 1.0]),
        "twice: the last one counts": crop() + "\n" + crop(target_image=2),
        "after an answer": "\\boxed{star} Or not?\n" + crop(),
    },
    nests=True,
    pad=0.1,
    step=0.0001,
)

# --- in Python: thyme, deepeyes-v2, pyvision


def fenced(code: str) -> str:
    return f"<code>\n```python\n{code}\n```\n</code>"


BAD_CODE = {
    "no code": ("<code></code>", "missing_argument"),
    "only a fence": ("<code>\n```python\n```\n</code>", "missing_argument"),
    "an open fence": ("<code>```</code>", "missing_argument"),
    "code cut off": ("<code>\n```python\nimage = Image.op", "truncated"),
    "code in a fence alone": ("```python\nprint(1)\n```", "no_answer_no_call"),
    "a call of another protocol": (any_zoom(), "no_answer_no_call"),
}
ODD_CODE = {
    "without its closing tag": fenced("print(1)").removesuffix("</code>"),
    "without a fence": "<code>print(1)</code>",
    "in a fence without a name": "<code>\n```\nprint(1)\n```\n</code>",
    "indented": fenced("    print(1)\n    print(2)"),
    "that holds tags": fenced('print("<answer>star</answer>")'),
    "and the output imagined": fenced("print(1)") + "<sandbox_output>1</sandbox_output>",
    "answered in the same breath": fenced("print(1)") + "\n<answer>star</answer>",
    "two at once": fenced("print(1)") + "\n" + fenced("print(2)"),
}


def cropping(corners: Corners, opened: str, shown: str) -> str:
    left, top, right, bottom = corners
    box = f"({left} * w, {top} * h, {right} * w, {bottom} * h)"
    return fenced(f"{opened}\nw, h = image.size\ncrop = image.crop({box})\n{shown}")


THYME = Speaker(
    "thyme",
    lambda corners, _, index: (
        "<think>I look closer.\n"
        + cropping(
            corners,
            f'image = Image.open("/mnt/data/user_images/image_{index + 1}.png")',
            'path = "/mnt/data/temp_processed_images/crop.png"\ncrop.save(path)\nprint(path)',
        )
    ),
    lambda text: f"\nSo it is.</think>\n<answer>{text}</answer>",
    {
        **UNTAGGED,
        **EMPTY,
        **BAD_CODE,
    },
    {
        **ODD_CODE,
        "in a thought": "<think>I count.\n" + fenced("print(1)") + "</think>",
        "after a thought": thinking(fenced("print(1)")),
    },
    writes_code=True,
    goes_on=True,
)

DEEPEYES_V2 = Speaker(
    "deepeyes-v2",
    lambda corners, _, index: thinking(
        cropping(corners, f"image = image_{index + 1}", "plt.imshow(crop)\nplt.show()")
    ),
    tagged,
    {
        **UNTAGGED,
        **EMPTY,
        **BAD_CODE,
        "code only thought of": (f"<think>{fenced('1')}</think>", "no_answer_no_call"),
    },
    {**ODD_CODE, "after a thought of code": f"<think>I write <code>.</think>{fenced('print(1)')}"},
    writes_code=True,
)

PYVISION = Speaker(
    "pyvision",
    lambda corners, _, index: (
        "I look closer.\n\n"
        + cropping(corners, f"image = image_clue_{index}", "plt.imshow(crop)\nplt.show()")
    ),
    lambda text: f"So it is.\n\n<answer>\n\\boxed{{{text}}}\n</answer>",
    {
        "nothing at all": ("", "no_answer_no_call"),
        "plain words": ("It is a star.", "no_answer_no_call"),
        **EMPTY,
        "an empty box": ("<answer>\\boxed{}</answer>", "empty_answer"),
        **BAD_CODE,
    },
    ODD_CODE,
    writes_code=True,
)

SPEAKERS = {
    speaker.name: speaker
    for speaker in (
        DEEPEYES,
        CHAIN_OF_FOCUS,
        QWEN3_VL,
        QWEN3_5,
        MINI_O3,
        PIXEL_REASONER,
        THYME,
        DEEPEYES_V2,
        PYVISION,
    )
}
