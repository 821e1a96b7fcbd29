"""`speceyes plan` says what speed and cost to expect, before anything is switched on.

It refuses to know how it is simulated; it opens no engine.
"""

# Annotations are not deferred here: typer reads them, and it is imported only where it is used.

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from speceyes.commands.exits import named_errors
from speceyes.config import PolicyName, parse_policy, parse_screen_by
from speceyes.errors import ConfigError

if TYPE_CHECKING:
    import typer
    from rich.console import Console

    from speceyes.plan.drive import Arrivals, Forecast, Scenario
    from speceyes.plan.fates import ByHand, Draw
    from speceyes.plan.formulas import Costs

POLICIES: Final[tuple[PolicyName, ...]] = ("agent_only", "serial", "overlap", "race", "adaptive")
CONCURRENCIES: Final = "1,6,16"
BY_HAND: Final = ("beta", "alpha", "screen_s", "speculate_s", "turn_s", "depth")
_T = TypeVar("_T")
Source = "tuple[str, list[tuple[float | None, Draw, Costs]]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be planned: policies and loads, on servers, and a size if one is asked for."""

    scenario: "Scenario"
    policies: tuple[PolicyName, ...]
    loads: "tuple[Arrivals, ...]"
    target_rate: float | None
    target_p95_s: float | None


def add_plan(app: "typer.Typer") -> None:
    """Put the command on the command line."""
    import typer

    from speceyes.commands import flags

    @app.command()
    def plan(
        run: Annotated[
            Path | None,
            typer.Argument(help="Folder of a run of baseline and speceyes; none: figures by hand."),
        ] = None,
        *,
        policy: Annotated[
            str, typer.Option(help="Such as serial,race.", show_default=",".join(POLICIES))
        ] = ",".join(POLICIES),
        threshold: Annotated[
            str, typer.Option(help="Thresholds of the run's gate.", show_default="its own")
        ] = "",
        concurrency: Annotated[
            str, typer.Option(help="Callers that ask on and on.", show_default=CONCURRENCIES)
        ] = "",
        rate: Annotated[str, typer.Option(help="Queries a second that come by themselves.")] = "",
        queries: Annotated[int, typer.Option(min=1, help="How many to simulate.")] = 4000,
        seed: flags.Seed = 0,
        screen: Annotated[str, typer.Option(help="Who screens: large, small, none.")] = "large",
        large_seats: Annotated[int, typer.Option(help="Calls at once on a large server.")] = 16,
        small_seats: Annotated[int, typer.Option(help="Calls at once on a small server.")] = 64,
        large_slowdown: Annotated[
            float, typer.Option(help="By how much each call more slows the others: 0 to 1.")
        ] = 0.0,
        small_slowdown: Annotated[float, typer.Option(help="The same, small servers.")] = 0.0,
        large_crowding: Annotated[
            float, typer.Option(help="By how much each call on a small server slows a large one's.")
        ] = 0.0,
        small_crowding: Annotated[float, typer.Option(help="The other way round.")] = 0.0,
        bend: Annotated[
            float, typer.Option(help="1: each call more slows as the last; below: the first most.")
        ] = 1.0,
        fit: Annotated[
            list[Path] | None,
            typer.Option(help="The same run with several at once: how calls slow each other."),
        ] = None,
        large_replicas: Annotated[int, typer.Option(help="Large servers.")] = 1,
        small_replicas: Annotated[int, typer.Option(help="Small servers.")] = 1,
        large_price: Annotated[float, typer.Option(help="An hour of a large server.")] = 0.0,
        small_price: Annotated[float, typer.Option(help="An hour of a small server.")] = 0.0,
        target_rate: Annotated[
            float | None, typer.Option(help="Find the servers for this many queries a second.")
        ] = None,
        target_p95: Annotated[
            float | None, typer.Option(help="And 95 % of them answered in so many seconds.")
        ] = None,
        beta: Annotated[float | None, typer.Option(help="By hand: share screened.")] = None,
        alpha: Annotated[float | None, typer.Option(help="Share of those accepted.")] = None,
        screen_s: Annotated[float | None, typer.Option(help="Seconds of Phase I.")] = None,
        speculate_s: Annotated[float | None, typer.Option(help="Seconds of Phase II.")] = None,
        turn_s: Annotated[float | None, typer.Option(help="Seconds of a turn.")] = None,
        tool_s: Annotated[float, typer.Option(help="Seconds of a tool call.")] = 0.0,
        depth: Annotated[
            str | None, typer.Option(help="Tool calls and their shares, such as 0:.4,1:.6.")
        ] = None,
        spread: Annotated[float, typer.Option(help="Deviation of each time over its mean.")] = 0.5,
        published: Annotated[
            bool, typer.Option("--published", help="Foretell the paper's own tables instead.")
        ] = False,
        real: Annotated[
            bool, typer.Option("--real", help="Drive the whole funnel, not only its policies.")
        ] = False,
        html: Annotated[Path | None, typer.Option(help="A page with the plot, to write.")] = None,
        as_json: flags.AsJson = False,
    ) -> None:
        """Foretell latency, throughput and cost by simulating the policies on a virtual clock."""
        with named_errors():
            from rich.console import Console

            from speceyes.plan.drive import Scenario
            from speceyes.plan.fates import ByHand
            from speceyes.plan.inputs import depth_of, draws_of
            from speceyes.plan.station import Servers

            console = Console(stderr=as_json)
            if published:
                run_published(console, as_json=as_json)
                return
            figures = (beta, alpha, screen_s, speculate_s, turn_s, depth)
            hand: ByHand | None = None
            if run is None:
                _check_by_hand(figures)
                hand = ByHand(
                    beta=beta or 0.0,
                    alpha=alpha or 0.0,
                    screen_s=screen_s or 0.0,
                    speculate_s=speculate_s or 0.0,
                    turn_s=turn_s or 0.0,
                    tool_s=tool_s,
                    depths=_depths(depth or ""),
                    spread=spread,
                )
            elif any(figure is not None for figure in figures):
                raise ConfigError("run", "goes without figures by hand; leave one of them out")
            source, draws = (
                _of_hand(hand)
                if hand is not None
                else draws_of(run or Path(), _listed("threshold", threshold, float))
            )
            wanted = Wanted(
                scenario=Scenario(
                    draw=draws[0][1],
                    policy="serial",
                    arrivals=_loads("1", "")[0],
                    small=Servers(
                        replicas=small_replicas,
                        seats=small_seats,
                        slowdown=small_slowdown,
                        crowding=small_crowding,
                        bend=bend,
                        price=small_price,
                    ),
                    large=Servers(
                        replicas=large_replicas,
                        seats=large_seats,
                        slowdown=large_slowdown,
                        crowding=large_crowding,
                        bend=bend,
                        price=large_price,
                    ),
                    queries=queries,
                    seed=seed,
                    screen_by=parse_screen_by(screen),
                    is_real=real,
                    depth=depth_of(draws[0][1]),
                ),
                policies=_listed("policy", policy, parse_policy),
                loads=_loads(concurrency, rate),
                target_rate=target_rate,
                target_p95_s=target_p95,
            )
            if fit:
                wanted = _fitted(run, fit, wanted, console)
            run_plan(source, draws, wanted, console=console, html=html, as_json=as_json)


def run_plan(
    source: str,
    draws: "Sequence[tuple[float | None, Draw, Costs]]",
    wanted: Wanted,
    *,
    console: "Console",
    html: Path | None = None,
    as_json: bool = False,
) -> None:
    """Simulate what is wanted, and show it."""
    from speceyes.plan.sizing import Sizing, size
    from speceyes.plan.terminal import Planned, document, rows_of, show_plan

    if (wanted.target_rate is None) != (wanted.target_p95_s is None):
        raise ConfigError("target_rate", "goes with --target-p95; give both, or neither")
    sizings: list[tuple[float | None, str, Sizing]] = []
    if wanted.target_rate is not None and wanted.target_p95_s is not None:
        for policy in wanted.policies:
            for threshold, draw, _ in _drawn_for(policy, draws):
                scenario = replace(wanted.scenario, draw=draw, policy=policy)
                found = size(scenario, rate=wanted.target_rate, p95_s=wanted.target_p95_s)
                sizings.append((threshold, policy, found))
    planned = Planned(
        source=source,
        costs=tuple((threshold, costs) for threshold, _, costs in draws),
        rows=rows_of(_forecasts(draws, wanted)),
        sizings=tuple(sizings),
    )
    show_plan(console, planned)
    if html is not None:
        from speceyes.bench.page.planned import write_plan

        write_plan(planned, html)
        console.print(f"page     {html}", highlight=False, markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(document(planned)))
        sys.stdout.flush()


def run_published(console: "Console", *, as_json: bool) -> None:
    """Fit the paper's tables, and show what the formula foretells of the rest."""
    from dataclasses import asdict

    from speceyes.bench.page.published import tables
    from speceyes.plan.papers import fit_published
    from speceyes.plan.terminal import show_published

    batches, pairs = fit_published(tables())
    show_published(console, batches, pairs)
    if as_json:
        print(
            json.dumps({"batches": list(map(asdict, batches)), "pairs": list(map(asdict, pairs))})
        )
        sys.stdout.flush()


def _forecasts(
    draws: "Sequence[tuple[float | None, Draw, Costs]]", wanted: Wanted
) -> "list[tuple[float | None, Forecast]]":
    from speceyes.plan.drive import simulate

    found = []
    for load in wanted.loads:
        for policy in wanted.policies:
            for threshold, draw, _ in _drawn_for(policy, draws):
                scenario = replace(wanted.scenario, draw=draw, policy=policy, arrivals=load)
                found.append((threshold, simulate(scenario)))
    return found


def _drawn_for(
    policy: PolicyName, draws: "Sequence[tuple[float | None, Draw, Costs]]"
) -> "Sequence[tuple[float | None, Draw, Costs]]":
    # The agent alone knows no threshold: once is enough.
    return [(None, *draws[0][1:])] if policy == "agent_only" else draws


def _fitted(run: Path | None, fit: Sequence[Path], wanted: Wanted, console: "Console") -> Wanted:
    from speceyes.plan.inputs import fitted
    from speceyes.plan.terminal import show_fit

    if run is None:
        raise ConfigError("fit", "goes with a run; figures by hand take --large-slowdown")
    found = fitted(run, fit, wanted.scenario)
    show_fit(console, found)
    return replace(wanted, scenario=replace(wanted.scenario, small=found.small, large=found.large))


def _of_hand(hand: "ByHand") -> Any:
    from speceyes.plan.formulas import Costs

    costs = Costs(
        beta=hand.beta,
        alpha=hand.alpha,
        screen_s=hand.screen_s,
        speculate_s=hand.speculate_s,
        agent_s=hand.agent_s,
    )
    return "figures by hand", [(None, hand, costs)]


def _check_by_hand(figures: Sequence[object]) -> None:
    missing = [name for name, figure in zip(BY_HAND, figures, strict=True) if figure is None]
    if missing:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise ConfigError(missing[0], f"is missing: give a run's folder, or {flags} too")


def _loads(concurrency: str, rate: str) -> "tuple[Arrivals, ...]":
    from speceyes.plan.drive import Closed, Poisson

    if not concurrency and not rate:
        concurrency = CONCURRENCIES
    callers = _listed("concurrency", concurrency, int)
    return (*map(Closed, callers), *map(Poisson, _listed("rate", rate, float)))


def _depths(text: str) -> dict[int, float]:
    found = {}
    for part in text.split(","):
        depth, colon, share = part.partition(":")
        try:
            found[int(depth)] = float(share) if colon else 1.0
        except ValueError as error:
            raise ConfigError("depth", f"{part!r} is no depth and its share, as 1:.6 is") from error
    return found


def _listed(field: str, text: str, read: Callable[[str], _T]) -> tuple[_T, ...]:
    try:
        return tuple(read(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(field, f"{text!r} holds what is no number; part them by commas") from (
            error
        )
