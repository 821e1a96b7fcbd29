"""The doctor: a scripted engine with one fault at a time, and the finding that names it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import anyio
import numpy as np
import pytest
from typer.testing import CliRunner

from speceyes import SpecEyes, cli
from speceyes.commands.doctor import with_some_gate
from speceyes.doctor.findings import Finding, Measures, Sample, Wants, read_engine
from speceyes.doctor.probes import Prober
from speceyes.doctor.visit import Report, Visit, as_json, draw_questions, wants_of_large
from speceyes.engines.replay import request_digest
from speceyes.errors import ContextTooLong, EngineError, EngineUnavailable
from speceyes.gate import PAPER, GateSpec
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.settings_file import Choices
from speceyes.types import Evidence, Generation, Image, Text, Usage

pytestmark = pytest.mark.anyio

GATE = GateSpec(threshold=2.0, k=16)
CALL = (
    '<think>Closer.</think>\n<tool_call>{"name": "image_zoom_in_tool", '
    '"arguments": {"bbox_2d": [10, 20, 60, 90]}}</tool_call>'
)
SAID = "a picture of some coloured things on a plain and softly lit background"
VOCABULARY = 4000


@dataclass
class Patient:
    """An engine in good health, unless a fault is named. Counts what it was asked."""

    name: str = "patient"
    most_logprobs: int = 64
    takes_logprobs: bool = True  # refuses a request for more than it gives, if not
    most_pictures: int = 8
    sees: bool = True
    reads_pictures: bool = True
    heeds_stop: bool = True
    takes_stop: bool = True
    caches: bool | None = True
    continues: bool | None = True
    counts: bool = True
    spoil: object = None  # what it does to the rows of its evidence
    screens: bool = True
    turn: str = CALL
    small_text: str = "star"
    error: Exception | None = None
    context_tokens: int | None = 4096
    seen: list = field(default_factory=list)
    _cached: set = field(default_factory=set)

    async def generate(self, request):
        self.seen.append(request)
        if self.error is not None:
            raise self.error
        pictures = [p.picture for m in request.messages for p in m.parts if isinstance(p, Image)]
        self._refuse(request, pictures)
        text, finish, stop = self._say(request)
        tokens = max(1, len(text.split()))
        return Generation(
            text=text,
            finish=finish,
            stop_string=stop,
            token_count=tokens,
            evidence=self._evidence(request, pictures, tokens),
            usage=self._usage(request, pictures, tokens),
            engine=self.name,
        )

    async def aclose(self):
        pass

    async def served_models(self):
        return (SimpleNamespace(model_id="patient-7b", max_model_len=self.context_tokens),)

    def _refuse(self, request, pictures):
        if pictures and not self.sees:
            raise EngineError(self.name, "is not a multimodal model")
        if len(pictures) > self.most_pictures:
            raise EngineError(self.name, f"at most {self.most_pictures} images")
        if request.top_logprobs > self.most_logprobs and not self.takes_logprobs:
            raise EngineError(self.name, f"top_logprobs must be at most {self.most_logprobs}")
        if request.continue_final_message and self.continues is None:
            raise EngineError(self.name, "continue_final_message is unknown")
        if request.stop and not self.takes_stop:
            raise EngineError(self.name, "stop is unknown")

    def _say(self, request):
        asked = request.messages[-1].parts[-1].text
        if request.messages[0].role == "system":
            return self.turn, "stop", None
        if request.max_tokens == 1:
            return "yes" if self.screens else "perhaps", "length", None
        if "final answer" in asked:
            return self.small_text, "stop", None
        text = " ".join(SAID.split()[: request.max_tokens])
        found = next((stop for stop in request.stop if stop in text), None)
        if found is None or not self.heeds_stop:
            return text, "length", None
        return text[: text.index(found) + len(found)], "stop", found

    def _evidence(self, request, pictures, tokens):
        k = min(request.top_logprobs, self.most_logprobs)
        if k == 0:
            return None
        looked_at = [p.digest for p in pictures] if self.reads_pictures else []
        rng = np.random.default_rng(abs(hash((*looked_at, request.messages[-1].parts[-1].text))))
        logits = -np.sort(-rng.normal(size=(tokens, VOCABULARY)), axis=1)
        logits[:, 0] += 6.0
        rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        rows = rows[:, :k]
        rows = rows if self.spoil is None else self.spoil(rows)
        words = ("yes", "no") if self.screens else ("perhaps", "maybe")
        candidates = tuple(words + tuple(f"w{n}" for n in range(k - 2)) for _ in range(tokens))
        return Evidence(rows, rows[:, 0], candidates)

    def _usage(self, request, pictures, tokens):
        words = sum(
            len(p.text.split()) for m in request.messages for p in m.parts if isinstance(p, Text)
        )
        prompt = words + 4 + (16 * len(pictures) if self.reads_pictures else 0)
        if request.continue_final_message:
            prompt += 0 if self.continues else 5
        key = request_digest(replace(request, max_tokens=1))
        cached = (prompt - 4 if key in self._cached else 0) if self.caches else 0
        self._cached.add(key)
        prompt = prompt if self.counts else 0
        return Usage(prompt, None if self.caches is None else cached, tokens, len(pictures))


async def visit(small=None, large=None, *, gate=GATE, **more):
    eyes = SpecEyes(
        small=small or Patient(name="small"),
        large=large or Patient(name="large"),
        gate=gate,
        protocol=more.pop("protocol", None) or DeepEyes(),
    )
    async with eyes:
        funnel = eyes.funnel
        return await Visit(parts=funnel.parts, rules=funnel.rules, **more).run()


def find(report, role, subject) -> Finding:
    (found,) = [f for f in report.findings if (f.role, f.subject) == (role, subject)]
    return found


async def test_two_healthy_engines_can_run_the_funnel():
    report = await visit()
    assert [(f.role, f.subject, f.told) for f in report.findings if f.status != "ok"] == []
    assert report.can_run
    assert {f.subject for f in report.findings if f.role == "large"} == {
        "reach", "model", "image", "images per prompt", "top log-probabilities",
        "raw log-probabilities", "stop strings", "prefix cache", "continue_final_message",
        "screen", "turn", "context",
    }  # fmt: skip
    assert {f.subject for f in report.findings if f.role == "small"} == {
        "reach", "model", "image", "top log-probabilities", "raw log-probabilities", "speculation",
    }  # fmt: skip
    assert find(report, "large", "turn").told.endswith("a tool call, in deepeyes")


async def test_nothing_but_healthy_findings_goes_without_a_mend():
    broken = Patient(name="large", sees=False, heeds_stop=False, caches=False, continues=None)
    report = await visit(Patient(name="small", most_logprobs=5), broken)
    assert [f for f in report.findings if f.status in {"warning", "failure"} and not f.mend] == []


ROWS = {
    "masked": lambda rows: np.where(np.arange(rows.shape[1]) > 3, -9999.0, rows),
    "infinite": lambda rows: np.where(np.arange(rows.shape[1]) > 3, -np.inf, rows),
    "not numbers": lambda rows: np.full_like(rows, np.nan),
    "constant": lambda rows: np.concatenate([rows[:, :1], np.full_like(rows[:, 1:], -9.0)], 1),
    "zeroed": lambda rows: np.concatenate([0 * rows[:, :1], rows[:, 1:] - rows[:, 1:2] - 1.0], 1),
    "shifted": lambda rows: rows + 3.0,
    "logits": lambda rows: rows - rows[:, -1:] + 1.0,
    "all alike": lambda rows: np.tile(rows[:1], (len(rows), 1)),
    "rescaled": lambda rows: rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)),
    "unsorted": lambda rows: rows[:, ::-1],
}  # fmt: skip


@pytest.mark.parametrize("fault", ROWS)
async def test_log_probabilities_that_are_not_raw_are_told(fault):
    report = await visit(Patient(name="small", spoil=ROWS[fault]))
    found = find(report, "small", "raw log-probabilities")
    assert found.status == "failure", found
    assert "raw_logprobs" in found.mend
    assert not report.can_run


async def test_rounded_and_temperate_rows_are_raw_enough():
    for spoil in (lambda rows: rows.round(4), lambda rows: rows):
        report = await visit(Patient(name="small", spoil=spoil))
        assert find(report, "small", "raw log-probabilities").status == "ok"


@pytest.mark.parametrize(
    ("role", "fault", "subject", "status"),
    [
        ("small", {"sees": False}, "image", "failure"),
        ("large", {"sees": False}, "image", "failure"),
        ("small", {"reads_pictures": False}, "image", "failure"),
        ("small", {"reads_pictures": False, "counts": False}, "image", "failure"),
        ("small", {"most_logprobs": 15}, "top log-probabilities", "failure"),
        (
            "small",
            {"most_logprobs": 5, "takes_logprobs": False},
            "top log-probabilities",
            "failure",
        ),
        ("small", {"most_logprobs": 0}, "top log-probabilities", "failure"),
        ("small", {"most_logprobs": 0}, "raw log-probabilities", "unknown"),
        ("small", {"most_logprobs": 0}, "speculation", "warning"),
        ("large", {"most_logprobs": 5}, "top log-probabilities", "warning"),
        ("large", {"most_logprobs": 0}, "top log-probabilities", "warning"),
        ("large", {"most_logprobs": 0}, "screen", "warning"),
        ("large", {"most_logprobs": 0, "screens": False}, "screen", "failure"),
        ("large", {"screens": False}, "screen", "warning"),
        ("large", {"most_pictures": 3}, "images per prompt", "warning"),
        ("large", {"most_pictures": 1}, "images per prompt", "failure"),
        ("large", {"heeds_stop": False}, "stop strings", "warning"),
        ("large", {"takes_stop": False}, "stop strings", "failure"),
        ("large", {"caches": False}, "prefix cache", "warning"),
        ("large", {"caches": None}, "prefix cache", "unknown"),
        ("large", {"continues": False}, "continue_final_message", "warning"),
        ("large", {"continues": None}, "continue_final_message", "warning"),
        ("large", {"counts": False}, "continue_final_message", "unknown"),
        ("large", {"turn": "Let me think about it."}, "turn", "warning"),
        ("large", {"context_tokens": 300}, "context", "failure"),
        ("large", {"context_tokens": 2000}, "context", "warning"),
        ("large", {"context_tokens": None}, "context", "unknown"),
        ("small", {"small_text": ""}, "speculation", "warning"),
    ],
)
async def test_each_fault_has_its_finding(role, fault, subject, status):
    report = await visit(**{role: Patient(name=role, **fault)})
    found = find(report, role, subject)
    assert found.status == status, found
    assert report.can_run == all(f.status != "failure" for f in report.findings)
    if status == "failure":
        assert not report.can_run


@pytest.mark.parametrize(
    "error",
    [
        EngineUnavailable("large", "cannot be reached at 127.0.0.1:9"),
        ContextTooLong("large", "takes 8 tokens"),
        RuntimeError("a defect in the engine"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_engine_that_fails_is_one_finding_and_is_asked_once(error):
    large = Patient(name="large", error=error)
    report = await visit(large=large)
    about = [f for f in report.findings if f.role == "large"]
    assert [(f.subject, f.status) for f in about] == [("reach", "failure")]
    assert str(error).rpartition(": ")[2] in about[0].told
    assert len(large.seen) == 1
    assert len([f for f in report.findings if f.role == "small"]) > 1
    assert not report.can_run


class Silent(Patient):
    async def generate(self, request):
        await anyio.sleep(math.inf)


@pytest.mark.virtual_time
async def test_an_engine_that_never_answers_is_given_up():
    small = wants_small()
    pictures = unlike_pictures()
    began_s = anyio.current_time()
    seen = await Prober(engine=Silent(), wants=small, pictures=pictures, timeout_s=9.0).measure()
    assert anyio.current_time() - began_s == pytest.approx(9.0)
    (found,) = read_engine(seen, small)
    assert "no reply within 9 s" in found.told


class Slow(Patient):
    async def generate(self, request):
        await anyio.sleep(2.0)
        return await super().generate(request)


@pytest.mark.virtual_time
async def test_clocks_are_the_engines_own():
    wants = wants_small()
    pictures = unlike_pictures()
    seen = await Prober(engine=Slow(), wants=wants, pictures=pictures).measure()
    assert seen.plain.seconds == pytest.approx(2.0)
    assert read_engine(seen, wants)[0].figures["seconds"] == pytest.approx(2.0)


async def test_a_protocol_that_continues_its_own_message_needs_a_server_that_can():
    async with SpecEyes(small=Patient(), large=Patient(), gate=GATE, protocol=Inward()) as eyes:
        wants = wants_of_large(eyes.funnel.parts, eyes.funnel.rules)
    assert wants.continues
    report = await visit(large=Patient(name="large", continues=False), protocol=Inward())
    assert find(report, "large", "continue_final_message").status == "failure"


class Inward(DeepEyes):
    """Tells what came of a call within the assistant's own turn."""

    def proceed(self, query, conversation, *, reply, outcome):
        said = super().proceed(query, conversation, reply=reply, outcome=outcome)
        return (*said[:-1], replace(said[-1], role="assistant"))


async def test_fewer_log_probabilities_are_looked_for_step_by_step():
    small = Patient(name="small", most_logprobs=5, takes_logprobs=False)
    report = await visit(small, gate=replace(GATE, k=64))
    found = find(report, "small", "top log-probabilities")
    assert found.figures == {"asked": 64, "arrived": 5}
    assert "K of at most 5" in found.mend
    assert "must be at most 5" in found.told


async def test_the_document_is_plain_json():
    report = await visit(Patient(name="small", spoil=ROWS["infinite"]))
    document = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert document["can_run"] is False
    assert {"role", "subject", "status", "told", "mend", "figures"} == set(document["findings"][0])
    assert (document["small"], document["large"], document["protocol"]) == (
        "small", "large", "deepeyes",
    )  # fmt: skip


def test_nothing_measured_is_nothing_known():
    wants = Wants(role="large", logprobs=20, least_logprobs=2, pictures=6, least_pictures=2)
    error = EngineUnavailable("large", "is gone")
    seen = Measures(name="large", plain=Sample(seconds=0.1, error=error))
    assert [f.status for f in read_engine(seen, wants)] == ["failure"]


def unlike_pictures():
    one, other = draw_questions()
    return one.pictures + other.pictures


def wants_small():
    return Wants(role="small", logprobs=16, least_logprobs=16, pictures=1, least_pictures=1)


@pytest.mark.parametrize(("fault", "code"), [({}, 0), ({"sees": False}, 1)])
def test_the_command_says_what_it_found(monkeypatch, fault, code):
    def arranged(choices):
        assert (choices.small, choices.large) == ("builtin", "local:there")
        assert choices.gate == PAPER  # none is known for these two
        pair = {"small": Patient(name="the small one"), "large": Patient(name="it", **fault)}
        return SpecEyes(**pair, gate=GATE)

    monkeypatch.setattr("speceyes.assemble.arrange", arranged)
    words = ["doctor", "--small", "builtin", "--large", "local:there"]
    done = CliRunner().invoke(cli.build_app(), words)
    assert done.exit_code == code, done.output
    assert "small: the small one" in done.stdout
    assert ("The funnel can run." in done.stdout) == (code == 0)
    assert ("mend: " in done.stdout) == (code == 1)
    shown = CliRunner().invoke(cli.build_app(), [*words, "--json"])
    assert shown.exit_code == code
    assert json.loads(shown.stdout)["can_run"] == (code == 0)


def test_the_built_in_pair_is_looked_at_for_its_own_gate():
    assert with_some_gate(Choices(large="builtin:large")).gate is None
    assert with_some_gate(Choices(large="builtin:small")).gate == PAPER
    assert with_some_gate(Choices(small="local:there", gate=GATE)).gate == GATE


def test_an_unknown_engine_is_refused_by_name():
    done = CliRunner().invoke(cli.build_app(), ["doctor", "--small", "nowhere:x"])
    assert done.exit_code == 2
    assert "nowhere" in done.stderr


def test_a_report_can_run_unless_something_failed():
    found = [Finding("small", "reach", status, "") for status in ("ok", "warning", "unknown")]
    report = Report(small="s", large="l", protocol="p", gate_k=16, findings=tuple(found))
    assert report.can_run
    assert not replace(report, findings=(Finding("small", "reach", "failure", ""),)).can_run
