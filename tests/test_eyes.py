"""SpecEyes, the library's front: what it assembles, what it opens and closes, what it refuses."""

import gc
import math
import sys
import threading
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest
from PIL import Image as Pillow

import speceyes
from speceyes import Query, Settings, SpecEyes, open_picture
from speceyes.assemble import arrange
from speceyes.engines.http import HttpEngine
from speceyes.engines.replay import ReplayEngine, Take, scripted, scripted_screen
from speceyes.engines.wire.settings import HttpSettings
from speceyes.errors import (
    ConfigError,
    EngineUnavailable,
    NoAnswer,
    PictureTruncated,
    SpecEyesError,
)
from speceyes.events import Answered, ToolFinished
from speceyes.funnel import Funnel
from speceyes.gate import GateSpec
from speceyes.pictures import decode, encode_png
from speceyes.policies.adaptive import Adaptive
from speceyes.policies.named import make_policy
from speceyes.protocols import PROTOCOLS
from speceyes.protocols.closer import Closer
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.protocols.thyme import Thyme
from speceyes.screen import ScreenSpec
from speceyes.settings_file import Choices
from speceyes.types import Image, Text, View
from tests.walls import needs_walls

pytestmark = pytest.mark.anyio

GATE = GateSpec(threshold=4.0, k=16)
ZOOM = (
    "<think>small</think> <tool_call>\n"
    '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 56, 56]}}\n</tool_call>'
)
RING = "<think>seen</think> <answer>ring</answer>"
SURE = Take(scripted("disc", k=16))
UNSURE = Take(scripted("disc", separability=1.0, k=16))


def scene():
    image = Pillow.new("RGB", (448, 448), "white")
    image.paste((255, 0, 0), (0, 0, 224, 224))
    return encode_png(image)


def ask(query_id="q"):
    return Query("Which shape is red?", (scene(),), ("disc", "ring"), query_id)


def says(*texts, p_tool=0.1, name="large"):
    """Make a large engine: a screen first, then the agent's turns, over and over."""
    turns = [Take(scripted(text, separability=None)) for text in texts]

    def script(request):
        if request.max_tokens == 1:
            return Take(scripted_screen(p_tool))
        return turns[sum(message.role == "assistant" for message in request.messages)]

    return ReplayEngine(script, name=name)


def small_says(take, name="small"):
    return ReplayEngine(lambda _: take, name=name)


async def wait_for(condition):
    with anyio.fail_after(5.0):
        while not condition():  # noqa: ASYNC110 - an engine has no event to wait for
            await anyio.sleep(0.001)


VIEWED = DeepEyes(min_px=112 * 112, max_px=112 * 112)


class Pair:
    """Stands in for the built-in pair's module."""

    def __init__(self, **failures):
        self.opened, self.names = [], []
        self.failures = failures
        self.BUILTIN = SimpleNamespace(
            gate=GATE,
            first_gate=replace(GATE, k=8),
            closer_gate=replace(GATE, k=4),
            screen=ScreenSpec(top_logprobs=7),
            shared_screen=ScreenSpec(prompt="shared", top_logprobs=6),
            protocols={"deepeyes": VIEWED, "thyme": Thyme(min_px=112 * 112, max_px=112 * 112)},
            closer=Closer(extent=None),
        )

    def load(self, role):
        if role in self.failures:
            raise self.failures[role]
        engine = says(ZOOM, RING) if role == "large" else small_says(UNSURE)
        self.opened.append(engine)
        self.names.append(role)
        return engine


@pytest.fixture
def pair(monkeypatch):
    return install(monkeypatch, Pair())


def install(monkeypatch, pair):
    monkeypatch.setitem(sys.modules, "speceyes.builtin.pair", pair)
    return pair


async def test_the_whole_way_with_real_pixels_prompts_and_wire_format():
    small, large = small_says(UNSURE), says(ZOOM, RING)
    protocol = DeepEyes(min_px=112 * 112, max_px=112 * 112)
    async with SpecEyes(small=small, large=large, protocol=protocol, gate=GATE) as eyes:
        answer = await eyes.answer(ask())
    assert (answer.text, answer.route, answer.depth) == ("ring", "agentic", 1)
    (zoomed,) = [e.observation for e in answer.trace if isinstance(e, ToolFinished)]
    assert zoomed.boxes_px[0].size == (224, 224)  # half the view is half the original
    crop = decode(zoomed.pictures[0])
    assert (crop.size, crop.getcolors()) == ((112, 112), [(112 * 112, (255, 0, 0))])
    images = [
        [
            part.picture.size
            for m in call.request.messages
            for part in m.parts
            if type(part) is Image
        ]
        for call in large.calls
    ]
    assert images == [[(112, 112)], [(112, 112)], [(112, 112), (112, 112)]]


async def test_without_arguments_the_built_in_pair_answers(pair):
    async with SpecEyes() as eyes:
        answer = await eyes.answer(ask())
        assert [engine.is_closed for engine in pair.opened] == [False, False]
    small, large = pair.opened
    assert answer.text == "ring"
    assert answer.verdict.spec is GATE
    assert large.calls[0].request.top_logprobs == 7
    assert small.calls[0].request.messages[0].parts[0].picture.size == (112, 112)
    assert [engine.is_closed for engine in pair.opened] == [True, True]


async def test_a_spec_that_is_given_goes_before_the_pairs_own(pair):
    gate, screen = GateSpec(threshold=0.5, k=16), ScreenSpec(threshold=0.05)
    async with SpecEyes(gate=gate) as eyes:
        assert (await eyes.answer(ask())).text == "disc"
    async with SpecEyes(screen=screen, gate=gate) as eyes:
        assert (await eyes.answer(ask())).reason == "needs_tool"


async def test_the_agents_first_turn_can_screen(pair):
    settings = Settings(screen_by="agent")
    async with SpecEyes(policy="race", settings=settings) as eyes:
        assert eyes.funnel.parts.screener is None
        assert eyes.funnel.rules.agent_screens
        assert (await eyes.answer(ask())).reason in {"needs_tool", "below_threshold"}


@pytest.mark.parametrize("policy", ["serial", "overlap", "agent_only"])
def test_a_first_turn_cannot_screen_where_the_agent_comes_last(policy):
    with pytest.raises(ConfigError, match="race and adaptive") as caught:
        SpecEyes(policy=policy, settings=Settings(screen_by="agent"))
    assert caught.value.field == "screen_by"


@pytest.mark.parametrize("policy", ["serial", "overlap", "race", "adaptive"])
async def test_every_policy_that_speculates_needs_a_gate(policy):
    with pytest.raises(ConfigError, match="none is known"):
        await SpecEyes(small=small_says(UNSURE), large=says(RING), policy=policy).__aenter__()


async def test_adaptive_is_given_the_budget_and_whom_to_ask_for_the_load(pair):
    async with SpecEyes(policy="adaptive", settings=Settings(waste_budget=0.2)) as eyes:
        policy = eyes.funnel.policy
        assert (await eyes.answer(ask())).text == "ring"
    assert isinstance(policy, Adaptive)
    assert policy.waste_budget == 0.2
    remote = make_policy("adaptive", HttpEngine("http://127.0.0.1:9/v1", model="m"), waste_budget=0)
    assert remote.probe is not None


async def test_the_screen_can_share_the_agents_own_opening(pair):
    async with SpecEyes(settings=Settings(screen_prompt="shared")) as eyes:
        assert eyes.funnel.rules.screen == pair.BUILTIN.shared_screen
        await eyes.answer(ask())
        opened = eyes.funnel.parts.agent
    _, large = pair.opened
    screen = large.calls[0].request
    opening = opened.protocol.opening(ask(), (View(screen.messages[1].parts[0].picture, None),))
    *before, last = screen.messages
    assert (*before, replace(last, parts=last.parts[:-1])) == opening
    assert "Say only yes or no." in last.parts[-1].text


async def test_other_engines_get_no_threshold_that_other_words_were_calibrated_with():
    settings = Settings(screen_prompt="shared")
    small, large = small_says(SURE), says(RING)
    async with SpecEyes(small=small, large=large, gate=GATE, settings=settings) as eyes:
        assert eyes.funnel.rules.screen == ScreenSpec(prompt="shared")


async def test_with_a_depth_the_built_in_small_model_is_the_one_that_looks_closer(pair):
    async with SpecEyes(settings=Settings(depth=1)) as eyes:
        rules, parts = eyes.funnel.rules, eyes.funnel.parts
    assert pair.names == ["closer", "large"]
    assert (rules.gate.k, rules.closer_gate.k, rules.depth) == (8, 4, 1)
    assert parts.closer == pair.BUILTIN.closer


async def test_the_closer_model_may_also_be_asked_at_first_sight_only(pair):
    async with SpecEyes(small="builtin:closer") as eyes:
        assert (eyes.funnel.rules.gate.k, eyes.funnel.parts.closer) == (8, None)


async def test_a_gate_of_ones_own_is_for_both_kinds_of_answer(pair):
    async with SpecEyes(gate=GATE, settings=Settings(depth=1)) as eyes:
        assert (eyes.funnel.rules.gate, eyes.funnel.rules.closer_gate) == (GATE, GATE)


def test_a_built_in_model_that_cannot_look_closer_is_refused_where_it_would_have_to():
    with pytest.raises(ConfigError, match="say builtin:closer") as caught:
        SpecEyes(small="builtin:small", settings=Settings(depth=1))
    assert caught.value.field == "small"


async def test_a_screen_made_for_other_words_is_refused():
    with pytest.raises(ConfigError, match="made for the prompt 'paper'") as caught:
        async with SpecEyes(
            small=small_says(SURE),
            large=says(RING),
            gate=GATE,
            screen=ScreenSpec(),
            settings=Settings(screen_prompt="shared"),
        ):
            pass
    assert caught.value.field == "screen_prompt"


async def test_engines_that_are_given_are_shared_and_stay_open():
    small, large = small_says(SURE), says(RING)
    async with (
        SpecEyes(small=small, large=large, gate=GATE) as eyes,
        SpecEyes(small=small, large=large, policy="agent_only") as baseline,
    ):
        assert (await eyes.answer(ask())).text == "disc"
        alone = await baseline.answer(ask())
        assert (alone.text, alone.reason) == ("ring", "agent_only")
    assert not small.is_closed
    assert not large.is_closed


async def test_other_funnels_can_share_its_parts(pair):
    async with SpecEyes() as eyes:
        parts, rules = eyes.funnel.parts, eyes.funnel.rules
        open_gate = replace(rules.gate, threshold=-math.inf)
        eager = Funnel(replace(parts, screener=None), replace(rules, gate=open_gate))
        assert (await eager.answer(ask())).text == "disc"
        assert (await eyes.answer(ask())).text == "ring"
    assert len(pair.opened) == 2
    with pytest.raises(EngineUnavailable, match="async with"):
        _ = eyes.funnel


async def test_originals_are_decoded_once_and_in_a_worker_thread(pair, monkeypatch):
    threads = []

    def watched(picture):
        threads.append(threading.get_ident())
        return decode(picture)

    monkeypatch.setattr("speceyes.pictures.decode", watched)
    async with SpecEyes() as eyes:
        answer = await eyes.answer(ask())
    assert answer.depth == 1  # a view and a crop were cut
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_one_string_opens_one_engine(pair):
    async with SpecEyes(small="builtin:large", large="builtin:large", gate=GATE):
        assert len(pair.opened) == 1
    assert pair.opened[0].is_closed


@pytest.mark.parametrize(
    "engines",
    [
        {"small": small_says(SURE)},
        {"large": says(RING)},
        {"small": "builtin:large"},
        {"small": "builtin:large", "large": "builtin:small"},
    ],
)
async def test_no_threshold_travels_without_its_engines(pair, engines):
    with pytest.raises(ConfigError, match="gate: none is known for these engines"):
        async with SpecEyes(**engines):
            pass
    assert pair.opened == []


@pytest.mark.parametrize(
    ("field", "setting"),
    [
        ("small", {"small": "gpt"}),
        ("large", {"large": "builtin:medium"}),
        ("protocol", {"protocol": "thyme2"}),
        ("policy", {"policy": "fastest"}),
    ],
)
def test_an_unknown_name_is_refused_when_made(field, setting):
    with pytest.raises(ConfigError, match="choose from") as caught:
        SpecEyes(**setting)
    assert caught.value.field == field


async def test_the_built_in_model_is_not_asked_in_a_protocol_it_never_learnt(pair):
    with pytest.raises(ConfigError, match="speaks deepeyes and thyme, not mini-o3") as caught:
        async with SpecEyes(protocol="mini-o3"):
            pass
    assert caught.value.field == "protocol"
    assert pair.opened == []


async def test_the_built_in_model_sees_one_size_only(pair):
    with pytest.raises(ConfigError, match="one size only"):
        async with SpecEyes(settings=Settings(max_view_px=12544)):
            pass
    assert pair.opened == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_server_may_show_its_model_less_than_the_release_did(protocol):
    settings = Settings(min_view_px=12544, max_view_px=12544)
    eyes = SpecEyes(
        small=small_says(UNSURE), large=says("ring"), gate=GATE, protocol=protocol,
        settings=settings,
    )  # fmt: skip
    async with eyes:
        width_px, height_px = eyes.funnel.parts.agent.protocol.view_size((1344, 1344))
    assert width_px * height_px <= 12544


async def test_another_model_is_asked_in_the_protocol_named():
    large = says("<answer>ring</answer>")
    async with SpecEyes(
        small=small_says(UNSURE), large=large, gate=GATE, protocol="mini-o3"
    ) as eyes:
        await eyes.answer(ask())
    assert large.calls[-1].request.stop == ("</grounding>",)


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


async def test_a_releases_own_wording_goes_to_the_model():
    large = says(RING)
    async with SpecEyes(
        small=small_says(UNSURE),
        large=large,
        gate=GATE,
        system_prompt="Look twice.",
        user_prompt="Say: {question}",
    ) as eyes:
        await eyes.answer(ask())
    system, user = large.calls[-1].request.messages
    assert system.parts == (Text("Look twice."),)
    assert any(type(part) is Text and part.text.startswith("Say: Which") for part in user.parts)


async def test_the_built_in_model_can_be_given_other_words(pair):
    async with SpecEyes(system_prompt="Look twice.") as eyes:
        protocol = eyes.funnel.parts.agent.protocol
    assert protocol == replace(VIEWED, system_prompt="Look twice.")


@needs_walls
async def test_the_built_in_model_is_asked_in_the_protocol_named(pair):
    async with SpecEyes(protocol="thyme") as eyes:
        agent = eyes.funnel.parts.agent
    assert agent.protocol == pair.BUILTIN.protocols["thyme"]
    assert set(agent.tools) == {"image_zoom_in_tool", "python"}


@pytest.mark.parametrize("field", ["system_prompt", "user_prompt"])
async def test_words_for_a_protocol_that_is_given_whole_are_refused(field):
    eyes = SpecEyes(
        small=small_says(SURE),
        large=says(RING),
        gate=GATE,
        protocol=DeepEyes(),
        **{field: "{question}"},
    )
    with pytest.raises(ConfigError, match="set the object's own") as caught:
        async with eyes:
            pass
    assert caught.value.field == field


def test_choices_become_a_library_front():
    assert arrange(Choices()) == SpecEyes() or vars(arrange(Choices())) == vars(SpecEyes())
    choices = Choices(
        small="http://h/v1", gate=GATE, settings=Settings(max_turns=2), policy="serial"
    )
    eyes = arrange(choices)
    assert (eyes.small, eyes.large, eyes.gate) == ("http://h/v1", "builtin", GATE)
    assert eyes.settings.max_turns == 2


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


async def test_it_is_used_within_async_with():
    eyes = SpecEyes(small=small_says(SURE), large=says(RING), gate=GATE)
    with pytest.raises(EngineUnavailable, match="async with"):
        await eyes.answer(ask())
    with pytest.raises(EngineUnavailable, match="async with"):
        eyes.stream(ask())
    async with eyes:
        with pytest.raises(EngineUnavailable, match="open already"):
            await eyes.__aenter__()
        assert (await eyes.answer(ask())).text == "disc"
    with pytest.raises(EngineUnavailable, match="async with"):
        eyes.answer_many([])
    async with eyes:  # once more
        assert (await eyes.answer(ask())).text == "disc"


async def test_an_error_comes_out_as_it_is():
    with pytest.raises(NoAnswer):  # not a group around it
        async with SpecEyes(
            small=small_says(UNSURE),
            large=says(*["?"] * 6),
            gate=GATE,
        ) as eyes:
            await eyes.answer(ask())


async def test_settings_reach_the_phases():
    small, large = small_says(SURE), says(RING, p_tool=0.9)
    settings = Settings(screen_by="none", max_answer_tokens=9)
    async with SpecEyes(small=small, large=large, gate=GATE, settings=settings) as eyes:
        assert (await eyes.answer(ask())).route == "speculative"
    assert small.calls[0].request.max_tokens == 9
    assert large.calls == []

    settings = Settings(screen_by="small", max_turns=1, max_tokens_per_turn=33, degrade=True)
    small = ReplayEngine([Take(scripted_screen(0.2)), UNSURE])
    large = ReplayEngine(lambda _: Take(scripted("?", separability=None)))
    async with SpecEyes(small=small, large=large, gate=GATE, settings=settings) as eyes:
        answer = await eyes.answer(ask())
    assert (answer.text, answer.route, answer.turns) == ("disc", "degraded", 1)
    assert answer.p_tool == pytest.approx(0.2, abs=1e-6)
    assert large.calls[0].request.max_tokens == 33


async def test_a_damaged_picture_is_a_named_error():
    data = scene().data
    picture = open_picture(data[: len(data) // 2])
    protocol = DeepEyes(max_px=112 * 112)  # the view is smaller, so pixels are needed at once
    async with SpecEyes(
        small=small_says(SURE), large=says(RING), protocol=protocol, gate=GATE
    ) as eyes:
        with pytest.raises(PictureTruncated):
            await eyes.answer(Query("?", (picture,)))


async def test_many_queries():
    async with SpecEyes(small=small_says(SURE), large=says(RING), gate=GATE) as eyes:
        asked = [ask(f"q{index}") for index in range(20)]
        got = [outcome async for outcome in eyes.answer_many(asked, concurrency=4)]
    assert sorted(outcome.query_id for outcome in got) == sorted(query.query_id for query in asked)
    assert {outcome.answer.text for outcome in got} == {"disc"}


async def test_a_stream_ends_in_its_answer():
    async with SpecEyes(small=small_says(SURE), large=says(RING), gate=GATE) as eyes:
        events = [event async for event in eyes.stream(ask())]
    assert isinstance(events[-1], Answered)


async def test_closing_a_stream_cancels_the_engine_call():
    small = small_says(Take(scripted("x"), math.inf))
    async with SpecEyes(small=small, large=says(RING), gate=GATE) as eyes:
        async with aclosing(eyes.stream(ask())) as stream:
            async for _ in stream:
                if small.in_flight:
                    break
        assert (small.cancelled, small.in_flight) == (1, 0)


async def test_a_stream_that_is_dropped_is_closed_by_the_garbage_collector(anyio_backend_name):
    if anyio_backend_name == "trio":
        pytest.skip("trio warns instead, and closes it as well")
    small = small_says(Take(scripted("x"), math.inf))
    async with SpecEyes(small=small, large=says(RING), gate=GATE) as eyes:
        stream = eyes.stream(ask())
        while not small.in_flight:
            await anext(stream)
        del stream
        gc.collect()
        await wait_for(lambda: not small.in_flight)
        assert small.cancelled == 1


async def test_leaving_cancels_what_is_under_way():
    small = small_says(Take(scripted("x"), math.inf))
    errors = []

    async def listen(eyes):
        try:
            async for _ in eyes.stream(ask()):
                pass
        except SpecEyesError as error:
            errors.append(error)

    async with (
        anyio.create_task_group() as tasks,
        SpecEyes(small=small, large=says(RING), gate=GATE) as eyes,
    ):
        tasks.start_soon(listen, eyes)
        await wait_for(lambda: small.in_flight)
    assert small.cancelled == 1
    assert [type(error) for error in errors] == [EngineUnavailable]


def test_the_sync_edge_is_one_line():
    async def main():
        async with SpecEyes(small=small_says(SURE), large=says(RING), gate=GATE) as eyes:
            return await eyes.answer(ask())

    assert anyio.run(main).text == "disc"


def test_the_front_door_knows_these_names():
    assert {"SpecEyes", "Settings", "Outcome", "Query", "Answer"} <= set(dir(speceyes))
    assert speceyes.SpecEyes is SpecEyes
