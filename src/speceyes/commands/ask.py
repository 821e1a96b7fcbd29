"""`speceyes ask` answers one question about a picture, and shows its way through the phases.

It refuses to know how anything is answered or drawn.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used.

import json
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from speceyes.commands.choosing import chosen
from speceyes.commands.exits import named_errors
from speceyes.events import Answer, Event, fold
from speceyes.settings_file import Choices

if TYPE_CHECKING:
    import typer
    from rich.console import Console

    from speceyes.types import Query


def add_ask(app: "typer.Typer") -> None:
    """Put the command on the command line."""
    import typer

    from speceyes.commands import flags

    @app.command()
    def ask(
        image: Annotated[Path, typer.Argument(help="Picture to ask about.")],
        question: Annotated[str, typer.Argument(help="What to ask.")],
        *,
        option: Annotated[
            list[str] | None, typer.Option(help="An answer to choose from; give two or more.")
        ] = None,
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
        """Answer one question about a picture, and show its way through the phases."""
        with named_errors():
            from speceyes.pictures import open_picture
            from speceyes.types import Query

            query = Query(question, (open_picture(image),), tuple(option or ()))
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
            run_ask(query, choices, as_json=as_json)


def run_ask(query: "Query", choices: Choices, *, as_json: bool) -> None:
    """Answer one query and show its way. Raises: SpecEyesError, the one it failed with."""
    import anyio
    from rich.console import Console

    from speceyes.bench.telling import show_answer

    console = Console(quiet=as_json)
    answer = anyio.run(_follow, query, choices, console)
    if as_json:
        print(json.dumps(_plain(answer)))
    else:
        show_answer(console, answer)


async def _follow(query: "Query", choices: Choices, console: "Console") -> Answer:
    from speceyes.assemble import arrange
    from speceyes.bench.telling import show_event

    events: list[Event] = []
    async with arrange(choices) as eyes, aclosing(eyes.stream(query)) as stream:
        async for event in stream:
            events.append(event)
            show_event(console, event)
    return fold(events)


def _plain(answer: Answer) -> dict[str, Any]:
    verdict = answer.verdict
    return {
        "text": answer.text,
        "route": answer.route,
        "reason": answer.reason,
        "p_tool": answer.p_tool,
        "verdict": None if verdict is None else asdict(verdict),
        "depth": answer.depth,
        "turns": answer.turns,
        "elapsed_s": answer.elapsed_s,
        "phase_s": dict(answer.phase_s),
        "usage_by_phase": {phase: asdict(used) for phase, used in answer.usage_by_phase.items()},
    }
