"""Hold the installed wheel to its promise: a light core that imports alone, and all its data.

Run with the interpreter of an environment that holds the wheel and its declared dependencies only.
"""

import importlib
import importlib.resources
import importlib.util
import pkgutil
import sys

EXTRAS = {
    "aiohttp": "http",
    "httptools": "gateway",
    "jinja2": "local or lab",
    "matplotlib": "python",
    "msgspec": "http",
    "opentelemetry": "otel",
    "prometheus_client": "gateway",
    "rich": "cli",
    "safetensors": "local",
    "starlette": "gateway",
    "tokenizers": "local",
    "torch": "local",
    "transformers": "local",
    "typer": "cli",
    "uvicorn": "gateway",
    "uvloop": "gateway",
}


def missing_extra(module: str) -> str | None:
    """Import a module and name the absent optional package that stopped it, if one did."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        return package
    return None


def main() -> None:
    """Import every module; fail if one needs what neither the core nor an extra declares."""
    for package in EXTRAS:
        if importlib.util.find_spec(package) is not None:
            sys.exit(f"{package} is installed here: the check would prove nothing")
    import speceyes

    modules = [m.name for m in pkgutil.walk_packages(speceyes.__path__, "speceyes.")]
    waiting = {name: extra for name in modules if (extra := missing_extra(name))}
    files = importlib.resources.files("speceyes")
    if not files.joinpath("py.typed").is_file():
        sys.exit("the wheel has no py.typed")
    models = files.joinpath("builtin", "models")
    found = [m.name for m in models.iterdir()] if models.is_dir() else []
    weights = [name for name in found if models.joinpath(name, "model.safetensors").is_file()]
    if set(weights) != {"small", "closer", "large"}:
        sys.exit(f"the wheel holds the weights of {weights or 'no model'}, not those of all three")
    print(f"wheel: {len(modules) - len(waiting)} of {len(modules)} modules import without extras")
    for name, package in waiting.items():
        print(f"wheel: {name} waits for {package} (extra: {EXTRAS[package]})")


if __name__ == "__main__":
    main()
