"""What SpecEyes is made of: gate, screen, depth, policy, protocol; what does not fit is refused."""

from dataclasses import replace

import pytest

from speceyes import Settings, SpecEyes
from speceyes.assemble import arrange
from speceyes.engines.http import HttpEngine
from speceyes.errors import ConfigError
from speceyes.gate import GateSpec
from speceyes.policies.adaptive import Adaptive
from speceyes.policies.named import make_policy
from speceyes.protocols import PROTOCOLS
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.screen import ScreenSpec
from speceyes.settings_file import Choices
from speceyes.types import Text, View
from tests.stand_in_pair import GATE, RING, SURE, UNSURE, VIEWED, ask, says, small_says
from tests.stand_in_pair import pair as pair  # noqa: PLC0414 - a fixture
from tests.walls import needs_walls

pytestmark = pytest.mark.anyio


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
