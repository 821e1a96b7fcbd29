"""The rooms of src/speceyes: which modules belong together, and where each room may look."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """Modules that belong together, the rooms they may look into, the packages they may use."""

    modules: tuple[str, ...]
    doors: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    pure: bool = False  # no clock, no file, no socket, no process, no hidden randomness


PURE = ("nouns", "gate", "calibration", "story", "protocols", "tools", "items", "scenes")
TORCH = ("numpy", "PIL", "jinja2", "safetensors", "tokenizers", "torch", "transformers")

# Top to bottom: a room looks only into its own modules and into rooms above it. Patterns are
# relative to `speceyes`; the first room with a matching one counts.
ROOMS: dict[str, Room] = {
    "nouns": Room(
        ("types", "earlier", "errors", "generations", "notebook", "tables", "meter", "load"),
        (),
        ("numpy",),
        pure=True,
    ),
    "gate": Room(("gate", "screen", "specs"), ("nouns",), ("numpy",), pure=True),
    "calibration": Room(("calibration", "calibration.*"), ("nouns", "gate"), ("numpy",), pure=True),
    # Shadow mode's pure part: settings, what is watched, what is written down.
    "watch": Room(
        ("shadow.settings", "shadow.watch", "shadow.records", "shadow.state"),
        ("nouns", "gate", "calibration"),
        pure=True,
    ),
    "story": Room(("events",), ("nouns", "gate"), pure=True),
    "protocols": Room(("prompts", "protocols", "protocols.*"), ("nouns",), pure=True),
    "tools": Room(
        (
            "tools",
            "tools.calls",
            "tools.limits",
            "tools.refusals",
            "tools.sandbox",
            "tools.seccomp",
            "tools.zoom",
        ),
        ("nouns",),
        pure=True,
    ),
    "items": Room(("bench.items",), ("nouns",), pure=True),
    "scenes": Room(
        ("builtin.scenes", "builtin.zones", "builtin.questions", "builtin.suite"),
        ("nouns", "items"),
        ("numpy", "PIL"),
        pure=True,
    ),
    "scores": Room(
        (
            "bench.agreement",
            "bench.candidates",
            "bench.grade",
            "bench.questioning",
            "bench.reading",
            "bench.reading.*",
            "bench.selective",
            "bench.stats",
        ),
        ("nouns", "gate", "items"),
        ("numpy",),
        pure=True,
    ),
    "wire": Room(("engines.wire", "engines.wire.*"), ("nouns",), ("msgspec", "numpy"), pure=True),
    "config": Room(
        ("config", "engine_names", "extras", "gate_match", "settings_file"),
        ("nouns", "gate", "calibration", "protocols", "tools", "wire"),
    ),
    "pictures": Room(("pictures",), ("nouns",), ("numpy", "PIL")),
    # What runs in another process, where nothing else of speceyes is.
    "inside": Room(("tools.inside", "tools.inside.*"), (), ("PIL", "matplotlib", "numpy")),
    "code": Room(
        (
            "tools.host",
            "tools.launching",
            "tools.outcomes",
            "tools.process",
            "tools.python",
            "tools.warm_pool",
        ),
        ("nouns", "tools", "inside", "pictures"),
        ("anyio",),
    ),
    "shelf": Room(("engines.shelf",)),
    # The gateway's pure part: JSON to values and back, settings, what is counted.
    "exchange": Room(
        (
            "gateway.calibrated",
            "gateway.figures",
            "gateway.measures",
            "gateway.observing",
            "gateway.reports",
            "gateway.series",
            "gateway.settings",
            "gateway.shadowing",
            "gateway.spans",
            "gateway.stats",
            "gateway.steps",
            "gateway.trace_context",
            "gateway.wire",
            "gateway.wire.*",
        ),
        ("nouns", "gate", "calibration", "watch", "story"),
        ("msgspec",),
        pure=True,
    ),
    "suites": Room(
        ("bench.suites", "bench.suites.*"),
        ("nouns", "items", "scenes", "pictures"),
        ("PIL", "huggingface_hub", "numpy", "pyarrow"),
    ),
    "orchestration": Room(
        ("agent", "phases", "policies", "policies.*", "funnel", "specreason"),
        ("nouns", "gate", "story"),
        ("anyio",),
    ),
    "shadow": Room(
        ("shadow", "shadow.*"),
        ("nouns", "gate", "calibration", "watch", "story", "scores", "orchestration"),
        ("anyio",),
    ),
    "replay": Room(("engines", "engines.replay"), ("nouns",), ("anyio", "numpy")),
    "http": Room(
        (
            "engines.http",
            "engines.server_load",
            "engines.transport",
            "engines.payload",
            "engines.dataurls",
            "engines.kept",
        ),
        ("nouns", "wire", "pictures", "shelf"),
        ("aiohttp", "anyio", "msgspec"),
    ),
    "local": Room(("engines.*",), ("nouns", "pictures", "shelf"), ("anyio", *TORCH)),
    "pair": Room(("builtin", "builtin.pair"), (*PURE, "pictures", "local"), ("anyio", *TORCH)),
    "apps": Room(
        ("bench", "bench.*", "doctor", "doctor.*", "plan", "plan.*"),
        (*PURE, "watch", "scores", "config", "pictures", "suites", "orchestration", "replay"),
        ("PIL", "anyio", "jinja2", "numpy", "rich"),
    ),
    "gateway": Room(
        ("gateway", "gateway.*"),
        (
            "nouns",
            "gate",
            "calibration",
            "story",
            "scores",
            "wire",
            "config",
            "pictures",
            "exchange",
            "watch",
            "orchestration",
            "shadow",
            "http",
        ),
        (
            "aiohttp",
            "anyio",
            "httptools",
            "jinja2",
            "msgspec",
            "opentelemetry",
            "prometheus_client",
            "starlette",
            "uvicorn",
        ),
    ),
    "assembly": Room(
        ("assemble", "assemble_engines", "assemble_gateway", "assemble_parts"),
        (
            *PURE,
            "wire",
            "config",
            "pictures",
            "exchange",
            "watch",
            "gateway",
            "code",
            "orchestration",
            "shadow",
            "replay",
            "http",
            "local",
            "pair",
        ),
        ("anyio",),
    ),
    "front": Room(
        ("",),
        (
            "nouns",
            "gate",
            "watch",
            "story",
            "config",
            "orchestration",
            "shadow",
            "pictures",
            "assembly",
        ),
    ),
    "cli": Room(
        ("cli", "commands", "commands.*", "__main__"),
        (
            *PURE,
            "scores",
            "config",
            "pictures",
            "suites",
            "watch",
            "exchange",
            "orchestration",
            "apps",
            "gateway",
            "assembly",
            "front",
        ),
        ("anyio", "rich", "typer"),
    ),
}
