"""The command line: all commands, put together.

It refuses to know what any of them does.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used, so
# that without it this file can still say what is missing.

import importlib.util
import sys
from typing import TYPE_CHECKING, Annotated, Final

from speceyes.commands.ask import add_ask
from speceyes.commands.bench import add_bench
from speceyes.commands.calibrate import add_calibrate
from speceyes.commands.demo import add_demo
from speceyes.commands.doctor import add_doctor
from speceyes.commands.exits import EXIT_FAILED, complain
from speceyes.commands.grade import add_grade
from speceyes.commands.key import add_key
from speceyes.commands.plan import add_plan
from speceyes.commands.report import add_report
from speceyes.commands.scores import add_scores
from speceyes.commands.serve import add_serve
from speceyes.commands.suite import add_suite
from speceyes.commands.sweep import add_sweep

if TYPE_CHECKING:
    import typer

_EXTRA: Final = ("typer", "rich")


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

    every = (
        add_demo,
        add_ask,
        add_doctor,
        add_serve,
        add_key,
        add_bench,
        add_report,
        add_grade,
        add_sweep,
        add_calibrate,
        add_scores,
        add_plan,
        add_suite,
    )
    for add in every:
        add(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from speceyes import __version__

        print(__version__)
        sys.exit(0)
