"""These are the nouns that flow through speceyes, and the three seams where parts are exchanged.

It refuses to know how anything is done: no model, no pixel, no clock, no socket, no file.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from speceyes.errors import QueryError

FloatArray: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Size: TypeAlias = tuple[int, int]  # (width_px, height_px)
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
MalformedReason: TypeAlias = Literal[
    "no_answer_no_call",  # neither an answer nor a call in the reply
    "bad_json",
    "unknown_tool",
    "missing_argument",
    "bad_argument",  # wrong type, not a number, NaN
    "bad_box",  # outside, inverted or of zero area
    "empty_answer",
    "truncated",
]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """Hold one picture as the bytes that came in, with its upright size.

    Units: `width_px` and `height_px` after EXIF rotation, as a person sees it.
    Invariants: two pictures are equal when their bytes are. `is_plain` means every decoder reads
    these bytes alike (8 bit, no alpha, no rotation, one frame), so an engine may get them as is.
    """

    data: bytes = field(repr=False)
    media_type: str
    width_px: int
    height_px: int
    is_plain: bool = True
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.blake2b(self.data, digest_size=16).hexdigest()
        object.__setattr__(self, "digest", digest)

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Picture) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def size(self) -> Size:
        """Width and height in pixels, upright."""
        return (self.width_px, self.height_px)


@dataclass(frozen=True, slots=True)
class Box:
    """Mark a rectangle in an original picture; left and top are inside, right and bottom not."""

    left_px: int
    top_px: int
    right_px: int
    bottom_px: int
    picture_index: int = 0

    @property
    def size(self) -> Size:
        """Width and height in pixels."""
        return (self.right_px - self.left_px, self.bottom_px - self.top_px)


@dataclass(frozen=True, slots=True)
class Query:
    """Ask one question about one or more pictures, perhaps with options to choose from.

    `earlier` is what was said before, with the caller's own system text, if any, at its head.
    Raises: QueryError naming the field: an empty question, no picture, exactly one option, an
    empty option, or two options alike but for case and outer whitespace.
    """

    question: str
    pictures: tuple[Picture, ...]
    options: tuple[str, ...] = ()
    query_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    earlier: Conversation = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise QueryError("question", "is empty; ask something about the picture")
        if not self.pictures:
            raise QueryError("pictures", "is empty; give at least one picture")
        if not self.query_id:
            raise QueryError("query_id", "is empty; give a name, or leave it out to get one")
        if len(self.options) == 1:
            raise QueryError("options", "has a single entry; give none, or at least two")
        folded = [option.strip().casefold() for option in self.options]
        if not all(folded):
            raise QueryError("options", f"entry {folded.index('')} is empty; fill or remove it")
        if len(set(folded)) != len(folded):
            twin = next(text for text in folded if folded.count(text) > 1)
            raise QueryError("options", f"{twin!r} stands there more than once; remove one")


@dataclass(frozen=True, slots=True)
class Text:
    """A stretch of text in a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture in a message."""

    picture: Picture


Part: TypeAlias = Text | Image


@dataclass(frozen=True, slots=True)
class Message:
    """One speaker's contribution to a conversation."""

    role: Role
    parts: tuple[Part, ...]


Conversation: TypeAlias = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Ask an engine to go on with a conversation; decoding is always greedy.

    With `continue_final_message` the last message is the assistant's own and is continued in place.
    `top_logprobs` is the K of the evidence wanted; 0 means no evidence. `tools` are JSON function
    schemas for the chat template to render. `choices` are the only answers of use: an engine that
    can give no evidence holds the model to them.
    """

    messages: Conversation
    max_tokens: int
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0
    continue_final_message: bool = False
    tools: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Keep what the model thought of each answer token and of its rivals; no end token.

    Shapes: `logp_topk` (T, K) float32, rows descending; `logp_chosen` (T,) float32; `candidates`
    T tuples of the K token texts, or () when not recorded. Units: nats, raw (before temperature,
    top-k or top-p). Not checked here: the gate rejects what is unsound, with the reason.
    """

    logp_topk: npt.NDArray[np.float32]
    logp_chosen: npt.NDArray[np.float32]
    candidates: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        for name in ("logp_topk", "logp_chosen"):
            view = np.asarray(getattr(self, name), dtype=np.float32).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Evidence):
            return NotImplemented
        return (
            np.array_equal(self.logp_topk, other.logp_topk, equal_nan=True)
            and np.array_equal(self.logp_chosen, other.logp_chosen, equal_nan=True)
            and self.candidates == other.candidates
        )

    def __hash__(self) -> int:
        return hash((self.logp_topk.shape, self.logp_chosen.shape, self.candidates))


@dataclass(frozen=True, slots=True)
class Usage:
    """Count the work one or more generations took; `cached_tokens` None means not measured."""

    prompt_tokens: int
    cached_tokens: int | None
    completion_tokens: int
    images: int
    zero: ClassVar[Usage]

    def __add__(self, other: Usage) -> Usage:
        mine, theirs = self.cached_tokens, other.cached_tokens
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=None if mine is None or theirs is None else mine + theirs,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            images=self.images + other.images,
        )


Usage.zero = Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0, images=0)


@dataclass(frozen=True, slots=True)
class Generation:
    """Hold what an engine said. If a stop string ended it, `text` includes that string.

    `token_count` counts the answer's tokens without the end token, so it equals the evidence's T.
    `request_id` is the server's name for the call, to find it in its log; no part of what was said.
    """

    text: str
    finish: Literal["stop", "length"]
    stop_string: str | None
    token_count: int
    evidence: Evidence | None
    usage: Usage
    engine: str
    request_id: str | None = field(default=None, compare=False)


class Engine(Protocol):
    """Turn a conversation into a generation. Cancellation comes by anyio cancel scopes."""

    @property
    def name(self) -> str: ...  # for usage and errors

    async def generate(self, request: GenerateRequest) -> Generation:
        """Go on with the conversation. Raises: EngineError."""
        ...

    async def aclose(self) -> None:
        """Free what the engine holds; safe to call twice."""
        ...


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Ask for a tool by name, with arguments in the *tool's* units (original pixels, see Box)."""

    tool: str
    arguments: Mapping[str, Any]
    raw: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A reply that is neither an answer nor a call that can be made; the model is told why."""

    reason: MalformedReason
    detail: str


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """The agent's answer, without the protocol's wrapping.

    `is_open`: nothing marks its end, so it is one only if the model itself ended the turn.
    """

    text: str
    is_open: bool = False


Reply: TypeAlias = FinalAnswer | ToolCall | Malformed


@dataclass(frozen=True, slots=True)
class Observation:
    """Hold what a tool gave back; `boxes_px[i]` is where in the originals `pictures[i]` comes from.

    A box is None where code made the picture. `error` is the model's fault put in words it can act
    on; a tool's own failure raises ToolError. `repairs` names what was mended in the call.
    """

    text: str = ""
    pictures: tuple[Picture, ...] = ()
    boxes_px: tuple[Box | None, ...] = ()
    error: str | None = None
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """A picture as the model saw it, and the part of an original that it shows, if it shows one."""

    picture: Picture
    box_px: Box | None


@dataclass(frozen=True, slots=True)
class Budget:
    """Bound an agent's loop; on the last turn it is asked for its answer without tools."""

    max_turns: int
    max_tokens_per_turn: int


class Pixels(Protocol):
    """Give the pixels of one query's originals, each decoded at most once."""

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The originals, in the query's order."""
        ...

    def cut(self, box: Box, size: Size | None = None) -> Picture:
        """Cut a box out of an original, resized if `size` is given.

        Invariants: a whole, plain picture at its own size comes back as the bytes that came in.
        Raises: PictureShapeError if the box is not inside its picture or has no area.
        """
        ...


class OpenTool(Protocol):
    """A tool at work on one query; what it keeps between calls is that query's alone."""

    async def run(self, call: ToolCall) -> Observation:
        """Run one call. Raises: ToolError if the tool, not the call, is at fault."""
        ...


class Tool(Protocol):
    """Do one thing for the agent; one instance serves all queries."""

    @property
    def name(self) -> str: ...  # by which `ToolCall.tool` calls it

    def open(self, pixels: Pixels) -> AbstractAsyncContextManager[OpenTool]:
        """Take up one query's original pictures; leaving ends all that was begun for it."""
        ...


class ToolProtocol(Protocol):
    """Speak with one family of agentic models; pure, one instance serves all queries.

    `views` are all pictures the model has seen, in order: first one per original, then those of
    the observations. Whenever a conversation ends in an assistant message, that message is to be
    continued (`continue_final_message`), which is how a protocol without observation turns works.
    """

    @property
    def name(self) -> str: ...  # says which protocol this is

    @property
    def stop(self) -> tuple[str, ...]: ...  # ends a turn; the generation's text includes it

    @property
    def tools(self) -> tuple[str, ...]:
        """JSON function schemas for the chat template to render; () if the opening words them."""
        ...

    @property
    def budget(self) -> Budget:
        """The loop's bounds in the model's own release."""
        ...

    def view_size(self, size: Size) -> Size:
        """Say at which size the model will see a picture of this size (its smart-resize)."""
        ...

    def opening(self, query: Query, views: tuple[View, ...]) -> Conversation:
        """Put the query to the model, with the tools it may call."""
        ...

    def parse(self, reply: str, views: tuple[View, ...]) -> Reply:
        """Read a reply, mapping coordinates from what the model saw back to the originals."""
        ...

    def proceed(
        self,
        query: Query,
        conversation: Conversation,
        *,
        reply: str,
        outcome: Observation | Malformed,
    ) -> Conversation:
        """Give the whole next conversation: the previous one, the reply, and what came of it."""
        ...

    def force_answer(self, query: Query, conversation: Conversation) -> Conversation:
        """Ask for the answer without tools, for the last turn; `conversation` as from `proceed`."""
        ...
