"""`speceyes demo` lets the agent alone, SpecEyes and the small model answer the same questions.

It refuses to know how anything is answered, graded or drawn: a demo is a run of the built-in suite.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used.

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from speceyes.bench.records import Method
from speceyes.commands.choosing import chosen
from speceyes.commands.exits import named_errors

if TYPE_CHECKING:
    import typer

OUT: Final = Path("runs/demo")
DEFAULT_ITEMS: Final = 120
METHODS: Final[tuple[Method, ...]] = ("baseline", "speceyes", "small")


def add_demo(app: "typer.Typer") -> None:
    """Put the command on the command line."""
    import typer

    from speceyes.commands import flags

    @app.command()
    def demo(
        *,
        items: Annotated[int, typer.Option(min=1, help="How many questions.")] = DEFAULT_ITEMS,
        seed: Annotated[int, typer.Option(min=0, help="Which questions: any number.")] = 0,
        concurrency: Annotated[int, typer.Option(min=1, help="Questions under way at once.")] = 1,
        out: Annotated[
            Path, typer.Option(help="Folder to write to; an earlier demo there is replaced.")
        ] = OUT,
        small: flags.Small = None,
        large: flags.Large = None,
        protocol: flags.Protocol = None,
        policy: flags.Policy = None,
        depth: flags.Depth = None,
        gate: flags.Gate = None,
        config: flags.Config = None,
        system_prompt: flags.SystemPrompt = None,
        user_prompt: flags.UserPrompt = None,
        unsafe_python: flags.UnsafePython = False,
        as_json: flags.AsJson = False,
    ) -> None:
        """Let the agent alone and SpecEyes answer the same questions, and write a report."""
        with named_errors():
            from rich.console import Console

            from speceyes.bench.document import demo_document
            from speceyes.bench.suites.opening import open_suite
            from speceyes.commands.running import Job, perform

            choices = chosen(
                config=config,
                small=small,
                large=large,
                protocol=protocol,
                policy=policy,
                depth=depth,
                gate=gate,
                system_prompt=system_prompt,
                user_prompt=user_prompt,
                unsafe_python=unsafe_python,
            )
            job = Job(
                suite=open_suite(f"builtin:{items}", seed=seed),
                methods=METHODS,
                choices=choices,
                concurrency=concurrency,
                out=out,
                anew=True,
            )
            console = Console(stderr=as_json)
            sys.exit(perform([job], console, out=out, document=demo_document, as_json=as_json))
