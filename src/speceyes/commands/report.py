"""`speceyes report` sets finished or partial runs side by side, on the terminal and as one page.

It refuses to know how figures are made and drawn. Pictures come from where the suites were read; if
they are gone, the page says so and does without.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used.

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from speceyes.bench.page.gallery import SHOWN
from speceyes.commands.exits import named_errors
from speceyes.errors import ConfigError, InputError

if TYPE_CHECKING:
    import typer
    from rich.console import Console

    from speceyes.bench.comparison import Comparison
    from speceyes.bench.items import Suite, SuiteFacts


def add_report(app: "typer.Typer") -> None:
    """Put the command on the command line."""
    import typer

    from speceyes.commands import flags

    @app.command()
    def report(
        runs: Annotated[list[Path], typer.Argument(help="Folders that runs were written to.")],
        *,
        html: Annotated[Path | None, typer.Option(help="The page to write.")] = None,
        items: Annotated[
            int, typer.Option(min=0, help="How many items of each suite the page shows whole.")
        ] = SHOWN,
        gate: Annotated[
            list[Path] | None,
            typer.Option(help="Calibrated gates to show, besides those in the runs' folders."),
        ] = None,
        as_json: flags.AsJson = False,
    ) -> None:
        """Set runs side by side: tables here, and with --html a page with figures and pictures."""
        with named_errors():
            from rich.console import Console

            console = Console(stderr=as_json)
            run_report(runs, console, html=html, items=items, gates=gate or (), as_json=as_json)


def run_report(
    folders: Sequence[Path],
    console: "Console",
    *,
    html: Path | None,
    items: int,
    gates: Sequence[Path] = (),
    as_json: bool,
) -> None:
    """Read runs, show what they came to, and write the page.

    Raises: RunFolderError if a folder holds no run; ConfigError if the page cannot be written.
    """
    from speceyes.bench.comparison import compare
    from speceyes.bench.document import document
    from speceyes.bench.folder import GATE, read_run
    from speceyes.bench.terminal import show_comparison

    comparisons = compare([read_run(folder) for folder in folders])
    for comparison in comparisons:
        show_comparison(console, comparison)
    if html is not None:
        own = [folder / GATE for folder in folders if (folder / GATE).is_file()]
        write_page(comparisons, html, items=items, gates=[*own, *gates])
        console.print(f"report   {html}", highlight=False, markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(document(comparisons)))


def write_page(
    comparisons: "Sequence[Comparison]", path: Path, *, items: int, gates: Sequence[Path] = ()
) -> None:
    """Write the page, with the pictures that can still be had."""
    from speceyes.bench.page.report import render
    from speceyes.calibration.certificate import from_json
    from speceyes.settings_file import read_text

    certified = [from_json(read_text("gate", gate)) for gate in gates]

    suites: dict[str, Suite] = {}
    absent: dict[str, str] = {}
    for facts in (comparison.suite for comparison in comparisons):
        try:
            suites[facts.checksum] = open_again(facts)
        except (InputError, OSError) as error:
            absent[facts.checksum] = str(error)
    page = render(
        comparisons,
        suites,
        absent=absent,
        shown=items,
        gates=[found for found in certified if found is not None],
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError("html", f"{path} cannot be written: {error.strerror}") from error


def open_again(facts: "SuiteFacts") -> "Suite":
    """Open a suite as it was opened for a run. Raises: SuiteError if it is gone."""
    from speceyes.bench.suites.opening import open_suite
    from speceyes.bench.suites.own import UNREADABLE

    return open_suite(
        facts.source,
        splits=tuple(split for split in facts.counts if split != UNREADABLE),
        seed=facts.seed,
        as_released=facts.as_released,
        per_split=facts.per_split,
    )
