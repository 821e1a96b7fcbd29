"""The command line: `speceyes demo` races both ways, `speceyes ask` answers one question.

It refuses to know how anything is answered, graded or drawn. What a caller did wrong becomes one
clear line and exit code 2, never a traceback.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used, so
# that without it this file can still say what is missing.

import importlib.util
import json
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TextIO

from speceyes.commands.ask import add_ask
from speceyes.commands.choosing import chosen
from speceyes.commands.doctor import add_doctor
from speceyes.commands.exits import EXIT_FAILED, EXIT_INTERRUPTED, complain, named_errors
from speceyes.errors import ConfigError
from speceyes.settings_file import Choices

if TYPE_CHECKING:
    import typer
    from rich.console import Console

    from speceyes.bench.demo import Contestants, Ledger
    from speceyes.bench.document import Setup
    from speceyes.bench.items import Item
    from speceyes.bench.terminal import LiveProgress
    from speceyes.funnel import Funnel

_EXTRA: Final = ("typer", "rich")
_DEMO_OUT: Final = Path("runs/demo")
_WARM_UP_ITEMS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What a demo is to do, as it was asked for."""

    items: int
    seed: int
    concurrency: int
    out: Path
    choices: Choices
    as_json: bool


@dataclass(slots=True, kw_only=True)
class Sitting:
    """What a demo has so far. It outlives a run that is cut short."""

    ledger: "Ledger"
    items: "list[Item]" = field(default_factory=list)
    setup: "Setup | None" = None
    is_partial: bool = False


def main() -> None:
    """Run the command line; the entry point of the installed program."""
    missing = [package for package in _EXTRA if importlib.util.find_spec(package) is None]
    if missing:
        needs = " and ".join(missing)
        complain(f"the command line needs {needs}: pip install 'speceyes[cli]'")
        sys.exit(EXIT_FAILED)
    build_app()()


def build_app() -> "typer.Typer":
    """Make the command line with all its commands."""
    import typer

    app = typer.Typer(
        name="speceyes",
        help="Answer visual questions with an agentic model, faster and no worse.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def speceyes(
        *,
        version: Annotated[
            bool,
            typer.Option(
                "--version", help="Print the version.", is_eager=True, callback=_print_version
            ),
        ] = False,
    ) -> None:
        pass

    _add_demo(app)
    add_ask(app)
    add_doctor(app)
    return app


def _add_demo(app: "typer.Typer") -> None:
    import typer

    from speceyes.bench.demo import DEFAULT_CONCURRENCY, DEFAULT_ITEMS
    from speceyes.commands import flags

    @app.command()
    def demo(
        *,
        items: Annotated[int, typer.Option(min=1, help="How many questions.")] = DEFAULT_ITEMS,
        seed: Annotated[int, typer.Option(min=0, help="Which questions: any number.")] = 0,
        concurrency: Annotated[
            int, typer.Option(min=1, help="Questions under way at once.")
        ] = DEFAULT_CONCURRENCY,
        out: Annotated[
            Path, typer.Option(help="Folder to write to; an earlier demo there is replaced.")
        ] = _DEMO_OUT,
        small: flags.Small = None,
        large: flags.Large = None,
        protocol: flags.Protocol = None,
        gate: flags.Gate = None,
        config: flags.Config = None,
        system_prompt: flags.SystemPrompt = None,
        user_prompt: flags.UserPrompt = None,
        unsafe_python: flags.UnsafePython = False,
        as_json: flags.AsJson = False,
    ) -> None:
        """Let the agent alone and SpecEyes answer the same questions, and write a report."""
        with named_errors():
            options = DemoOptions(
                items=items,
                seed=seed,
                concurrency=concurrency,
                out=out,
                choices=chosen(
                    config=config,
                    small=small,
                    large=large,
                    protocol=protocol,
                    gate=gate,
                    system_prompt=system_prompt,
                    user_prompt=user_prompt,
                    unsafe_python=unsafe_python,
                ),
                as_json=as_json,
            )
            sys.exit(run_demo(options))


def run_demo(options: DemoOptions) -> int:
    """Run a demo and leave its records, figures and report; gives the exit code."""
    import anyio
    from rich.console import Console

    from speceyes.bench.demo import Ledger
    from speceyes.bench.terminal import LiveProgress

    if options.choices.policy == "agent_only":
        raise ConfigError("policy", "agent_only is what a demo compares with; choose another")
    console = Console(stderr=options.as_json)
    with _records_file(options.out) as file:
        sitting = Sitting(ledger=Ledger(file))
        try:
            with LiveProgress(console) as progress:
                anyio.run(_sit, options, sitting, progress)
        except KeyboardInterrupt:
            sitting.is_partial = True
    if sitting.setup is None or not sitting.ledger.records:
        complain("interrupted before anything was answered; there is nothing to report")
        return EXIT_INTERRUPTED
    _finish(options, sitting, console)
    return EXIT_INTERRUPTED if sitting.is_partial else 0


async def _sit(options: DemoOptions, sitting: Sitting, progress: "LiveProgress") -> None:
    import anyio.lowlevel

    from speceyes.bench.demo import Plan, race
    from speceyes.builtin.suite import draw_items

    progress.begins("drawing scenes", options.items)
    for item in draw_items(options.items, seed=options.seed):
        sitting.items.append(item)
        progress.advances()
        await anyio.lowlevel.checkpoint()  # where Ctrl-C gets a hearing
    warm_up = list(draw_items(_WARM_UP_ITEMS, seed=options.seed, stream="calibration"))
    progress.begins("loading the models", 0)
    async with open_contestants(options) as (contestants, funnel):
        sitting.setup = _setup(options, funnel)
        plan = Plan(
            items=sitting.items,
            warm_up=warm_up,
            spec=funnel.rules.gate,
            concurrency=options.concurrency,
        )
        await race(contestants, plan, sitting.ledger, watcher=progress)


@asynccontextmanager
async def open_contestants(
    options: DemoOptions,
) -> "AsyncGenerator[tuple[Contestants, Funnel], None]":
    """Open the engines once, for three funnels to share; the second given is SpecEyes' own."""
    from speceyes.assemble import arrange
    from speceyes.bench.demo import contestants_on

    async with arrange(options.choices) as eyes, contestants_on(eyes.funnel) as contestants:
        yield contestants, eyes.funnel


def _setup(options: DemoOptions, funnel: "Funnel") -> "Setup":
    from speceyes.bench.document import Setup
    from speceyes.bench.machine import read_commit, read_machine, read_versions

    parts, rules = funnel.parts, funnel.rules
    return Setup(
        items=options.items,
        seed=options.seed,
        concurrency=options.concurrency,
        small=parts.small.name,
        large=parts.agent.engine.name,
        protocol=parts.agent.protocol.name,
        gate=rules.gate,
        screen=rules.screen,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=read_commit(),
        versions=read_versions(),
        machine=read_machine(),
    )


def _finish(options: DemoOptions, sitting: Sitting, console: "Console") -> None:
    from speceyes.bench.document import Run, document
    from speceyes.bench.report import render
    from speceyes.bench.summary import summarise
    from speceyes.bench.terminal import summary_facts, summary_table

    if sitting.setup is None:
        raise ConfigError("items", "none was answered; there is nothing to report")
    ledger, setup = sitting.ledger, sitting.setup
    run = Run(
        setup=setup, records=ledger.records, times=ledger.times, is_partial=sitting.is_partial
    )
    summary = summarise(run.records, run.times, concurrency=setup.concurrency)
    console.print(summary_table(summary, width=console.width))
    console.print(summary_facts(summary))
    written = json.dumps(document(run, summary))
    (options.out / "result.json").write_text(written + "\n", encoding="utf-8")
    page = render(run, summary, sitting.items)
    (options.out / "report.html").write_text(page, encoding="utf-8")
    if sitting.is_partial:
        asked = f"{summary.overall.speceyes.accuracy.count} of {setup.items} items"
        console.print(f"interrupted: this is a partial report over {asked}", style="bold")
    console.print(f"report   {options.out / 'report.html'}", highlight=False, soft_wrap=True)
    console.print(f"records  {options.out / 'records.jsonl'}", highlight=False, soft_wrap=True)
    if options.as_json:
        print(written)


def _print_version(wanted: bool) -> None:
    if wanted:
        from speceyes import __version__

        print(__version__)
        sys.exit(0)


@contextmanager
def _records_file(folder: Path) -> "Iterator[TextIO]":
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "records.jsonl").open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError("out", f"{folder} cannot be written to: {error.strerror}") from error
    with file:
        yield file
