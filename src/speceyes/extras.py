"""A package that is not installed is named with the extra that brings it.

It refuses to know what the packages are for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from speceyes.errors import ConfigError

_T = TypeVar("_T")

_INSTALL: Final = {
    "local": "pip install 'speceyes[local]', with torch before it",
    "http": "pip install 'speceyes[http]'",
}
_EXTRAS: Final = {
    **dict.fromkeys(("jinja2", "safetensors", "tokenizers", "torch", "transformers"), "local"),
    **dict.fromkeys(("aiohttp", "msgspec"), "http"),
}


def with_extra(field: str, work: Callable[[], _T]) -> _T:
    """Do work that imports an engine's packages. Raises: ConfigError naming one that is missing."""
    # Importing engines imports torch, say: seconds, and perhaps it is not installed.
    try:
        return work()
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise ConfigError(field, f"needs {error.name}: {_INSTALL[extra]}") from error
