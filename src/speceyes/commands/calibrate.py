"""`speceyes calibrate` finds the threshold for a stated risk on the records of runs or of a shadow.

It refuses to know how a threshold is chosen; it runs no model.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used.

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

from speceyes.commands.exits import named_errors
from speceyes.errors import ConfigError
from speceyes.gate import Aggregation, Definition

if TYPE_CHECKING:
    import typer

    from speceyes.bench.calibrating import Kept, Wish
    from speceyes.calibration.certificate import Certified


def add_calibrate(app: "typer.Typer") -> None:
    """Put the command on the command line."""
    import typer

    from speceyes.commands import flags

    @app.command()
    def calibrate(
        runs: Annotated[
            list[Path],
            typer.Argument(
                help="Folders of runs, with the method speceyes in them, or a shadow's files."
            ),
        ],
        *,
        max_loss: Annotated[
            float, typer.Option(help="Most that may be lost, as a share of all queries.")
        ] = 0.01,
        confidence: Annotated[float, typer.Option(help="How sure that it is not more.")] = 0.95,
        by: Annotated[
            str, typer.Option(help="label, or agreement with the agent: no labels needed.")
        ] = "label",
        check: Annotated[
            list[Path] | None, typer.Option(help="Others, to check the gate on.")
        ] = None,
        k: Annotated[
            int | None, typer.Option("--k", help="Candidates a token.", show_default="the run's")
        ] = None,
        aggregation: Annotated[
            str | None,
            typer.Option(help=f"{', '.join(get_args(Aggregation))}.", show_default="the run's"),
        ] = None,
        definition: Annotated[
            str | None,
            typer.Option(help=f"{', '.join(get_args(Definition))}.", show_default="the run's"),
        ] = None,
        out: Annotated[
            Path | None,
            typer.Option(help="The gate to write, for --gate.", show_default="gate.json there"),
        ] = None,
        as_json: flags.AsJson = False,
    ) -> None:
        """Find the threshold that loses no more than stated, and write it with its certificate."""
        with named_errors():
            from speceyes import __version__
            from speceyes.bench.calibrating import BYS, Wish

            wish = Wish(
                max_loss=max_loss,
                confidence=confidence,
                by=_one_of("by", by, BYS),
                k=k,
                definition=_one_of("definition", definition, get_args(Definition)),
                aggregation=_one_of("aggregation", aggregation, get_args(Aggregation)),
                made_at=datetime.now(UTC).isoformat(timespec="seconds"),
                version=__version__,
            )
            run_calibrate(runs, wish, check=check or (), out=out, as_json=as_json)


def run_calibrate(
    paths: Sequence[Path],
    wish: "Wish",
    *,
    check: Sequence[Path],
    out: Path | None,
    as_json: bool,
) -> None:
    """Choose the gate, write it, and show what is certain of it."""
    from rich.console import Console

    from speceyes.bench.calibrating import calibrate
    from speceyes.bench.folder import GATE
    from speceyes.bench.terminal_gate import show_certified
    from speceyes.calibration.certificate import to_json

    made = calibrate(
        [_read(path) for path in paths],
        wish,
        others=[_read(path) for path in check],
    )
    path = out or (paths[0].parent if paths[0].is_file() else paths[0]) / GATE
    written = to_json(made)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written, encoding="utf-8")
    except OSError as error:
        raise ConfigError("out", f"{path} cannot be written: {error.strerror}") from error
    console = Console(stderr=as_json)
    show_certified(console, made)
    console.print(f"gate     {path}", highlight=False, markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(_plain(made, written)))
        sys.stdout.flush()


def _read(path: Path) -> "Kept":
    from speceyes.bench.folder import read_run
    from speceyes.bench.shadows import read_shadows

    return read_shadows(path) if path.is_file() else read_run(path)


def _plain(made: "Certified", written: str) -> dict[str, Any]:
    document = json.loads(written)
    return {**document, "accepts_nothing": made.certificate.accepts_nothing}


def _one_of(field: str, text: str | None, known: Sequence[str]) -> Any:
    if text is not None and text not in known:
        raise ConfigError(field, f"{text!r} is unknown; choose from {', '.join(known)}")
    return cast("Any", text)
