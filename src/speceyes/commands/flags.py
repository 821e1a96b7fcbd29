"""The flags that several commands offer alike, as types of their parameters.

It loads typer, so commands import it when they are put on the command line.
"""

from pathlib import Path
from typing import Annotated

import typer

from speceyes.config import DEFAULT_ENGINE, DEFAULT_POLICY, DEFAULT_PROTOCOL

Small = Annotated[
    str | None, typer.Option(help="Engine that speculates.", show_default=DEFAULT_ENGINE)
]
Large = Annotated[str | None, typer.Option(help="Engine with tools.", show_default=DEFAULT_ENGINE)]
Protocol = Annotated[
    str | None,
    typer.Option(help="How the large one calls its tools.", show_default=DEFAULT_PROTOCOL),
]
Policy = Annotated[
    str | None,
    typer.Option(help="serial, overlap, race, adaptive.", show_default=DEFAULT_POLICY),
]
Depth = Annotated[
    int | None,
    typer.Option(min=0, help="How often the small one may look closer.", show_default="0"),
]
Gate = Annotated[
    str | None, typer.Option(help="paper, FILE.json or FILE.toml; the built-in pair has its own.")
]
Config = Annotated[Path | None, typer.Option(help="Settings file; flags go before it.")]
SystemPrompt = Annotated[Path | None, typer.Option(help="File with a release's own system prompt.")]
UserPrompt = Annotated[
    Path | None, typer.Option(help="File with its user prompt, with {question} in it.")
]
UnsafePython = Annotated[
    bool,
    typer.Option("--unsafe-python", help="Run code that the model writes WITHOUT a sandbox."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, last.")]

# Which part of which suite.
SuiteName = Annotated[
    str, typer.Argument(help="builtin, vstar, hrbench, pope, NAME:DIR, NAME:ORG/NAME, jsonl:FILE.")
]
Splits = Annotated[str, typer.Option(help="Splits, parted by commas; all if none.")]
Seed = Annotated[int, typer.Option(min=0, help="Orders options; draws builtin.")]
AsReleased = Annotated[
    bool, typer.Option("--as-released", help="Leave options in the release's order.")
]
PerSplit = Annotated[
    int | None, typer.Option(min=1, help="Only so many of each split, the first ones.")
]
