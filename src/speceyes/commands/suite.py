"""`speceyes suite show` says what a suite is; `speceyes suite export` writes the built-in one down.

It refuses to know formats.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used.

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from speceyes.bench.items import Spoiled, Suite, SuiteFacts
from speceyes.commands.exits import named_errors

if TYPE_CHECKING:
    import typer
    from rich.console import Console

    from speceyes.bench.suites.export import Exported

_SHOWN_SPOILED: Final = 5


class Format(StrEnum):
    """A format to export in, as typer offers it."""

    VSTAR = "vstar"
    HRBENCH = "hrbench"
    POPE = "pope"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A suite looked through: its facts, how many items came, and the rows that are spoiled."""

    facts: SuiteFacts
    items: int
    spoiled: tuple[Spoiled, ...]


def add_suite(app: "typer.Typer") -> None:
    """Put the commands on the command line."""
    import typer

    from speceyes.bench.suites.export import DEFAULT_PER_SPLIT
    from speceyes.commands import flags

    group = typer.Typer(help="Look at a suite, or export the built-in one.", no_args_is_help=True)

    @group.command()
    def show(
        suite: flags.SuiteName,
        *,
        splits: flags.Splits = "",
        seed: flags.Seed = 0,
        as_released: flags.AsReleased = False,
        per_split: flags.PerSplit = None,
        as_json: flags.AsJson = False,
    ) -> None:
        """Read a suite through: sizes against the release's, checksum, rows that are spoiled."""
        with named_errors():
            from speceyes.bench.suites.opening import open_suite

            opened = open_suite(
                suite,
                splits=split_names(splits),
                seed=seed,
                as_released=as_released,
                per_split=per_split,
            )
            run_show(opened, as_json=as_json)

    @group.command()
    def export(
        *,
        form: Annotated[Format, typer.Option("--format", help="The public suite to write as.")],
        out: Annotated[Path, typer.Option(help="A new or empty folder.")],
        per_split: Annotated[
            int, typer.Option(min=1, help="So many of each split.")
        ] = DEFAULT_PER_SPLIT,
        seed: Annotated[int, typer.Option(min=0, help="Which questions: any number.")] = 0,
        as_json: flags.AsJson = False,
    ) -> None:
        """Write the built-in suite in the format of a public one."""
        with named_errors():
            from speceyes.bench.suites.export import export_suite

            exported = export_suite(form.value, out, per_split=per_split, seed=seed)
            run_export(exported, form.value, as_json=as_json)

    app.add_typer(group, name="suite")


def split_names(text: str) -> tuple[str, ...]:
    """Read the names of splits, parted by commas; () means all.

    >>> split_names("4k, 8k")
    ('4k', '8k')
    """
    return tuple(name for part in text.split(",") if (name := part.strip()))


def inspect_suite(suite: Suite) -> Inspection:
    """Read a suite through, keeping nothing but what is wrong."""
    items, spoiled = 0, []
    for entry in suite.entries():
        if isinstance(entry, Spoiled):
            spoiled.append(entry)
        else:
            items += 1
    return Inspection(facts=suite.facts, items=items, spoiled=tuple(spoiled))


def run_show(suite: Suite, *, as_json: bool) -> None:
    """Read a suite through and show what was found. Raises: SuiteError if a file cannot be read."""
    from rich.console import Console

    console = Console(stderr=as_json)
    found = inspect_suite(suite)
    show_inspection(console, found)
    if as_json:
        print(json.dumps(laid_out(found)))


def show_inspection(console: "Console", found: Inspection) -> None:
    """Show sizes, checksum and the first spoiled rows."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    facts = found.facts
    table = Table("split", "entries", "released", box=SIMPLE_HEAD)
    for split, count in facts.counts.items():
        released = facts.released.get(split)
        differs = split in facts.deviations
        told = "–" if released is None else str(released)
        table.add_row(split, str(count), told, style="bold red" if differs else None)
    console.print(f"{facts.source}: {facts.total} entries in all", style="bold", highlight=False)
    console.print(table)
    for split, (count, released) in facts.deviations.items():
        told = f"{split} has {count} entries where the release has {released}"
        console.print(told, style="bold red", highlight=False)
    order = "as released" if facts.as_released else f"seed {facts.seed}"
    console.print(f"checksum {facts.checksum} ({order})", highlight=False, soft_wrap=True)
    if found.spoiled:
        told = f"{len(found.spoiled)} spoiled, each of which counts as failed:"
        console.print(told, style="bold red", highlight=False)
    for entry in found.spoiled[:_SHOWN_SPOILED]:
        console.print(f"  {entry.error}", markup=False, highlight=False, soft_wrap=True)
    if len(found.spoiled) > _SHOWN_SPOILED:
        console.print(f"  and {len(found.spoiled) - _SHOWN_SPOILED} more")


def laid_out(found: Inspection) -> dict[str, Any]:
    """Put an inspection into plain values."""
    facts = found.facts
    return {
        **asdict(facts),
        "total": facts.total,
        "deviations": {split: list(pair) for split, pair in facts.deviations.items()},
        "items": found.items,
        "spoiled": [
            {"item_id": entry.item_id, "split": entry.split, "error": str(entry.error)}
            for entry in found.spoiled
        ],
    }


def run_export(exported: "Exported", form: str, *, as_json: bool) -> None:
    """Say what was exported, and how to read it back."""
    from rich.console import Console

    console = Console(stderr=as_json)
    counts = ", ".join(f"{count} {split}" for split, count in exported.counts.items())
    console.print(f"wrote {counts}: {exported.note}", highlight=False, soft_wrap=True)
    console.print(f"open it as {form}:{exported.out}", markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(asdict(exported) | {"out": str(exported.out)}))
