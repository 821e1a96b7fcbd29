"""A shadow's place in a folder: one holder, whole files, the same setup alone, worst first."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import anyio
import pytest

from speceyes import Settings, Shadow, ShadowSettings
from speceyes.calibration.thresholds import closed
from speceyes.errors import ConfigError
from speceyes.screen import ScreenSpec
from speceyes.shadow import memory as memories
from speceyes.shadow.memory import Memory
from speceyes.shadow.state import Kept, from_text, plain_setup, to_text
from speceyes.shadow.watch import begin
from tests.shadowed_eyes import eyes_with
from tests.stand_in_pair import RING, ask, says
from tests.stand_ins import GATE
from tests.test_shadow_state import AUDIT, EVERY, PLAIN, SETUP, a_watch, calm

pytestmark = pytest.mark.anyio


class Places:
    """Memories of one folder, opened and left as processes would."""

    def __init__(self, folder):
        self.folder = folder
        self.open_ones = []

    async def take(self, fresh=None, *, setup=PLAIN, name="speceyes"):
        fresh = fresh or a_watch()
        one = Memory(str(self.folder), name=name, mode=fresh.settings.mode)
        self.open_ones.append(one)
        return one, await one.open(setup, fresh)

    def files(self, kind="json"):
        return sorted(self.folder.glob(f"*.{kind}"))


@pytest.fixture
def places(tmp_path):
    places = Places(tmp_path / "state")
    yield places
    for one in places.open_ones:
        one._release()


async def test_what_is_left_is_gone_on_with(places, caplog):
    one, watch = await places.take()
    assert watch == a_watch()
    await one.leave(EVERY["tightened"])
    with caplog.at_level(logging.INFO):
        _, watch = await places.take()
    assert watch == EVERY["tightened"]
    assert "goes on from what was seen before" in caplog.text
    assert "state=tightened" in caplog.text
    (file,) = places.files()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


async def test_no_two_have_one_place_and_a_free_one_is_taken_up_again(places):
    first, _ = await places.take()
    second, _ = await places.take()
    assert len(places.files()) == 2
    await first.leave(EVERY["calm"])
    await second.leave(calm(a_watch(), 7))
    third, watch = await places.take()
    assert watch == EVERY["calm"]
    fourth, watch = await places.take()
    assert watch.audit.queries == 7
    assert len(places.files()) == 2
    await third.leave(watch)
    await fourth.leave(watch)


async def test_a_worker_that_comes_back_obeys_what_the_others_found(places):
    first, _ = await places.take()
    second, _ = await places.take()
    await first.leave(EVERY["calm"])
    await second.leave(EVERY["off"])
    _, watch = await places.take(a_watch(EVERY["off"].settings))  # one worker where there were two
    assert watch.state == "off"


async def test_a_route_and_a_mode_have_states_of_their_own(places):
    one, _ = await places.take()
    await one.leave(EVERY["off"])
    _, watch = await places.take(name="other")
    assert watch.state == "watching"
    _, watch = await places.take(a_watch(ShadowSettings(mode="observe")))
    assert watch.state == "watching"
    _, watch = await places.take(name="../away/from here")
    assert all(file.parent == places.folder for file in places.files())
    assert len(places.files()) == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"gate": replace(GATE, threshold=4.5)}, "gate"),
        ({"gate": replace(GATE, k=12)}, "gate"),
        ({"small": "another"}, "small"),
        ({"large": "another"}, "large"),
        ({"prompts": {"screen": "a", "speculate": "new"}}, "prompts"),
        ({"protocol": "thyme", "depth": 1}, "depth, protocol"),
        ({"screen": ScreenSpec(threshold=0.4)}, "screen"),
    ],
)
async def test_another_setup_begins_anew_and_says_why(places, caplog, change, named):
    one, _ = await places.take()
    await one.leave(EVERY["off"])
    now = replace(SETUP, **change)
    other, watch = await places.take(begin(AUDIT, now.gate), setup=plain_setup(now, None))
    assert watch == begin(AUDIT, now.gate)
    assert f"is of another setup ({named}); it does not apply here" in caplog.text
    await other.leave(watch)
    _, watch = await places.take(a_watch(EVERY["off"].settings))  # the first gate, once more
    assert watch.state == "off"


async def test_a_file_by_another_setups_name_does_not_apply(places):
    one, _ = await places.take()
    await one.leave(EVERY["off"])
    now = plain_setup(replace(SETUP, small="another"), None)
    other, watch = await places.take(setup=now)
    await other.leave(watch)
    first, second = sorted(places.files(), key=lambda file: "off" in file.read_text())
    first.write_bytes(second.read_bytes())
    _, watch = await places.take(setup=now)
    assert watch.state == "watching"


async def test_a_closer_gate_is_part_of_the_setup(places, caplog):
    one, _ = await places.take()
    await one.leave(EVERY["off"])
    _, watch = await places.take(setup=plain_setup(SETUP, GATE))
    assert watch.state == "watching"
    assert "(closer_gate)" in caplog.text


async def test_looser_settings_say_what_they_free(places, caplog):
    one, _ = await places.take()
    await one.leave(EVERY["off"])
    _, watch = await places.take(a_watch(replace(AUDIT, max_loss=0.2)))
    assert watch.state == "watching"
    assert "max_loss allows more now" in caplog.text
    assert "counts begin anew" in caplog.text


TOO_LONG = to_text(Kept(PLAIN, EVERY["calm"])).encode() + b" " * 20_000


@pytest.mark.parametrize("what", [b"", b'{"state_version":1,"set', b"\xff\xfe", TOO_LONG])
@pytest.mark.parametrize("on_breach", ["tighten", "off", "tell"])
async def test_what_cannot_be_read_counts_as_a_breach(places, caplog, monkeypatch, what, on_breach):
    monkeypatch.setattr(memories, "_MOST_BYTES", 20_000)
    fresh = a_watch(replace(AUDIT, on_breach=on_breach))
    one, watch = await places.take(fresh)
    await one.leave(watch)
    (file,) = places.files()
    file.write_bytes(what)
    one, watch = await places.take(fresh)
    expected = (GATE, "watching") if on_breach == "tell" else (closed(GATE), "off")
    assert (watch.gate, watch.state) == expected
    assert str(file) in caplog.text
    assert "until it is deleted" in caplog.text
    await one.leave(watch)
    file.unlink()
    _, watch = await places.take(fresh)
    assert watch == fresh


async def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"shadow\.state_folder: .* cannot be used"):
        await Memory(str(tmp_path / "file"), name="n", mode="audit").open(PLAIN, a_watch())


async def test_there_is_an_end_of_places(places, monkeypatch):
    monkeypatch.setattr(memories, "_MOST_PLACES", 2)
    await places.take()
    await places.take()
    with pytest.raises(ConfigError, match="2 others are at work"):
        await places.take()


async def test_a_full_disk_is_told_once_and_leaves_what_was(places, monkeypatch, caplog):
    one, _ = await places.take()
    one._try_write(EVERY["calm"])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(memories.os, "fsync", full)
        one._try_write(EVERY["off"])
        one._try_write(EVERY["off"])
    assert caplog.text.count("cannot keep its state") == 1
    (file,) = places.files()
    assert from_text(file.read_text()).watch == EVERY["calm"]
    one._try_write(EVERY["off"])
    assert from_text(file.read_text()).watch == EVERY["off"]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from speceyes.shadow import memory
    from speceyes.shadow.state import Kept, from_text
    from tests.test_shadow_state import EVERY, PLAIN, a_watch

    one = memory.Memory(sys.argv[1], name="speceyes", mode="audit")
    one._open(PLAIN, a_watch())
    one._write(EVERY["tightened"])

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    class HalfWritten:
        def __init__(self, descriptor, _):
            self.descriptor = descriptor
        def __enter__(self):
            return self
        def __exit__(self, *_):
            pass
        def write(self, data):
            os.write(self.descriptor, data[: len(data) // 2])
            die()

    if sys.argv[2] == "write":
        os.fdopen = HalfWritten
    else:
        os.fsync = die
    one._write(a_watch())
"""


@pytest.mark.parametrize("within", ["write", "fsync"])
async def test_killed_in_the_middle_of_a_write_it_leaves_what_was_before(places, within):
    program = [sys.executable, "-c", textwrap.dedent(KILLED), str(places.folder), within]
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(program, check=False, env=os.environ)
    )
    assert done.returncode == -signal.SIGKILL
    (new,) = places.files("new")
    new.write_bytes(b"x" * 100_000)  # whatever else it may have left there
    one, watch = await places.take()  # its place is free
    assert watch == EVERY["tightened"]
    assert from_text(places.files()[0].read_text()).watch == watch
    await one.leave(EVERY["calm"])
    assert not places.files("new")
    _, watch = await places.take()
    assert watch == EVERY["calm"]


# --- with a shadow at work


def a_shadow(folder, **more):
    settings = ShadowSettings(
        mode="audit", share=1.0, max_loss=0.05, on_breach="off", state_folder=str(folder)
    )
    return Shadow(replace(settings, **more))


async def until_off(eyes, shadow):
    for _ in range(30):
        answer = await eyes.answer(ask())
        await shadow.drain()
        if answer.route == "agentic":
            return
    raise AssertionError("the bound holds")


async def becomes(read, value):
    for _ in range(500):
        if read() == value:
            return
        await anyio.sleep(0.01)
    assert read() == value


async def test_a_library_goes_on_where_the_last_process_was(tmp_path):
    shadow = a_shadow(tmp_path)
    async with eyes_with(shadow) as eyes:
        await eyes.answer(ask())
        await shadow.drain()
    shadow = a_shadow(tmp_path)
    async with eyes_with(shadow) as eyes:
        assert shadow.watched().checked == 1
        await until_off(eyes, shadow)
    left = shadow.watched()
    shadow = a_shadow(tmp_path)
    async with eyes_with(shadow) as eyes:
        assert shadow.watched() == left
        answer = await eyes.answer(ask())
        assert (answer.route, answer.reason) == ("agentic", "agent_only")


async def test_a_breach_is_written_at_once_and_not_only_on_leaving(tmp_path, monkeypatch):
    monkeypatch.setattr(memories, "_BEAT_S", 1000.0)
    shadow = a_shadow(tmp_path)
    async with eyes_with(shadow) as eyes:
        await until_off(eyes, shadow)
        await becomes(lambda: _states(tmp_path), ["off"])
        beside = a_shadow(tmp_path)  # while the first is at work, as at a change of shifts
        async with eyes_with(beside) as others:
            assert beside.watched().state == "off"
            assert (await others.answer(ask())).reason == "agent_only"


async def test_one_that_is_cancelled_writes_and_leaves_its_place_too(tmp_path):
    with anyio.CancelScope() as scope:
        shadow = a_shadow(tmp_path)
        async with eyes_with(shadow) as eyes:
            await eyes.answer(ask())
            await shadow.drain()
            scope.cancel()
            await anyio.sleep(1)
    shadow = a_shadow(tmp_path)
    async with eyes_with(shadow):
        assert shadow.watched().checked == 1
    assert len(list(tmp_path.glob("*.lock"))) == 1


async def test_counts_are_written_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(memories, "_BEAT_S", 0.02)
    shadow = a_shadow(tmp_path)
    async with eyes_with(shadow) as eyes:
        for count in (1, 2):
            await eyes.answer(ask())
            await shadow.drain()
            await becomes(lambda: _checked(tmp_path), count)


async def test_without_a_folder_it_ends_with_its_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        shadow = a_shadow(tmp_path, state_folder=None)
        async with eyes_with(shadow) as eyes:
            await eyes.answer(ask())
            await shadow.drain()
        assert shadow.watched().queries == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"gate": replace(GATE, threshold=4.5)},
        {"screen": ScreenSpec(threshold=0.4)},
        {"settings": Settings(max_answer_tokens=7)},
        {"system_prompt": "Look closely."},
    ],
)
async def test_another_gate_or_prompt_begins_anew(tmp_path, change, caplog):
    shadow = a_shadow(tmp_path)
    async with eyes_with(shadow) as eyes:
        await until_off(eyes, shadow)
    shadow = a_shadow(tmp_path)
    eyes = eyes_with(shadow)
    for name, value in change.items():
        setattr(eyes, name, value)
    async with eyes:
        assert shadow.watched().state == "watching"
        assert shadow.watched().queries == 0
    assert "is of another setup" in caplog.text


async def test_another_model_begins_anew(tmp_path):
    shadow = a_shadow(tmp_path)
    async with eyes_with(shadow) as eyes:
        await until_off(eyes, shadow)
    shadow = a_shadow(tmp_path)
    large = says(RING)
    large.name = "another"
    async with eyes_with(shadow, large=large):
        assert shadow.watched().state == "watching"


def _states(folder):
    return [from_text(file.read_text()).watch.state for file in folder.glob("*.json")]


def _checked(folder):
    return sum(from_text(file.read_text()).watch.audit.checked for file in folder.glob("*.json"))
