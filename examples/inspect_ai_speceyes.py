"""speceyes as a model of inspect_ai, and a task of the built-in suite that asks it.

    python examples/inspect_ai_speceyes.py --items 12    # prints one JSON document
    inspect eval inspect_ai_speceyes/builtin --model speceyes/builtin    # once it is installed

Other engines come from a settings file, under any name:
`--model speceyes/mine -M settings=speceyes.toml`.
"""

from __future__ import annotations

import argparse
import atexit
import base64
import json
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal
from inspect_ai import Task, eval, task  # noqa: A004 - its name
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import (
    ChatMessage,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    get_model,
    modelapi,
)
from inspect_ai.scorer import CORRECT, INCORRECT, Score, Scorer, Target, accuracy, scorer, stderr
from inspect_ai.solver import TaskState, generate
from inspect_ai.tool import ToolChoice, ToolInfo

from speceyes import Query, open_picture
from speceyes.assemble import arrange
from speceyes.bench.grade import grade
from speceyes.bench.items import Item
from speceyes.builtin.suite import draw_items
from speceyes.errors import ConfigError, PictureUnreadable, QueryError
from speceyes.events import Answer
from speceyes.prompts import question_text
from speceyes.settings_file import Choices, load_settings
from speceyes_questions import read_query

OUT: Final = Path("out/inspect_ai")


@modelapi("speceyes")
class SpecEyesAPI(ModelAPI):
    """Answer the user's message through one SpecEyes, opened for the first and kept for the rest.

    It lives on an event loop of its own: inspect keeps models from one evaluation to the next, and
    each of those has another loop. Inspect also makes models only to look at them; those never
    load a weight. Raises: ConfigError for settings that cannot be used.
    """

    def __init__(  # noqa: PLR0917 - inspect's own signature, as below
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        self._eyes = arrange(_choices(model_name, **model_args))
        self._lock = threading.Lock()
        self._portal: BlockingPortal | None = None
        self._opened = ExitStack()

    async def generate(  # noqa: PLR0917
        self,
        input: list[ChatMessage],  # noqa: A002
        tools: list[ToolInfo],
        tool_choice: ToolChoice,  # noqa: ARG002
        config: GenerateConfig,  # noqa: ARG002 - decoding is always greedy
    ) -> ModelOutput:
        """Answer the only message. Raises: SpecEyesError, which becomes the sample's error."""
        if tools:
            raise ConfigError("tools", "cannot be offered to speceyes; its agent has its own")
        answer = await self._answer(_query_of(input))
        output = ModelOutput.from_content(self.model_name, answer.text)
        output.usage, output.time = _usage_of(answer), answer.elapsed_s
        output.metadata = {
            "route": answer.route,
            "reason": answer.reason,
            "score": None if answer.verdict is None else answer.verdict.score,
            "p_tool": answer.p_tool,
            "depth": answer.depth,
        }
        return output

    def close(self) -> None:
        """Free the engines, as `with get_model(...)` does at its end; the next message reopens."""
        with self._lock:
            self._portal = None
            self._opened.close()
        atexit.unregister(self.close)

    async def _answer(self, query: Query) -> Answer:
        portal = await anyio.to_thread.run_sync(self._open)
        answering = portal.start_task_soon(self._eyes.answer, query)
        try:
            return await anyio.to_thread.run_sync(answering.result, abandon_on_cancel=True)
        finally:
            answering.cancel()  # a sample that is cancelled takes its query along

    def _open(self) -> BlockingPortal:
        with self._lock, ExitStack() as stack:
            if self._portal is None:
                portal = stack.enter_context(start_blocking_portal())
                stack.enter_context(portal.wrap_async_context_manager(self._eyes))
                self._portal, self._opened = portal, stack.pop_all()
                atexit.register(self.close)  # `inspect eval` closes no model
            return self._portal


def _choices(model_name: str, *, settings: str | None = None) -> Choices:
    if settings is not None:
        return load_settings(settings)
    if model_name != "builtin":
        raise ConfigError("settings", "are missing; name their file with -M settings=FILE")
    return Choices()


def _query_of(messages: list[ChatMessage]) -> Query:
    if len(messages) != 1 or not isinstance(messages[0], ChatMessageUser):
        roles = ", ".join(message.role for message in messages)
        raise QueryError("messages", f"are of {roles}; speceyes answers one user message alone")
    content = messages[0].content
    parts = [ContentText(text=content)] if isinstance(content, str) else content
    unknown = [part.type for part in parts if not isinstance(part, (ContentText, ContentImage))]
    if unknown:
        raise QueryError("messages", f"hold {unknown[0]}; speceyes takes text and pictures")
    return read_query(
        "\n".join(part.text for part in parts if isinstance(part, ContentText)),
        tuple(open_picture(_bytes_of(p)) for p in parts if isinstance(p, ContentImage)),
    )


def _bytes_of(part: ContentImage) -> bytes:
    head, comma, data = part.image.partition(";base64,")
    if not comma or not head.startswith("data:"):  # inspect inlines the files that a dataset names
        raise PictureUnreadable("picture", "is no data URI; call materialize_media on it first")
    return base64.b64decode(data)


def _usage_of(answer: Answer) -> ModelUsage:
    usage = answer.usage
    return ModelUsage(
        input_tokens=usage.prompt_tokens - (usage.cached_tokens or 0),  # inspect's excludes them
        input_tokens_cache_read=usage.cached_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


@task
def builtin(items: int = 12, seed: int = 7) -> Task:
    """Ask the first items of the built-in suite; an item that fails is an error of its own."""
    drawn = draw_items(items, seed=seed)
    return Task(
        dataset=MemoryDataset([_sample_of(item) for item in drawn], name="speceyes-builtin"),
        solver=generate(),
        scorer=graded(),
        fail_on_error=False,
    )


def _sample_of(item: Item) -> Sample:
    pictures = [
        ContentImage(image=f"data:{p.media_type};base64,{base64.b64encode(p.data).decode()}")
        for p in item.query.pictures
    ]
    asked = ChatMessageUser(content=[*pictures, ContentText(text=question_text(item.query))])
    metadata = {"split": item.split, "options": item.query.options}
    return Sample(id=item.item_id, input=[asked], target=item.answer, metadata=metadata)


@scorer(metrics=[accuracy(), stderr()])
def graded() -> Scorer:
    """Score by speceyes' own grader."""

    async def score(state: TaskState, target: Target) -> Score:
        given = grade(state.output.completion, target.text, state.metadata["options"])
        return Score(
            value=CORRECT if given.is_right else INCORRECT,
            answer=given.answer,
            explanation=given.explanation,
            metadata=state.output.metadata,
        )

    return score


def summary(log: EvalLog) -> dict[str, Any]:
    """Sum up an evaluation: accuracy over the answered, the share of each route, the answers."""
    samples = log.samples or []
    answered = [sample for sample in samples if sample.error is None]
    routes = Counter((sample.output.metadata or {})["route"] for sample in answered)
    metrics = log.results.scores[0].metrics if log.results and log.results.scores else {}
    return {
        "items": len(samples),
        "accuracy": metrics["accuracy"].value if "accuracy" in metrics else None,
        "routes": {route: count / len(answered) for route, count in routes.items()},
        "answers": {str(sample.id): sample.output.completion for sample in answered},
        "errors": {str(s.id): s.error.message for s in samples if s.error is not None},
    }


def run(items: int, seed: int, out: Path) -> dict[str, Any]:
    """Evaluate the built-in pair and sum up the log, which stays in the folder."""
    with get_model("speceyes/builtin") as model:
        (log,) = eval(builtin(items, seed), model=model, log_dir=str(out), display="none")
    return summary(log)


def main() -> None:
    """Run the task as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=OUT, help="where inspect's log goes")
    given = parser.parse_args()
    print(json.dumps(run(given.items, given.seed, given.out), indent=2))


if __name__ == "__main__":
    main()
