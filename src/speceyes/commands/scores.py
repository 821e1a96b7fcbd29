"""`speceyes scores` says which score ranks the small model's answers best, on what a run kept.

It refuses to know how scores are made; it runs no model.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used.

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from speceyes.commands.exits import named_errors
from speceyes.errors import ConfigError

if TYPE_CHECKING:
    import typer


def add_scores(app: "typer.Typer") -> None:
    """Put the command on the command line."""
    import typer

    from speceyes.commands import flags

    @app.command()
    def scores(
        runs: Annotated[
            list[Path], typer.Argument(help="Folders of runs, with the method speceyes in them.")
        ],
        *,
        k: Annotated[
            int | None, typer.Option("--k", help="Candidates a token.", show_default="the run's")
        ] = None,
        as_json: flags.AsJson = False,
    ) -> None:
        """Compare the gate's score with others on a run's evidence: nothing is run again."""
        with named_errors():
            run_scores(runs, k=k, as_json=as_json)


def run_scores(folders: Sequence[Path], *, k: int | None, as_json: bool) -> None:
    """Compare the scores, suite by suite. Raises: ConfigError if nothing could be scored."""
    from rich.console import Console

    from speceyes.bench.comparison import compare
    from speceyes.bench.folder import read_run
    from speceyes.bench.ranking import rank_scores
    from speceyes.bench.terminal_gate import show_ranking
    from speceyes.bench.trials import trials_of

    console = Console(stderr=as_json)
    document = []
    for comparison in compare([read_run(folder) for folder in folders]):
        gate = comparison.runs[0].manifest.gate
        spec = replace(gate, k=k or gate.k)
        ranking = rank_scores(trials_of([comparison]), spec)
        if ranking is None:
            raise ConfigError("run", f"{comparison.suite.source} has no answer with K = {spec.k}")
        console.print(f"{comparison.suite.source}, K = {spec.k}", style="bold", highlight=False)
        show_ranking(console, ranking)
        document.append(
            {
                "suite": comparison.suite.source,
                "k": spec.k,
                "slices": [
                    {**asdict(part), "better": list(part.better)} for part in ranking.slices
                ],
            }
        )
    if as_json:
        print(json.dumps({"suites": document}))
        sys.stdout.flush()
