"""`speceyes sweep` says what other gates would have given, from what a run has kept.

It refuses to know how scores are made; it runs no model.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used.

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast, get_args

from speceyes.commands.exits import named_errors
from speceyes.errors import ConfigError
from speceyes.gate import Aggregation, Definition

if TYPE_CHECKING:
    import typer

    from speceyes.bench.comparison import Comparison
    from speceyes.bench.grids import Grid, Point, Preset

OUT: Final = "sweep.json"
PRESETS: Final = ("thresholds", "k", "aggregations", "definitions", "paper")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Swept:
    """What was tried on one suite's runs."""

    suite: str
    points: "Sequence[Point]"
    agent_accuracy: float


def add_sweep(app: "typer.Typer") -> None:
    """Put the command on the command line."""
    import typer

    from speceyes.commands import flags

    @app.command()
    def sweep(
        run: Annotated[
            list[Path], typer.Argument(help="Folders of runs: with baseline and speceyes in them.")
        ],
        *,
        preset: Annotated[
            str | None, typer.Option(help=f"{', '.join(PRESETS)}.", show_default="thresholds")
        ] = None,
        thresholds: Annotated[str, typer.Option(help="Such as .99,.98,.97.")] = "",
        k: Annotated[str, typer.Option("--k", help="Candidates a token, such as 32,64,96.")] = "",
        aggregations: Annotated[
            str, typer.Option(help=f"Of {', '.join(get_args(Aggregation))}.")
        ] = "",
        definitions: Annotated[
            str, typer.Option(help=f"Of {', '.join(get_args(Definition))}.")
        ] = "",
        as_json: flags.AsJson = False,
    ) -> None:
        """Try other gates on a run's evidence: nothing is run again."""
        with named_errors():
            from speceyes.bench.grids import Grid

            grid = Grid(
                thresholds=_listed("thresholds", thresholds, float),
                ks=_listed("k", k, int),
                aggregations=_chosen("aggregations", aggregations, Aggregation),
                definitions=_chosen("definitions", definitions, Definition),
            )
            if preset is not None and preset not in PRESETS:
                named = ", ".join(PRESETS)
                raise ConfigError("preset", f"{preset!r} is unknown; choose from {named}")
            if preset is not None and grid != Grid():
                raise ConfigError("preset", "goes without other settings; leave one of them out")
            run_sweep(run, cast("Preset | None", preset), grid, as_json=as_json)


def run_sweep(
    paths: Sequence[Path], preset: "Preset | None", grid: "Grid", *, as_json: bool
) -> None:
    """Try the gates, show what they would have given, and leave the figures in the first folder."""
    from rich.console import Console

    from speceyes.bench.comparison import compare
    from speceyes.bench.folder import read_run
    from speceyes.bench.manifest import check_first_sight
    from speceyes.bench.terminal import show_points

    console = Console(stderr=as_json)
    runs = [read_run(path) for path in paths]
    check_first_sight(run.manifest for run in runs)
    swept = [_try(comparison, preset, grid) for comparison in compare(runs)]
    for one in swept:
        console.print(f"{one.suite}: re-scored, not run again", style="bold", highlight=False)
        show_points(console, one.points, agent_accuracy=one.agent_accuracy)
    written = json.dumps({"suites": [_plain(one) for one in swept]})
    (paths[0] / OUT).write_text(written + "\n", encoding="utf-8")
    console.print(f"figures  {paths[0] / OUT}", highlight=False, soft_wrap=True)
    if as_json:
        print(written)
        sys.stdout.flush()


def _try(comparison: "Comparison", preset: "Preset | None", grid: "Grid") -> Swept:
    from speceyes.bench.grids import Grid, preset_specs, specs_of, try_out

    cases, label = comparison.cases, comparison.summary.label_of("speceyes")
    own = comparison.manifests[label or next(iter(comparison.manifests))].gate
    if preset is None and grid != Grid():
        specs = specs_of(grid, own)
    else:
        specs = preset_specs(preset or "thresholds", own, cases, suite=comparison.suite.name)
    points = try_out(cases, specs)
    agent = sum(case.agent_right for case in cases) / len(cases)
    return Swept(comparison.suite.source, points, agent)


def _plain(swept: Swept) -> dict[str, Any]:
    def figures(outlook: Any) -> dict[str, float]:
        return {name: getattr(outlook, name) for name in ("accuracy", "speedup", "accepted")}

    return {
        "suite": swept.suite,
        "agent_accuracy": swept.agent_accuracy,
        "points": [
            {
                "gate": asdict(point.spec),
                **figures(point.whole),
                "splits": {name: figures(part) for name, part in point.splits.items()},
            }
            for point in swept.points
        ],
    }


def _listed(field: str, text: str, read: Callable[[str], _T]) -> tuple[_T, ...]:
    try:
        return tuple(read(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(field, f"{text!r} holds what is no number; part them by commas") from (
            error
        )


def _chosen(field: str, text: str, kind: Any) -> tuple[Any, ...]:
    names = tuple(name for part in text.split(",") if (name := part.strip()))
    for name in names:
        if name not in get_args(kind):
            known = ", ".join(get_args(kind))
            raise ConfigError(field, f"{name!r} is unknown; choose from {known}")
    return names
