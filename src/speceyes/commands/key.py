"""`speceyes key` makes a key for the gateway, and the entry of the settings file that knows it.

It refuses to keep the key: the entry holds its hash, and the key is shown once.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used.

import sys
from typing import TYPE_CHECKING, Annotated

from speceyes.commands.exits import named_errors

if TYPE_CHECKING:
    import typer


def add_key(app: "typer.Typer") -> None:
    """Put the command on the command line."""
    import typer

    @app.command()
    def key(name: Annotated[str, typer.Argument(help="Whose key it is.")]) -> None:
        """Make a key for the gateway: the key on the standard error, its entry on the output.

        The entry goes into speceyes.toml (`speceyes key anna >> speceyes.toml`), the key to whom it
        is for.
        """
        with named_errors():
            made, entry = make_key(name)
        print(made, file=sys.stderr)
        print(entry)


def make_key(name: str) -> tuple[str, str]:
    """Make a key and its entry. Raises: ConfigError for a name that is none."""
    from speceyes.gateway.guard.keys import hash_key, new_key
    from speceyes.gateway.settings import Key

    made = new_key()
    known = Key(name=name, sha256=hash_key(made))
    return made, f'\n[[gateway.keys]]\nname = "{known.name}"\nsha256 = "{known.sha256}"'
