r"""speceyes as a model of lmms-eval, and a run of its evaluator over the built-in suite.

    python examples/lmms_eval_speceyes.py --items 12    # prints one JSON document, last
    python -m lmms_eval --model speceyes --tasks speceyes_builtin \
        --include_path examples/lmms_eval_task          # once it is installed, on the items above

Other engines come from a settings file: `--model_args settings=speceyes.toml`.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import anyio
from datasets import Dataset, Features, Image, List, Value
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from loguru import logger
from PIL import Image as Pillow

from speceyes import Query
from speceyes.assemble import arrange
from speceyes.bench.items import Item
from speceyes.builtin.suite import draw_items
from speceyes.config import DEFAULT_CONCURRENCY
from speceyes.errors import QueryError, SpecEyesError
from speceyes.events import Answer
from speceyes.funnel import Outcome
from speceyes.pictures import encode_png
from speceyes.prompts import question_text
from speceyes.settings_file import Choices, load_settings
from speceyes_questions import read_query

OUT: Final = Path("out/lmms_eval")  # where the task's YAML expects the items
TASK: Final = "speceyes_builtin"


class SpecEyesModel(lmms):
    """Answer all requests of an evaluation through one SpecEyes, `batch_size` at once.

    lmms-eval knows no failed request: one that fails is logged with its error and replies nothing,
    which no grader takes for an answer. `answers` and `errors` keep what came of each request, by
    task and document. Raises: ConfigError for settings that cannot be used.
    """

    def __init__(
        self,
        *,
        settings: str | None = None,
        batch_size: int | str = DEFAULT_CONCURRENCY,
        max_batch_size: int | None = None,  # noqa: ARG002 - lmms-eval gives it to every model
        device: str | None = None,  # noqa: ARG002 - likewise; an engine chooses its own
    ) -> None:
        super().__init__()
        self._choices = Choices() if settings is None else load_settings(settings)
        self._concurrency = int(batch_size)
        self.answers: dict[tuple[str, int], Answer] = {}
        self.errors: dict[tuple[str, int], SpecEyesError] = {}

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer every request. Raises: ConfigError if the engines cannot be opened."""
        keys = [(request.task_name, request.doc_id) for request in requests]
        self._settle(dict(zip(keys, requests, strict=True)))
        routes = Counter(self.answers[key].route for key in keys if key in self.answers)
        failed = sum(key in self.errors for key in keys)
        logger.info(f"speceyes: routes={dict(routes)} failed={failed}")
        return [_result_of(self.answers.get(key)) for key in keys]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse: a funnel of two models has no likelihood of its own."""
        raise NotImplementedError("speceyes answers; use a task of output_type generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse: the rounds are the agent's own."""
        raise NotImplementedError("speceyes answers at once; use output_type generate_until")

    def _settle(self, requests: dict[tuple[str, int], Instance]) -> None:
        asked: dict[str, tuple[str, int]] = {}

        def queries() -> Iterator[Query]:  # lazily, as the pictures of a whole suite are many
            for key, request in requests.items():
                try:
                    query = self._query_of(request)
                except SpecEyesError as error:
                    self._fail(key, error)
                    continue
                asked[query.query_id] = key
                yield query

        for outcome in anyio.run(self._outcomes, queries()):
            key = asked[outcome.query_id]
            if outcome.answer is not None:
                self.answers[key] = outcome.answer
            elif outcome.error is not None:
                self._fail(key, outcome.error)

    async def _outcomes(self, queries: Iterable[Query]) -> list[Outcome]:
        async with arrange(self._choices) as eyes:
            outcomes = eyes.answer_many(queries, concurrency=self._concurrency)
            return [outcome async for outcome in outcomes]

    def _query_of(self, request: Instance) -> Query:
        text, _, doc_to_visual, doc_id, task, split = request.args
        visuals = doc_to_visual(self.task_dict[task][split][doc_id]) or ()
        unknown = [visual for visual in visuals if not isinstance(visual, Pillow.Image)]
        if unknown:
            raise QueryError("pictures", f"hold a {type(unknown[0]).__name__}; give images only")
        return read_query(text, tuple(encode_png(visual) for visual in visuals))

    def _fail(self, key: tuple[str, int], error: SpecEyesError) -> None:
        self.errors[key] = error
        logger.error(f"speceyes: task={key[0]} document={key[1]} error={error}")


def _result_of(answer: Answer | None) -> GenerationResult:
    if answer is None:
        return GenerationResult("")
    usage = answer.usage
    return GenerationResult(answer.text, TokenCounts(usage.prompt_tokens, usage.completion_tokens))


def write_items(items: Iterable[Item], path: Path) -> None:
    """Write items as the task reads them: what is asked, the pictures, what to grade against."""
    features = Features(
        {
            "item_id": Value("string"),
            "pictures": List(Image()),
            "question": Value("string"),
            "options": List(Value("string")),
            "answer": Value("string"),
        }
    )
    rows = [
        {
            "item_id": item.item_id,
            "pictures": [{"bytes": picture.data, "path": None} for picture in item.query.pictures],
            "question": question_text(item.query),
            "options": list(item.query.options),
            "answer": item.answer,
        }
        for item in items
    ]
    buffer = io.BytesIO()
    Dataset.from_list(rows, features=features).to_parquet(buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def run(items: int, seed: int, out: Path) -> dict[str, Any]:
    """Evaluate the built-in pair and sum up what the evaluator found."""
    drawn = list(draw_items(items, seed=seed))
    write_items(drawn, out / "items.parquet")
    model = SpecEyesModel()
    found = simple_evaluate(
        model=model,
        tasks=[{"task": TASK, "dataset_kwargs": _files(out)}],
        task_manager=TaskManager(
            include_path=str(Path(__file__).with_name("lmms_eval_task")), include_defaults=False
        ),
        bootstrap_iters=0,
    )
    names = {(TASK, place): item.item_id for place, item in enumerate(drawn)}
    routes = Counter(answer.route for answer in model.answers.values())
    return {
        "items": len(found["samples"][TASK]),
        "accuracy": found["results"][TASK]["accuracy,none"],
        "routes": {route: count / len(model.answers) for route, count in routes.items()},
        "answers": {names[key]: answer.text for key, answer in model.answers.items()},
        "errors": {names[key]: str(error) for key, error in model.errors.items()},
    }


def _files(out: Path) -> dict[str, Any]:
    return {
        "data_files": {"test": str((out / "items.parquet").resolve())},
        "cache_dir": str((out / "cache").resolve()),
    }


def main() -> None:
    """Run the task as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=OUT, help="where the items go")
    given = parser.parse_args()
    print(json.dumps(run(given.items, given.seed, given.out), indent=2))


if __name__ == "__main__":
    main()
