"""A gate's certificate says what risk it was calibrated to, how, on what, and when.

It refuses to know files and runs. It names its gate by a digest, so that a gate that was changed by
hand afterwards is found out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias

from speceyes.calibration.bounds import Estimate
from speceyes.calibration.drift import Reference
from speceyes.calibration.isotonic import Reading
from speceyes.calibration.thresholds import METHOD
from speceyes.errors import ConfigError
from speceyes.gate import GateSpec
from speceyes.specs import CERTIFICATE, CLOSER, FIELD, gate_id, read_closer_gate, read_gate

Risk: TypeAlias = Literal["lost", "wrong", "differs"]

RISKS: Final[Mapping[Risk, str]] = {
    "lost": "accepted, wrong, and the agent alone is not",
    "wrong": "accepted and wrong",
    "differs": "accepted, and not the agent's answer",
}
"""What may count as a failure; each is a share of all queries, and the first is in both others."""
CERTIFICATE_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Source:
    """A suite that a gate was chosen on: its string, its checksum, and how many items of it."""

    suite: str
    checksum: str
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What is certain of a gate. Shares are of all queries but `alpha`, which is of the screened.

    `bound` is above the true risk with the stated confidence, on `failures` of `count` seen.
    `held_out` is the risk on items that had no part in choosing; `held_out_on` says which.
    `needed`: how many items would do, where there were too few. `beside`: the other risks, as seen
    at this threshold. `reading`: p(wrong | score) of the screened. `reference`: how their scores
    fell, for a test of drift; None where that was not counted. Where the small model may look
    closer, the risk is that of both gates together, `alpha` and `reading` are of its answers at
    first sight, and `closer_accepted` are those accepted after a look.
    """

    gate_id: str
    risk: Risk
    max_loss: float
    confidence: float
    count: int
    failures: int
    bound: float
    needed: int | None
    held_out: Estimate | None
    held_out_on: str
    alpha: Estimate
    beta: Estimate
    accepted: Estimate
    beside: Mapping[Risk, Estimate]
    reading: Reading
    sources: tuple[Source, ...]
    protocol: str
    prompts: Mapping[str, str]
    made_at: str
    version: str
    reference: Reference | None = None
    closer_accepted: Estimate | None = None
    method: str = METHOD
    certificate_version: int = field(default=CERTIFICATE_VERSION)

    @property
    def accepts_nothing(self) -> bool:
        """Whether the gate it speaks of let nothing pass."""
        return self.accepted.count == 0


@dataclass(frozen=True, slots=True)
class Certified:
    """A gate with its certificate; `closer_gate`: where it is of two gates, the closer one's."""

    gate: GateSpec
    certificate: Certificate
    closer_gate: GateSpec | None = None


def to_json(made: Certified) -> str:
    """Write a gate and its certificate as the document that `--gate` takes."""
    closer = {} if made.closer_gate is None else {CLOSER: asdict(made.closer_gate)}
    document = {FIELD: asdict(made.gate), **closer, CERTIFICATE: asdict(made.certificate)}
    return json.dumps(document, indent=2) + "\n"


def from_json(text: str) -> Certified | None:
    """Read a certified gate; None if the document has a gate but no certificate.

    Raises: ConfigError if it is neither, or if the gate is not the one that was certified.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ConfigError(FIELD, f"is no JSON: {error}") from error
    gate = read_gate(document)
    raw = document.get(CERTIFICATE)
    if raw is None:
        return None
    return Certified(gate, _certificate(raw), read_closer_gate(document))


def certifies(certificate: Certificate, gate: GateSpec, closer: GateSpec | None = None) -> bool:
    """Say if a certificate speaks of this gate, and of no other; or of these two."""
    return certificate.gate_id == gate_id(gate, closer)


def _certificate(raw: Mapping[str, Any]) -> Certificate:
    try:
        if raw["certificate_version"] != CERTIFICATE_VERSION:
            told = f"is of version {raw['certificate_version']}, not {CERTIFICATE_VERSION}"
            raise ConfigError(CERTIFICATE, f"{told}; calibrate again")
        held_out, reference = raw["held_out"], raw.get("reference")
        closer = raw.get("closer_accepted")
        return Certificate(
            **{
                **raw,
                "held_out": None if held_out is None else Estimate(**held_out),
                **{name: Estimate(**raw[name]) for name in ("alpha", "beta", "accepted")},
                "beside": {name: Estimate(**one) for name, one in raw["beside"].items()},
                "reading": Reading(**{key: tuple(v) for key, v in raw["reading"].items()}),
                "reference": None if reference is None else _reference(reference),
                "closer_accepted": None if closer is None else Estimate(**closer),
                "sources": tuple(Source(**one) for one in raw["sources"]),
            }
        )
    except (TypeError, KeyError, AttributeError) as error:
        told = f"is no certificate of a gate ({error!r}); calibrate again"
        raise ConfigError(CERTIFICATE, told) from error


def _reference(raw: Mapping[str, Any]) -> Reference:
    return Reference(**{**raw, "edges": tuple(raw["edges"]), "counts": tuple(raw["counts"])})
