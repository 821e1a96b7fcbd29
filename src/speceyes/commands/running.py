"""A run on the command line: suite and engines opened, the folder taken up, and its figures shown.

It refuses to know how items are answered, graded and drawn. A run that is cut short keeps what it
has; the same command goes on with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
import anyio.to_thread

from speceyes.bench.folder import RECORDS, Run, open_folder, read_run
from speceyes.bench.items import Suite
from speceyes.bench.records import Method
from speceyes.commands.exits import EXIT_INTERRUPTED, complain
from speceyes.config import DEFAULT_POLICY, GATED, PolicyName, parse_policy
from speceyes.errors import ConfigError
from speceyes.settings_file import Choices
from speceyes.specreason import LEAST_SCORE

if TYPE_CHECKING:
    from rich.console import Console

    from speceyes.bench.comparison import Comparison
    from speceyes.bench.manifest import Manifest
    from speceyes.bench.terminal import LiveProgress
    from speceyes.phases import Parts, Rules

KEPT_K: Final = 96  # candidates of each token kept as evidence; the largest K that was published
WARM_UP_ITEMS: Final = 3
REPORT: Final = "report.html"
RESULT: Final = "result.json"

Document: TypeAlias = "Callable[[Sequence[Comparison]], dict[str, Any]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a run is to do, as it was asked for. `anew`: what the folder holds may go."""

    suite: Suite
    methods: tuple[Method, ...]
    choices: Choices
    concurrency: int
    out: Path
    anew: bool = False
    preset: str | None = None
    threshold: float | None = None
    least_score: int = LEAST_SCORE


def perform(
    jobs: Sequence[Job],
    console: Console,
    *,
    out: Path,
    as_json: bool,
    document: Document | None = None,
) -> int:
    """Run jobs to their ends, or as far as they get, and show what came of it; gives the exit code.

    `out` is where figures and page go: the one job's own folder, or the one above those of several.
    """
    from speceyes.bench.terminal import LiveProgress

    begun: list[Job] = []
    is_cut_short = False
    try:
        for job in jobs:
            with LiveProgress(console) as progress:
                anyio.run(_run, job, progress, begun)
    except KeyboardInterrupt:
        is_cut_short = True
    runs = [run for job in begun if (run := read_run(job.out)).records]
    if not runs:
        complain("interrupted before anything was answered; there is nothing to report")
        return EXIT_INTERRUPTED
    suites = {run.manifest.suite.checksum: jobs[0].suite for run in runs}
    comparisons = show_runs(runs, console)
    write_up(comparisons, suites, out, document=document)
    console.print(f"report   {out / REPORT}", highlight=False, soft_wrap=True)
    for job in begun:
        console.print(f"records  {job.out / RECORDS}", highlight=False, soft_wrap=True)
    if is_cut_short:
        missing = sum(run.missing for run in runs)
        told = f"interrupted: this is partial, {missing} answers are still to come"
        console.print(f"{told}; the same command goes on", style="bold")
    if as_json:
        print((out / RESULT).read_text(encoding="utf-8").rstrip())
    return EXIT_INTERRUPTED if is_cut_short else 0


def show_runs(runs: Sequence[Run], console: Console) -> list[Comparison]:
    """Show what runs came to, suite by suite."""
    from speceyes.bench.comparison import compare
    from speceyes.bench.terminal import show_comparison

    comparisons = compare(runs)
    for comparison in comparisons:
        show_comparison(console, comparison)
    return comparisons


def write_up(
    comparisons: Sequence[Comparison],
    suites: Mapping[str, Suite],
    folder: Path,
    *,
    document: Document | None = None,
) -> None:
    """Leave figures and a page in a folder; `suites`, by checksum, have the page's pictures."""
    from speceyes.bench.document import document as laid_out
    from speceyes.bench.page.report import render

    written = json.dumps((document or laid_out)(comparisons))
    (folder / RESULT).write_text(written + "\n", encoding="utf-8")
    (folder / REPORT).write_text(render(comparisons, suites), encoding="utf-8")


async def _run(job: Job, progress: LiveProgress, begun: list[Job]) -> None:
    from speceyes.assemble import arrange
    from speceyes.bench.contenders import contenders_on
    from speceyes.bench.run import Plan, run_suite
    from speceyes.builtin.suite import draw_items

    progress.begins("reading the suite", 0)
    facts = await anyio.to_thread.run_sync(lambda: job.suite.facts)
    progress.begins("loading the models", 0)
    draw = partial(draw_items, WARM_UP_ITEMS, seed=facts.seed, stream="calibration")
    warm_up = await anyio.to_thread.run_sync(lambda: list(draw()))
    async with arrange(_choices(job)) as eyes:
        parts, rules = eyes.funnel.parts, eyes.funnel.rules
        if job.threshold is not None:
            rules = replace(rules, gate=replace(rules.gate, threshold=job.threshold))
        plan = Plan(
            suite=job.suite,
            methods=job.methods,
            spec=rules.gate,
            concurrency=job.concurrency,
            warm_up=warm_up,
        )
        made = contenders_on(
            parts, rules, job.methods, policy=eyes.funnel.policy, least_score=job.least_score
        )
        with open_folder(job.out, _manifest(job, parts, rules), anew=job.anew) as folder:
            begun.append(job)
            async with made as contenders:
                await run_suite(contenders, plan, folder, watcher=progress)


def _choices(job: Job) -> Choices:
    # A gate is only needed by who is gated. Evidence is kept for more than the gate reads; a server
    # that refuses so much is asked for what the gate needs.
    choices, settings = job.choices, job.choices.settings
    policy = _policy(job)
    if "speceyes" not in job.methods:
        policy, settings = "agent_only", replace(settings, screen_by="none")
    http = choices.http
    if choices.gate is not None and http.least_top_logprobs is None:
        least = max(gate.k for gate in (choices.gate, choices.closer_gate) if gate is not None)
        http = replace(http, least_top_logprobs=least)
    return replace(
        choices,
        policy=policy,
        settings=replace(settings, evidence_k=settings.evidence_k or KEPT_K),
        http=http,
    )


def _policy(job: Job) -> PolicyName:
    policy = parse_policy(job.choices.policy or DEFAULT_POLICY)
    if policy not in GATED:
        raise ConfigError("policy", f"{policy} is what --method says here; leave it out")
    return policy


def _manifest(job: Job, parts: Parts, rules: Rules) -> Manifest:
    from speceyes.bench.machine import read_commit, read_machine, read_versions
    from speceyes.bench.manifest import Manifest
    from speceyes.gate_match import prompt_ids

    return Manifest(
        suite=job.suite.facts,
        methods=job.methods,
        concurrency=job.concurrency,
        small=parts.small.name,
        large=parts.agent.engine.name,
        protocol=parts.agent.protocol.name,
        policy=_policy(job),
        gate=rules.gate,
        closer_gate=rules.closer_gate if rules.depth else None,
        screen=rules.screen,
        settings=job.choices.settings,
        least_score=job.least_score,
        prompts=prompt_ids(
            rules.screen, system=job.choices.system_prompt, user=job.choices.user_prompt
        ),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=read_commit(),
        versions=read_versions(),
        machine=read_machine(),
        preset=job.preset,
    )
