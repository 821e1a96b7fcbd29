"""The command line: what it prints, what it leaves, how it refuses, and what Ctrl-C leaves."""

import json
import signal
import subprocess
import sys

import pytest
from PIL import Image as Pillow

import speceyes
from speceyes import SpecEyes
from speceyes.bench.lines import read_records
from speceyes.engines.replay import ReplayEngine, Take
from speceyes.errors import EngineUnavailable
from tests.command_line import call
from tests.scripted_pair import GATE, PROTOCOL, SCREEN, ListSuite, ScriptedPair, tiny_items

ITEMS = 9


def sit(monkeypatch, pair):
    """Let a scripted pair stand in for whatever engines are named."""

    def assembled(*, gate, **asked):
        pair.asked = asked | {"gate": gate}
        return SpecEyes(
            small=pair.small,
            large=pair.large,
            gate=gate or GATE,
            screen=SCREEN,
            protocol=PROTOCOL,
            settings=asked["settings"],
        )

    monkeypatch.setattr("speceyes.assemble.SpecEyes", assembled)


@pytest.fixture
def pair(monkeypatch):
    def drawn(count, **_):
        return iter(tiny_items(count))

    def opened(text, *, seed=0, **_):
        return ListSuite(tiny_items(int(text.partition(":")[2] or ITEMS)), seed=seed)

    monkeypatch.setattr("speceyes.builtin.suite.draw_items", drawn)
    monkeypatch.setattr("speceyes.bench.suites.opening.open_suite", opened)
    pair = ScriptedPair(tiny_items(60), slips=0.0)
    sit(monkeypatch, pair)
    return pair


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "scene.png"
    path.write_bytes(tiny_items(1)[0].query.pictures[0].data)
    return path


def test_version():
    done = call("--version")
    assert (done.exit_code, done.stdout) == (0, f"{speceyes.__version__}\n")


def test_no_words_show_the_help():
    done = call()
    for word in ("Usage", "demo", "ask", "--version"):
        assert word in done.output


@pytest.mark.parametrize("command", ["demo", "ask", "bench"])
def test_every_option_says_what_it_is_for(command):
    done = call(command, "--help")
    assert done.exit_code == 0
    assert "--small" in done.output
    assert "--json" in done.output


@pytest.mark.parametrize("absent", [("rich",), ("typer", "rich")])
def test_without_the_extra_one_line_says_what_to_install(absent):
    code = f"""
import sys
for name in {absent!r}:
    sys.modules[name] = None
from speceyes.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    needs = " and ".join(absent)
    assert done.stderr == f"speceyes: the command line needs {needs}: pip install 'speceyes[cli]'\n"


def test_demo_leaves_records_figures_and_a_report(pair, tmp_path):
    out = tmp_path / "runs" / "one"
    done = call("demo", "--items", ITEMS, "--seed", 3, "--out", out)
    assert done.exit_code == 0, done.output
    with (out / "records.jsonl").open(encoding="utf-8") as file:
        assert len(list(read_records(file))) == 3 * ITEMS
    assert json.loads((out / "result.json").read_text(encoding="utf-8"))["seed"] == 3
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    for word in ("attribute", "position", "existence", "all", "AUROC", "report.html"):
        assert word in done.output


def test_demo_json_is_the_last_line_and_progress_is_elsewhere(pair, tmp_path):
    done = call("demo", "--items", ITEMS, "--out", tmp_path, "--json")
    made = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert (made["items"], made["seed"], made["concurrency"]) == (ITEMS, 0, 1)
    assert made["speceyes"]["accuracy"] == made["baseline"]["accuracy"]
    assert sum(made["speceyes"]["routes"].values()) == ITEMS
    assert made["small"]["accuracy_easy_n"] + made["small"]["accuracy_hard_n"] == ITEMS
    assert made["settings"]["gate"]["threshold"] == GATE.threshold
    assert made["settings"]["small"] == "scripted small"
    assert "answering" in done.stderr


def test_demo_asks_engines_for_more_evidence_than_its_gate_reads(pair, tmp_path):
    done = call("demo", "--items", ITEMS, "--out", tmp_path, "--json")
    made = json.loads(done.stdout)
    assert set(made["small"]["auroc_by_k"]) == {"16", "64"}
    wanted = {call.request.top_logprobs for call in pair.small.calls}
    assert wanted == {96}


def test_demo_replaces_an_earlier_one(pair, tmp_path):
    for count in (9, 3):
        call("demo", "--items", count, "--out", tmp_path)
    assert (tmp_path / "records.jsonl").read_text(encoding="utf-8").count("\n") == 9


def test_demo_counts_failures_and_goes_on(pair, tmp_path):
    pair.large = ReplayEngine(lambda _: Take(EngineUnavailable("large", "is down")), name="large")
    done = call("demo", "--items", 3, "--out", tmp_path, "--json")
    made = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (made["baseline"]["failed"], made["baseline"]["accuracy"]) == (3, 0.0)


def interrupting(pair, after):
    """Press Ctrl-C when the large engine is called for the n-th time."""
    answers, calls = pair.large._script, iter(range(10_000))

    def script(request):
        if next(calls) == after:
            signal.raise_signal(signal.SIGINT)
        return answers(request)

    pair.large = ReplayEngine(script, name="scripted large")


def test_ctrl_c_leaves_a_readable_partial_report(pair, tmp_path):
    interrupting(pair, 105)  # warmed up, a block of twenty done three ways, part of the next
    done = call("demo", "--items", 60, "--out", tmp_path)
    assert done.exit_code == 130, done.output
    assert "interrupted: this is partial" in done.output
    with (tmp_path / "records.jsonl").open(encoding="utf-8") as file:
        assert 60 < len(list(read_records(file))) < 180
    assert "Cut short" in (tmp_path / "report.html").read_text(encoding="utf-8")
    made = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert made["is_partial"]
    assert made["speedup"] > 0


def test_ctrl_c_before_the_first_answer_says_so(pair, tmp_path):
    interrupting(pair, 0)
    done = call("demo", "--items", 3, "--out", tmp_path)
    assert done.exit_code == 130
    assert "before anything was answered" in done.output
    assert not (tmp_path / "report.html").exists()


def test_ask_shows_the_way_through_the_phases(pair, picture):
    done = call("ask", picture, "What is 0?", "--option", "star", "--option", "ring")
    assert done.exit_code == 0, done.output
    for words in ("I screen", "p(needs a tool)", "a tool is needed", "IV fall back", "turn 1"):
        assert words in done.output
    for words in (
        "I zoom in to see it well.",
        "pixels of the original",
        "answers star",
        "agentic; ",
    ):
        assert words in done.output


def test_ask_shows_the_gates_verdict(pair, tmp_path):
    easy = next(item for item in tiny_items(9) if not item.is_hard)
    path = tmp_path / "easy.png"
    path.write_bytes(easy.query.pictures[0].data)
    done = call("ask", path, "What?", "--option", "star", "--option", "ring")
    for words in ("no tool needed", "II speculate", "III gate", "threshold 5.00", "speculative; "):
        assert words in done.output


def test_ask_json_is_one_document(pair, picture):
    done = call("ask", picture, "What is 0?", "--json")
    made = json.loads(done.stdout)
    assert (made["text"], made["route"], made["reason"]) == ("star", "agentic", "needs_tool")
    assert made["depth"] == 1
    assert made["usage_by_phase"]["fall_back"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("nowhere.png", "What?"), "picture: nowhere.png cannot be read"),
        (("{picture}", "  "), "question: is empty"),
        (("{picture}", "What?", "--option", "one"), "options: has a single entry"),
        (("{picture}", "What?", "--option", "a", "--option", "A "), "options: 'a' stands there"),
        (("{text}", "What?"), "picture: is none of"),
        (("{empty}", "What?"), "picture: has no bytes"),
        (("{folder}", "What?"), "picture: {folder} cannot be read"),
    ],
)
def test_ask_refuses_bad_input_in_one_line(words, complaint, tmp_path, picture):
    names = {"picture": picture, "text": tmp_path / "a.txt", "empty": tmp_path / "b.png"}
    names["folder"] = tmp_path
    names["text"].write_text("no picture", encoding="utf-8")
    names["empty"].write_bytes(b"")
    done = call("ask", *(word.format(**names) for word in words))
    assert done.exit_code == 2
    assert done.stderr.startswith(f"speceyes: {complaint.format(**names)}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["demo", "ask"])
@pytest.mark.parametrize("engine", ["gpt", "local:/nowhere", "builtin:medium"])
def test_an_engine_that_is_none_is_refused(command, engine, tmp_path, picture):
    words = ("--out", tmp_path / "out", "--items", 1) if command == "demo" else (picture, "What?")
    done = call(command, *words, "--large", engine)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("speceyes: ")
    assert "Traceback" not in done.output


@pytest.mark.parametrize("command", ["demo", "ask"])
def test_flags_and_the_settings_file_reach_the_engines(command, pair, tmp_path, picture):
    file = tmp_path / "speceyes.toml"
    file.write_text(
        "protocol = 'qwen3-vl'\n[small]\nengine = 'http://h/v1#m'\n"
        "[large]\nengine = 'builtin'\n[http]\nmax_attempts = 7\n[settings]\nmax_turns = 3\n",
        encoding="utf-8",
    )
    (tmp_path / "gate.toml").write_text("[gate]\nthreshold = 9\nk = 16\n", encoding="utf-8")
    (tmp_path / "system.txt").write_text("Look.", encoding="utf-8")
    (tmp_path / "user.txt").write_text("{question}", encoding="utf-8")
    words = ("--out", tmp_path / "out", "--items", 3) if command == "demo" else (picture, "What?")
    flags = {
        "config": file,
        "large": "local:org/name",
        "gate": tmp_path / "gate.toml",
        "system-prompt": tmp_path / "system.txt",
        "user-prompt": tmp_path / "user.txt",
    }
    done = call(command, *words, *(word for k, v in flags.items() for word in (f"--{k}", v)))
    assert done.exit_code == 0, done.output
    asked = pair.asked
    assert (asked["small"], asked["large"]) == ("http://h/v1#m", "local:org/name")
    assert (asked["gate"].threshold, asked["protocol"]) == (9.0, "qwen3-vl")
    assert (asked["http"].max_attempts, asked["settings"].max_turns) == (7, 3)
    assert (asked["system_prompt"], asked["user_prompt"]) == ("Look.", "{question}")


@pytest.mark.parametrize("command", ["demo", "ask"])
@pytest.mark.parametrize(
    ("flag", "value", "complaint"),
    [
        ("--gate", "best", "gate: 'best' is no gate; choose from paper, FILE.json, FILE.toml"),
        ("--protocol", "thyme2", "protocol: 'thyme2' is unknown; choose from deepeyes"),
        ("--config", "nowhere.toml", "config: nowhere.toml cannot be read"),
        ("--system-prompt", "nowhere", "system_prompt: nowhere cannot be read"),
        ("--large", "http://h:1/v1?key=abc#m", "large: behind the ? stands key_env=NAME"),
    ],
    ids=["gate", "protocol", "config", "system_prompt", "key"],
)
def test_a_flag_that_is_wrong_is_refused(command, flag, value, complaint, tmp_path, picture):
    words = ("--out", tmp_path / "out", "--items", 1) if command == "demo" else (picture, "What?")
    done = call(command, *words, flag, value)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"speceyes: {complaint}")
    assert not (tmp_path / "out").exists()


def test_a_demo_of_the_agent_alone_is_none(pair, tmp_path):
    file = tmp_path / "speceyes.toml"
    file.write_text("policy = 'agent_only'", encoding="utf-8")
    done = call("demo", "--config", file, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert done.stderr.startswith("speceyes: policy: agent_only is what --method says here")


def test_an_unknown_engine_is_refused_before_anything_is_done(tmp_path):
    done = call("demo", "--small", "gpt", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert done.stderr.startswith("speceyes: small: 'gpt' is no engine; choose from builtin")
    assert not (tmp_path / "out").exists()


def test_ask_of_a_damaged_picture_says_so(pair, tmp_path):
    path = tmp_path / "cut.png"
    Pillow.effect_noise((300, 300), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:5000])
    done = call("ask", path, "What?")
    assert done.exit_code == 2
    assert "damaged" in done.stderr


def test_ask_that_fails_ends_with_the_named_error(pair, picture):
    pair.large = ReplayEngine(lambda _: Take(EngineUnavailable("large", "is down")), name="large")
    done = call("ask", picture, "What?")
    assert done.exit_code == 1
    assert done.stderr == "speceyes: large: is down\n"


@pytest.mark.parametrize("option", ["--items", "--concurrency"])
def test_demo_of_nothing_is_refused(option, tmp_path):
    done = call("demo", option, 0, "--out", tmp_path)
    assert done.exit_code == 2
    assert option in done.output


def test_a_folder_that_cannot_be_written_is_refused(pair, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    done = call("demo", "--items", 1, "--out", tmp_path / "file" / "out")
    assert done.exit_code == 2
    assert "out: " in done.stderr
    assert "cannot be written to" in done.stderr
