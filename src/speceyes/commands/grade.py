"""`speceyes grade` grades a run's answers anew, and asks a text model what the rules cannot decide.

It refuses to know rules and wording. Grades are added beside the records, which stay as they were.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used.

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from speceyes.commands.exits import named_errors
from speceyes.errors import ConfigError

if TYPE_CHECKING:
    import typer
    from rich.console import Console

    from speceyes.bench.folder import Run
    from speceyes.bench.model_grader import Case
    from speceyes.bench.records import Record
    from speceyes.bench.terminal import LiveProgress


def add_grade(app: "typer.Typer") -> None:
    """Put the command on the command line."""
    import typer

    from speceyes.commands import flags

    @app.command()
    def grade(
        run: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
        *,
        grader: Annotated[
            str | None,
            typer.Option(
                help="Text model for what the rules leave open: http://HOST:PORT/v1#MODEL."
            ),
        ] = None,
        concurrency: Annotated[int, typer.Option(min=1, help="Questions to it at once.")] = 8,
        as_json: flags.AsJson = False,
    ) -> None:
        """Grade a run's answers anew; what nobody can decide stays undecided, and is counted."""
        with named_errors():
            run_grade(run, grader, concurrency=concurrency, as_json=as_json)


def run_grade(
    paths: Sequence[Path], grader: str | None, *, concurrency: int, as_json: bool
) -> None:
    """Grade runs by the rules, then by a model if there is one, and show what became of it."""
    import anyio
    from rich.console import Console

    from speceyes.bench.folder import read_run
    from speceyes.bench.terminal import LiveProgress

    console = Console(stderr=as_json)
    for path in paths:
        by_rules(path)
    if grader is not None:
        with LiveProgress(console) as progress:
            for path in paths:
                anyio.run(_by_model, path, grader, concurrency, progress)
    counts = {str(path): _counted(read_run(path)) for path in paths}
    _show(console, counts)
    if as_json:
        print(json.dumps(counts))


def by_rules(path: Path) -> None:
    """Grade a run's answers by the rules of today, keeping what a model decided of the same reply.

    A grade is added only where it differs from the one that counts so far.
    """
    from speceyes.bench.folder import add_grade, key_of, read_run
    from speceyes.bench.grade import grade

    for record in read_run(path).records:
        if record.text is None:
            continue
        made = grade(record.text, record.truth, record.options)
        is_settled = made.is_undecided and record.grade.by != "rules"
        if not is_settled and made != record.grade:
            add_grade(path, key_of(record), made)


async def _by_model(path: Path, grader: str, concurrency: int, progress: "LiveProgress") -> None:
    from speceyes.assemble_engines import open_engine
    from speceyes.bench.folder import add_grade, key_of, read_run
    from speceyes.bench.model_grader import ModelGrader

    open_cases = {
        str(place): record
        for place, record in enumerate(read_run(path).records)
        if record.grade.is_undecided and record.text is not None
    }
    progress.begins(f"asking about {path.name}", len(open_cases))
    try:
        opened = open_engine(grader)
        async with opened as engine:
            cases = (_case(key, record) for key, record in open_cases.items())
            async with ModelGrader(engine).settle(cases, concurrency=concurrency) as settled:
                async for key, given in settled:
                    add_grade(path, key_of(open_cases[key]), given)
                    progress.advances()
    except ConfigError as error:
        raise ConfigError("grader", error.message) from error


def _case(key: str, record: "Record") -> "Case":
    from speceyes.bench.model_grader import Case

    return Case(
        key=key,
        question=record.question,
        options=record.options,
        truth=record.truth,
        reply=record.text or "",
        before=record.grade,
    )


def _counted(run: "Run") -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for record in run.records:
        by = "rules" if record.grade.by == "rules" else "model"
        found.setdefault(record.method, Counter()).update([record.grade.value, f"by {by}"])
    return {method: dict(counts) for method, counts in found.items()}


def _show(console: "Console", counts: dict[str, dict[str, dict[str, int]]]) -> None:
    from speceyes.bench.terminal import counts_table

    for path, by_method in counts.items():
        console.print(path, style="bold", highlight=False)
        columns = ("right", "wrong", "undecided", "by rules", "by model")
        console.print(counts_table(by_method, columns))
