"""`speceyes serve` puts the funnel behind the chat-completions API.

It refuses to know how requests are answered.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used.

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from speceyes.commands.exits import named_errors
from speceyes.config import DEFAULT_ENGINE
from speceyes.errors import ConfigError

if TYPE_CHECKING:
    import typer

    from speceyes.gateway.settings_file import Plan

_NEEDED: Final = ("aiohttp", "httptools", "msgspec", "prometheus_client", "starlette", "uvicorn")


def add_serve(app: "typer.Typer") -> None:
    """Put the command on the command line."""
    import typer

    from speceyes.commands import flags

    @app.command()
    def serve(
        *,
        config: flags.Config = None,
        builtin: Annotated[
            bool, typer.Option("--builtin", help="Serve the built-in pair, which needs nothing.")
        ] = False,
        small: flags.Small = None,
        large: flags.Large = None,
        protocol: flags.Protocol = None,
        gate: flags.Gate = None,
        policy: flags.Policy = None,
        depth: flags.Depth = None,
        unsafe_python: flags.UnsafePython = False,
        host: Annotated[
            str | None, typer.Option(help="Address to listen at.", show_default="127.0.0.1")
        ] = None,
        port: Annotated[
            int | None,
            typer.Option(min=0, max=65535, help="Port; 0: a free one.", show_default="8400"),
        ] = None,
        workers: Annotated[
            int | None, typer.Option(min=1, help="Processes.", show_default="1")
        ] = None,
    ) -> None:
        """Serve the chat-completions API: clients change their base URL, no more."""
        with named_errors():
            _check_extra()
            if builtin and (small or large):
                raise ConfigError("builtin", "is both engines; give it, or --small and --large")
            engines = (DEFAULT_ENGINE, DEFAULT_ENGINE) if builtin else (small, large)
            settings = _given({"depth": depth, "unsafe_python": unsafe_python or None})
            told: dict[str, Any] = {
                "small": None if engines[0] is None else {"engine": engines[0]},
                "large": None if engines[1] is None else {"engine": engines[1]},
                "protocol": protocol,
                "policy": policy,
                "settings": settings or None,
                "gate": gate if gate in {None, "paper"} else str(Path(str(gate)).absolute()),
            }
            listening = {"host": host, "port": port, "workers": workers}
            run_serve(plan_for(config, _given(told), _given(listening)))


def plan_for(config: Path | None, flags: dict[str, Any], listening: dict[str, Any]) -> "Plan":
    """Put flags and settings file together. Raises: ConfigError naming the field."""
    from speceyes.gateway.settings_file import load_plan

    plan = load_plan(config, flags=flags)
    return replace(plan, settings=replace(plan.settings, **listening))


def run_serve(plan: "Plan") -> None:
    """Serve until told to end. Raises: SpecEyesError, the one that kept it from starting."""
    from speceyes.assemble_gateway import make_app
    from speceyes.gateway.serving import serve

    with ExitStack() as stack:
        folder = None
        if plan.settings.workers > 1:  # where they leave their figures for each other
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix="speceyes-"))
            folder = Path(made)
        serve(partial(make_app, plan, folder), plan.settings)


def _given(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if value is not None}


def _check_extra() -> None:
    missing = [package for package in _NEEDED if find_spec(package) is None]
    if missing:
        raise ConfigError("serve", f"needs {missing[0]}: pip install 'speceyes[gateway]'")
