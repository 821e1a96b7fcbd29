"""`speceyes doctor` says if two engines can do the funnel's work, and what to mend if not.

It refuses to know what is looked at; it opens the engines, and shows what was found.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used.

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from speceyes.commands.choosing import chosen
from speceyes.commands.exits import EXIT_FAILED, named_errors
from speceyes.config import DEFAULT_ENGINE
from speceyes.engine_names import PairRole, is_pair, parse_engine
from speceyes.gate import PAPER
from speceyes.settings_file import Choices

if TYPE_CHECKING:
    import typer
    from rich.console import Console
    from rich.text import Text

    from speceyes.doctor.findings import Finding, Status
    from speceyes.doctor.visit import Report

_MARKS: "Final[dict[Status, tuple[str, str]]]" = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "failure": ("FAILURE", "bold red"),
    "unknown": ("unknown", "dim"),
}


def add_doctor(app: "typer.Typer") -> None:
    """Put the command on the command line."""
    from speceyes.commands import flags

    @app.command()
    def doctor(
        *,
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
        """Look at two engines: what works, what does not, and how to mend it."""
        with named_errors():
            choices = chosen(
                config=config,
                small=small,
                large=large,
                protocol=protocol,
                gate=gate,
                system_prompt=system_prompt,
                user_prompt=user_prompt,
                unsafe_python=unsafe_python,
            )
            sys.exit(run_doctor(choices, as_json=as_json))


def run_doctor(choices: Choices, *, as_json: bool) -> int:
    """Visit both engines and show what was found; gives the exit code, 0 if the funnel can run."""
    import anyio
    from rich.console import Console

    from speceyes.doctor.visit import as_json as laid_out

    console = Console(stderr=as_json)
    report = anyio.run(_visit, with_some_gate(choices))
    show_report(console, report)
    if as_json:
        print(json.dumps(laid_out(report)))
    return 0 if report.can_run else EXIT_FAILED


def with_some_gate(choices: Choices) -> Choices:
    """Where engines have no gate yet, take the published one: a visit comes before calibration."""
    named: dict[PairRole, str | None] = {"small": choices.small, "large": choices.large}
    sources = {
        role: parse_engine(name or DEFAULT_ENGINE, role=role) for role, name in named.items()
    }
    is_builtin = is_pair(sources["small"], sources["large"])
    return choices if is_builtin or choices.gate is not None else replace(choices, gate=PAPER)


async def _visit(choices: Choices) -> "Report":
    from speceyes.assemble import arrange
    from speceyes.doctor.visit import Visit

    async with arrange(choices) as eyes:
        return await Visit(parts=eyes.funnel.parts, rules=eyes.funnel.rules).run()


def show_report(console: "Console", report: "Report") -> None:
    """Show the findings, one line each, and under each that is not ok its mend."""
    from rich.text import Text

    names = {"small": report.small, "large": report.large}
    console.print(f"protocol {report.protocol}, gate with K = {report.gate_k}", highlight=False)
    role = None
    for finding in report.findings:
        if finding.role != role:
            role = finding.role
            console.print(Text(f"{role}: {names[role]}", style="bold"))
        for line in _lines(finding):
            console.print(line, soft_wrap=True)
    if report.can_run:
        console.print(Text("The funnel can run.", style="bold green"))
    else:
        failed = sum(finding.status == "failure" for finding in report.findings)
        told = f"The funnel cannot run: {failed} of {len(report.findings)} findings are failures."
        console.print(Text(told, style="bold red"))


def _lines(finding: "Finding") -> "list[Text]":
    from rich.text import Text

    word, style = _MARKS[finding.status]
    line = Text.assemble("  ", (f"{word:<8}", style), f"{finding.subject:<24}", finding.told)
    if finding.mend is None:
        return [line]
    return [line, Text(f"{'':<34}mend: {finding.mend}", style="italic")]
