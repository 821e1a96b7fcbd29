"""Code as models write it is made fit to run where only its wrapping or its indentation is off.

It refuses to know what the code does: nothing else is ever changed, and each repair has a name.
"""

from __future__ import annotations

import re
import textwrap
from typing import Final

FENCE: Final = "fence"
INDENTATION: Final = "indentation"
FIRST_LINE: Final = "first_line_indentation"
PATHS: Final = "paths"  # only where there are no walls, and so no folders of these names
REPAIRS: Final = (FENCE, INDENTATION, FIRST_LINE, PATHS)

_FENCED: Final = re.compile(r"\s*```(?:python|py)[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)
_FENCE_LINE: Final = re.compile(r"[ \t]*```[\w+-]*[ \t]*")


def mend(code: str) -> tuple[str, tuple[str, ...]]:
    r"""Give code that compiles if wrapping and indentation were all that kept it from that.

    A whole fence is the form in which code is asked for, so taking it off is no repair.

    >>> mend("```python\nx = 1\n```")
    ('x = 1', ())
    >>> mend("x = 1\n```")
    ('x = 1', ('fence',))
    >>> mend("x = 1\n    y = 2")
    ('x = 1\ny = 2', ('first_line_indentation',))
    """
    repairs: tuple[str, ...] = ()
    whole = _FENCED.fullmatch(code)
    if whole is not None and "```" not in whole[1]:
        code = whole[1]
    else:
        code, repairs = _without_fences(code)
    if _compiles(code):
        return code, repairs
    dedented = textwrap.dedent(code).strip("\n")
    if dedented != code and _compiles(dedented):
        return dedented, (*repairs, INDENTATION)
    aligned = textwrap.dedent(_first_line_aligned(code)).strip("\n")
    if _compiles(aligned):
        return aligned, (*repairs, FIRST_LINE)
    return code, repairs


def _without_fences(code: str) -> tuple[str, tuple[str, ...]]:
    lines = code.split("\n")
    kept = [line for line in lines if not _FENCE_LINE.fullmatch(line)]
    if len(kept) == len(lines) or _compiles(code):  # a fence may stand in a string
        return code, ()
    return "\n".join(kept), (FENCE,)


def _first_line_aligned(code: str) -> str:
    lines = code.split("\n")
    filled = [index for index, line in enumerate(lines) if line.strip()]
    if len(filled) < 2:
        return code
    first, second = filled[:2]
    indent = lines[second][: len(lines[second]) - len(lines[second].lstrip())]
    lines[first] = indent + lines[first].lstrip()
    return "\n".join(lines)


def _compiles(code: str) -> bool:
    try:
        compile(code, "<code>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    return True
