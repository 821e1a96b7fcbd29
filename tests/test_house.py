"""The house rules of ARCHITECTURE.md, held over every module of src/speceyes.

A new module belongs in a room of `ROOMS` (tests/rooms.py). Each rule is a function from the source
to complaints; each is also shown a breach that it must find.
"""

from __future__ import annotations

import ast
import graphlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path

import pytest

from tests.rooms import ROOMS

SRC = Path(__file__).resolve().parents[1] / "src"

MAX_FILE_LINES = 400  # a file stays under this
MAX_FUNCTION_P95_LINES = 45
MAX_IMPORT_MS = 150
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "base", "handler"}
IMPURE = {"asyncio", "os", "random", "shutil", "socket", "subprocess", "tempfile", "threading"}
IMPURE |= {"time", "urllib"}
HEAVY = {
    "PIL",
    "aiohttp",
    "httpx",
    "jinja2",
    "matplotlib",
    "msgspec",
    "rich",
    "torch",
    "transformers",
    "typer",
}


@dataclass(frozen=True)
class Module:
    """One source file under its dotted name within speceyes; the package itself is ''."""

    name: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        kinds = ast.FunctionDef | ast.AsyncFunctionDef
        return [node for node in ast.walk(self.tree) if isinstance(node, kinds)]

    @property
    def room(self) -> str | None:
        for room, spec in ROOMS.items():
            if any(fnmatchcase(self.name, pattern) for pattern in spec.modules):
                return room
        return None

    def imports(self, known: frozenset[str]) -> Iterator[tuple[int, str, bool]]:
        """Give (line, target, ours) of every import, also deferred ones and for types only."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                head = node.module or ""
                if node.level:
                    raise AssertionError(f"{self.name}:{node.lineno}: import by absolute name")
                # `from speceyes.engines import replay` names a module, `import Query` a thing in it
                targets = [
                    full if (full := f"{head}.{alias.name}")[9:] in known else head
                    for alias in node.names
                ]
            else:
                continue
            for target in sorted(set(targets)):
                package, _, rest = target.partition(".")
                ours = package == "speceyes"
                yield node.lineno, rest if ours else package, ours


Modules = list[Module]
Rule = Callable[[Modules], list[str]]


def names_of(modules: Modules) -> frozenset[str]:
    return frozenset(module.name for module in modules)


def every_module_has_a_room(modules: Modules) -> list[str]:
    return [
        f"{m.name}: in no room; add it to one in ROOMS (tests/rooms.py), or open a new one"
        for m in modules
        if m.room is None
    ]


def doors_are_one_way(modules: Modules) -> list[str]:
    known, rooms = names_of(modules), {m.name: m.room for m in modules}
    complaints = []
    for module in modules:
        if module.room is None:
            continue
        doors = (module.room, *ROOMS[module.room].doors)
        for line, target, ours in module.imports(known):
            if ours and rooms.get(target) not in doors:
                complaints.append(
                    f"{module.name}:{line}: {module.room} has no door to "
                    f"{rooms.get(target, 'nowhere')} ({target or 'speceyes'})"
                )
    return complaints


def packages_stay_in_their_rooms(modules: Modules) -> list[str]:
    known = names_of(modules)
    return [
        f"{module.name}:{line}: {module.room} does not use {target}"
        for module in modules
        if module.room is not None
        for line, target, ours in module.imports(known)
        if not ours
        and target not in sys.stdlib_module_names
        and target not in ROOMS[module.room].packages
    ]


def imports_form_no_cycle(modules: Modules) -> list[str]:
    known = names_of(modules)
    graph = {m.name: {t for _, t, ours in m.imports(known) if ours} for m in modules}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" -> ".join(name or "speceyes" for name in error.args[1])]
    return []


def pure_rooms_touch_nothing(modules: Modules) -> list[str]:
    known = names_of(modules)
    complaints = []
    for module in modules:
        if module.room is None or not ROOMS[module.room].pure:
            continue
        for line, target, ours in module.imports(known):
            if not ours and target in IMPURE:
                complaints.append(f"{module.name}:{line}: pure, yet imports {target}")
        complaints += [
            f"{module.name}:{node.lineno}: pure, yet calls {node.id}()"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Name) and node.id in {"open", "print", "input"}
        ]
    return complaints


def files_are_short(modules: Modules) -> list[str]:
    return [
        f"{m.name}: {lines} lines; a file stays under {MAX_FILE_LINES}"
        for m in modules
        if (lines := len(m.source.splitlines())) >= MAX_FILE_LINES
    ]


def functions_are_short(modules: Modules) -> list[str]:
    lengths = sorted(
        ((f.end_lineno or f.lineno) - f.lineno + 1, f"{m.name}:{f.lineno} {f.name}")
        for m in modules
        for f in m.functions
    )
    if not lengths:
        return []
    p95 = lengths[math.ceil(0.95 * len(lengths)) - 1][0]
    if p95 <= MAX_FUNCTION_P95_LINES:
        return []
    longest = ", ".join(f"{where} ({lines})" for lines, where in reversed(lengths[-5:]))
    return [f"function p95 is {p95} lines, not {MAX_FUNCTION_P95_LINES}; longest: {longest}"]


def everything_is_annotated(modules: Modules) -> list[str]:
    complaints = []
    for module in modules:
        for function in module.functions:
            spec = function.args
            named = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
            bare = [
                a.arg for a in named if a and a.annotation is None and a.arg not in {"self", "cls"}
            ]
            if function.returns is None:
                bare.append("return")
            complaints += [f"{module.name}:{function.lineno}: {name} unannotated" for name in bare]
    return complaints


def names_say_something(modules: Modules) -> list[str]:
    return [
        f"{m.name}: name it after the one question it answers"
        for m in modules
        if FORBIDDEN_NAMES & set(re.split(r"[._]", m.name))
    ]


def input_is_checked_with_errors(modules: Modules) -> list[str]:
    return [
        f"{m.name}:{node.lineno}: assert vanishes under -O; raise a named error"
        for m in modules
        for node in ast.walk(m.tree)
        if isinstance(node, ast.Assert)
    ]


def every_file_opens_with_a_sentence(modules: Modules) -> list[str]:
    return [
        f"{m.name or 'speceyes'}: opens without a docstring"
        for m in modules
        if m.source.strip() and not ast.get_docstring(m.tree)
    ]


GATE_USER = Module("gate", "import numpy")
LONG = "def f() -> None:\n" + "    f()\n" * MAX_FUNCTION_P95_LINES

# Every rule, and a breach that it must find.
RULES: dict[Rule, Modules] = {
    every_module_has_a_room: [Module("brand_new", "")],
    doors_are_one_way: [
        Module("gate", "def f():\n    import speceyes.funnel"),
        Module("funnel", ""),
    ],
    packages_stay_in_their_rooms: [Module("funnel", "import torch.nn")],
    imports_form_no_cycle: [
        Module("agent", "if TYPE_CHECKING:\n    from speceyes.funnel import x"),
        Module("funnel", "from speceyes import agent"),
    ],
    pure_rooms_touch_nothing: [Module("gate", "def f(path):\n    return open(path)")],
    files_are_short: [Module("gate", "x = 1\n" * MAX_FILE_LINES)],
    functions_are_short: [Module("gate", LONG)],
    everything_is_annotated: [Module("gate", "def f(self, *, k: int, **more: int): ...")],
    names_say_something: [Module("engines.http_utils", "")],
    input_is_checked_with_errors: [Module("gate", "def f(k: int) -> None:\n    assert k > 2")],
    every_file_opens_with_a_sentence: [Module("gate", "import math")],
}


@cache
def read_house() -> Modules:
    root = SRC / "speceyes"
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, path.read_text(encoding="utf-8")))
    return found


def rule_name(rule: object) -> str:
    return getattr(rule, "__name__", "breach")


def test_the_house_stands():
    assert {"types", "gate", "funnel", "agent"} <= names_of(read_house())


@pytest.mark.parametrize("rule", RULES, ids=rule_name)
def test_rule_holds(rule: Rule):
    complaints = rule(read_house())
    assert not complaints, "\n".join(["", *complaints])


@pytest.mark.parametrize(("rule", "breach"), RULES.items(), ids=rule_name)
def test_rule_finds_its_breach(rule: Rule, breach: Modules):
    assert len(rule(breach)) == 1


def test_rooms_only_look_up():
    order = list(ROOMS)
    downward = [
        (room, door)
        for room, spec in ROOMS.items()
        for door in spec.doors
        if order.index(door) >= order.index(room)
    ]
    assert downward == []


def test_every_room_is_lived_in():
    lived_in = {module.room for module in read_house()}
    assert [room for room in ROOMS if room not in lived_in] == []


PROBE = """
import json, sys, time
import numpy
before = set(sys.modules)
start_s = time.process_time()
import speceyes
cost_ms = 1000 * (time.process_time() - start_s)
for name in dir(speceyes):  # public names are resolved on first use
    getattr(speceyes, name)
print(json.dumps({"cost_ms": cost_ms, "loaded": sorted(set(sys.modules) - before)}))
"""


def import_afresh() -> tuple[float, set[str]]:
    """Import speceyes in a new interpreter: its CPU time in ms, and the packages then loaded.

    CPU time, not wall-clock time, so that a busy machine counts less.
    """
    words = [sys.executable, "-c", PROBE]
    here = os.environ | {"PYTHONPATH": str(SRC)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=here)
    found = json.loads(done.stdout)
    return found["cost_ms"], {name.partition(".")[0] for name in found["loaded"]}


def test_importing_speceyes_is_light():
    runs = [import_afresh() for _ in range(6)]  # the first one may have to compile
    assert runs[-1][1] & HEAVY == set()
    best_ms = min(cost_ms for cost_ms, _ in runs[1:])
    print(f"import speceyes: {best_ms:.0f} ms of CPU beyond numpy")
    assert best_ms < MAX_IMPORT_MS
