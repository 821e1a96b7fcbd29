"""`speceyes bench` runs a suite with one method or several; a run cut short can be gone on with.

It refuses to know how anything is answered, graded or drawn; it puts together what was asked for.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used.

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, get_args

from speceyes.bench.records import Method
from speceyes.commands.choosing import chosen
from speceyes.commands.exits import named_errors
from speceyes.config import DEFAULT_PROTOCOL, DEFAULTS, parse_screen_by, parse_screen_prompt
from speceyes.errors import ConfigError
from speceyes.gate import PAPER
from speceyes.screen import PAPER_SCREEN
from speceyes.settings_file import Choices

if TYPE_CHECKING:
    import typer

METHODS: Final[tuple[Method, ...]] = get_args(Method)
PRESETS: Final = ("paper", "paper-thinking")
PAPER_CONCURRENCY: Final = 6
PAPER_GRIDS: Final[Mapping[str, tuple[int, ...]]] = {  # the published ablation's batches
    "vstar": (1, 2, 4, 6),
    "hrbench": (1, 2, 4),
    "pope": (1, 2, 4, 8, 12, 16),
}
# (turns, tokens a turn) of the reference code's agents; other protocols keep their release's.
PAPER_BUDGETS: Final[Mapping[str, tuple[int, int]]] = {"deepeyes": (6, 512), "thyme": (5, 2048)}
PAPER_ANSWER_TOKENS: Final[Mapping[str, int]] = {"paper": 20, "paper-thinking": 1024}


def add_bench(app: "typer.Typer") -> None:
    """Put the command on the command line."""
    import typer

    from speceyes.commands import flags
    from speceyes.specreason import LEAST_SCORE

    @app.command()
    def bench(
        suite: flags.SuiteName,
        *,
        method: Annotated[
            list[str] | None,
            typer.Option(help=f"{', '.join(METHODS)}; several take turns.", show_default="all"),
        ] = None,
        out: Annotated[Path, typer.Option(help="The run's folder; a run there is gone on with.")],
        anew: Annotated[bool, typer.Option("--anew", help="Throw away what is there.")] = False,
        preset: Annotated[
            str | None,
            typer.Option(help=f"{', '.join(PRESETS)}: all choices of the reference code."),
        ] = None,
        small: flags.Small = None,
        large: flags.Large = None,
        protocol: flags.Protocol = None,
        policy: flags.Policy = None,
        depth: flags.Depth = None,
        screen: Annotated[
            str | None, typer.Option(help="Who screens: large, small, none.", show_default="large")
        ] = None,
        screen_prompt: Annotated[
            str | None,
            typer.Option(
                help="How it is asked: paper, or shared (as the agent's own prompt begins)."
            ),
        ] = None,
        gate: flags.Gate = None,
        threshold: Annotated[
            float | None, typer.Option(help="Another threshold for the same gate.")
        ] = None,
        least_score: Annotated[
            int, typer.Option(min=0, max=9, help="SpecReason accepts from this score on.")
        ] = LEAST_SCORE,
        concurrency: Annotated[
            str,
            typer.Option(
                help="Questions under way at once; several (1,2,4, or paper): a run for each.",
                show_default="1",
            ),
        ] = "",
        splits: flags.Splits = "",
        per_split: flags.PerSplit = None,
        seed: flags.Seed = 0,
        as_released: flags.AsReleased = False,
        config: flags.Config = None,
        system_prompt: flags.SystemPrompt = None,
        user_prompt: flags.UserPrompt = None,
        unsafe_python: flags.UnsafePython = False,
        as_json: flags.AsJson = False,
    ) -> None:
        """Run a suite, item by item, and report; killed, the same command goes on with it."""
        with named_errors():
            from rich.console import Console

            from speceyes.bench.suites.opening import open_suite
            from speceyes.commands.running import Job, perform
            from speceyes.commands.suite import split_names

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
            choices = with_screen(with_preset(choices, preset), screen, screen_prompt)
            named = parse_concurrency(concurrency, preset, suite=suite.partition(":")[0])
            opened = open_suite(
                suite,
                splits=split_names(splits),
                seed=seed,
                as_released=as_released or preset is not None,
                per_split=per_split,
            )
            job = Job(
                suite=opened,
                methods=parse_methods(method),
                choices=choices,
                concurrency=named[0],
                out=out,
                anew=anew,
                preset=preset,
                threshold=threshold,
                least_score=least_score,
            )
            jobs = [job]
            if len(named) > 1:
                jobs = [replace(job, concurrency=n, out=out / f"concurrency-{n}") for n in named]
            sys.exit(perform(jobs, Console(stderr=as_json), out=out, as_json=as_json))


def parse_concurrency(text: str, preset: str | None, *, suite: str) -> tuple[int, ...]:
    """Read how many questions are to be under way at once, perhaps several. Raises: ConfigError."""
    if text == "paper":
        if suite not in PAPER_GRIDS:
            raise ConfigError("concurrency", f"none was published for {suite}; name them: 1,2,4")
        return PAPER_GRIDS[suite]
    if not text.strip():
        return (PAPER_CONCURRENCY if preset else 1,)
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError("concurrency", f"{text!r} is no number, nor numbers and commas") from (
            error
        )
    if min(found) < 1 or len(set(found)) < len(found):
        raise ConfigError("concurrency", f"{text!r} is to be of different numbers above 0")
    return found


def parse_methods(named: list[str] | None) -> tuple[Method, ...]:
    """Read the methods' names; none means all. Raises: ConfigError naming the choices."""
    if not named:
        return METHODS
    for name in named:
        if name not in METHODS:
            choices = ", ".join(METHODS)
            raise ConfigError("method", f"{name!r} is unknown; choose from {choices}")
    return tuple(method for method in METHODS if method in named)


def with_preset(choices: Choices, preset: str | None) -> Choices:
    """Set every choice of the reference code that was not made by the caller.

    Gate (K = 64, squashed, strictly above .98), screen (up to ten tokens, passed when they begin
    with "no"), answer tokens, the agent's turns and tokens. Raises: ConfigError naming the choices.

    Source: reference eval_code_deepeyes/SpecEyes.py and eval_code_thyme/SpecEyes.py.
    """
    if preset is None:
        return choices
    if preset not in PRESETS:
        raise ConfigError("preset", f"{preset!r} is unknown; choose from {', '.join(PRESETS)}")
    settings = choices.settings
    turns, tokens = PAPER_BUDGETS.get(choices.protocol or DEFAULT_PROTOCOL, (None, None))
    if settings.max_answer_tokens == DEFAULTS.max_answer_tokens:
        settings = replace(settings, max_answer_tokens=PAPER_ANSWER_TOKENS[preset])
    settings = replace(
        settings,
        max_turns=settings.max_turns or turns,
        max_tokens_per_turn=settings.max_tokens_per_turn or tokens,
    )
    return replace(
        choices,
        gate=choices.gate or PAPER,
        screen=choices.screen or PAPER_SCREEN,
        settings=settings,
    )


def with_screen(choices: Choices, screen_by: str | None, prompt: str | None = None) -> Choices:
    """Let another model screen, or none, or ask otherwise. Raises: ConfigError."""
    settings = choices.settings
    if screen_by is not None:
        settings = replace(settings, screen_by=parse_screen_by(screen_by))
    if prompt is not None:
        settings = replace(settings, screen_prompt=parse_screen_prompt(prompt))
    return replace(choices, settings=settings)
