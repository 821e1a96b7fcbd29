"""The engines of SpecEyes: opened by their names, closed again, and what is said if one is not."""

import sys
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from speceyes import SpecEyes
from speceyes.engines.replay import ReplayEngine
from speceyes.engines.wire.settings import HttpSettings
from speceyes.errors import ConfigError, EngineUnavailable
from tests.stand_in_pair import GATE, RING, SURE, Pair, ask, install, says, small_says
from tests.stand_in_pair import pair as pair  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.anyio


async def test_one_string_opens_one_engine(pair):
    async with SpecEyes(small="builtin:large", large="builtin:large", gate=GATE):
        assert len(pair.opened) == 1
    assert pair.opened[0].is_closed


async def test_a_directory_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="large: there is no directory /nowhere"):
        async with SpecEyes(small=small_says(SURE), large="local:/nowhere", gate=GATE):
            pass


@pytest.mark.parametrize("named", ["nowhere", "./nowhere/here", "a/b/c", "org/na me"])
async def test_what_is_neither_a_directory_nor_a_name_on_the_hub_is_named(named):
    with pytest.raises(ConfigError, match=f"large: there is no directory {named}, and on the hub"):
        async with SpecEyes(small=small_says(SURE), large=f"local:{named}", gate=GATE):
            pass


class Loader:
    """Stands in for a module of engines; keeps what is opened."""

    def __init__(self):
        self.opened, self.names = [], []
        self.LocalEngine = SimpleNamespace(load=self.load)
        self.HttpEngine = self.load

    def load(self, source, **settings):
        self.opened.append((source, settings))
        return ReplayEngine([], name=str(source))


async def test_a_local_engine_is_a_directory_or_else_a_name_on_the_hub(monkeypatch, tmp_path):
    loader = Loader()
    monkeypatch.setitem(sys.modules, "speceyes.engines.local", loader)
    (tmp_path / "org" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    async with SpecEyes(small="local:org/here", large="local:org/far", gate=GATE):
        pass
    assert loader.opened == [
        (Path("org/here"), {"name": "local:org/here"}),
        ("org/far", {"name": "local:org/far"}),
    ]


async def test_an_engine_on_a_server_gets_its_key_from_the_environment(monkeypatch):
    loader = Loader()
    monkeypatch.setitem(sys.modules, "speceyes.engines.http", loader)
    monkeypatch.setenv("LARGE_KEY", " sk-secret\n")
    http = HttpSettings(max_attempts=7)
    async with SpecEyes(
        small="http://h:1/v1", large="https://h/v1?key_env=LARGE_KEY#m", gate=GATE, http=http
    ) as eyes:
        assert "sk-secret" not in repr(eyes)
    assert loader.opened == [
        ("http://h:1/v1", {"model": None, "key": None, "key_env": None, "settings": http}),
        (
            "https://h/v1",
            {"model": "m", "key": "sk-secret", "key_env": "LARGE_KEY", "settings": http},
        ),
    ]


async def test_a_server_that_is_not_there_leaves_the_answer_to_the_agent(anyio_backend_name):
    if anyio_backend_name == "trio":
        pytest.skip("aiohttp runs on asyncio only")
    small = "http://127.0.0.1:9/v1#m"
    http = HttpSettings(max_attempts=1)
    async with SpecEyes(small=small, large=says(RING), gate=GATE, http=http) as eyes:
        assert eyes.funnel.parts.small.name == small
        assert (await eyes.answer(ask())).text == "ring"


@pytest.mark.parametrize("value", [None, "", " "], ids=["unset", "empty", "blank"])
async def test_a_key_that_is_not_set_is_named(monkeypatch, value):
    monkeypatch.setitem(sys.modules, "speceyes.engines.http", Loader())
    monkeypatch.delenv("LARGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("LARGE_KEY", value)
    with pytest.raises(ConfigError, match=r"^large: the environment variable LARGE_KEY.*not set"):
        async with SpecEyes(
            small=small_says(SURE), large="http://h/v1?key_env=LARGE_KEY", gate=GATE
        ):
            pass


async def test_one_server_and_model_is_one_engine(monkeypatch):
    loader = Loader()
    monkeypatch.setitem(sys.modules, "speceyes.engines.http", loader)
    async with SpecEyes(small="http://h:1/v1#m", large="http://h:1/v1/#m", gate=GATE):
        pass
    assert len(loader.opened) == 1


@pytest.mark.parametrize("package", ["aiohttp", "msgspec"])
async def test_without_the_extra_for_servers_it_says_what_to_install(monkeypatch, package):
    class Missing:
        def __getattr__(self, name):
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setitem(sys.modules, "speceyes.engines.http", Missing())
    with pytest.raises(ConfigError, match=rf"needs {package}: pip install 'speceyes\[http\]'$"):
        async with SpecEyes(small="http://h/v1#m", large=says(RING), gate=GATE):
            pass


class Unimportable(Pair):
    """A pair whose module needs what is not installed."""

    def __getattribute__(self, name):
        if name in {"BUILTIN", "load"}:
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return super().__getattribute__(name)

    def __init__(self):
        pass


@pytest.mark.parametrize(
    "pair", [Unimportable(), Pair(small=ModuleNotFoundError("gone", name="torch.nn"))]
)
async def test_a_missing_extra_says_how_to_install_it(monkeypatch, pair):
    install(monkeypatch, pair)
    with pytest.raises(ConfigError, match=r"needs torch.*pip install 'speceyes\[local\]'"):
        async with SpecEyes():
            pass


async def test_any_other_missing_module_is_not_explained_away(monkeypatch):
    install(monkeypatch, Pair(small=ModuleNotFoundError("No module", name="speceyes.nonsense")))
    with pytest.raises(ModuleNotFoundError):
        async with SpecEyes():
            pass


async def test_what_was_opened_is_closed_if_the_rest_cannot_be(monkeypatch):
    pair = install(monkeypatch, Pair(large=EngineUnavailable("large", "no memory")))
    eyes = SpecEyes()
    with pytest.raises(EngineUnavailable, match="no memory"):
        async with eyes:
            pass
    assert [engine.is_closed for engine in pair.opened] == [True]
    with pytest.raises(EngineUnavailable, match="async with"):
        await eyes.answer(ask())


async def test_an_engine_is_closed_even_when_cancelled(monkeypatch):
    closed = []

    class Slow(ReplayEngine):
        async def aclose(self):
            await anyio.sleep(0.01)
            closed.append(self.name)

    pair = Pair()
    pair.load = lambda role: Slow([], name=role)
    install(monkeypatch, pair)
    with anyio.CancelScope() as scope:
        async with SpecEyes():
            scope.cancel()
            await anyio.sleep(1.0)
    assert closed == ["large", "small"]
