"""How a command ends: with which exit code, and with one clear line when it failed.

It refuses to know commands. What a caller did wrong is exit code 2, never a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from speceyes.errors import InputError, SpecEyesError

EXIT_FAILED: Final = 1
EXIT_INPUT: Final = 2
EXIT_INTERRUPTED: Final = 130


@contextmanager
def named_errors() -> Iterator[None]:
    """Turn an error that has a name into its line and its exit code."""
    try:
        yield
    except SpecEyesError as error:
        complain(str(error))
        sys.exit(EXIT_INPUT if isinstance(error, InputError) else EXIT_FAILED)
    except OSError as error:
        complain(f"{error.filename or 'a file'}: {error.strerror or error}")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(EXIT_INTERRUPTED)


def complain(what: str) -> None:
    """Say on the standard error what is wrong."""
    print(f"speceyes: {what}", file=sys.stderr)
