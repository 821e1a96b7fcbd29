"""What a gate was calibrated to, on what and when, in short: for whoever looks at the gateway.

It refuses to know how that holds now.
"""

from __future__ import annotations

from dataclasses import dataclass

from speceyes.calibration.certificate import RISKS, Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A certificate in short. Shares are of all queries.

    `failure` says what counts as one, and `bound` is above the share of them with the stated
    confidence; `accepted`: the share that was accepted then, None if nobody asked. `made_at` is a
    date and time, UTC.
    """

    made_at: str
    sources: tuple[str, ...]
    failure: str
    max_loss: float
    confidence: float
    bound: float
    accepted: float | None
    accepts_nothing: bool


def calibrated_of(certificate: Certificate) -> Calibrated:
    """Put a certificate in short."""
    return Calibrated(
        made_at=certificate.made_at,
        sources=tuple(f"{one.items} of {one.suite}" for one in certificate.sources),
        failure=RISKS[certificate.risk],
        max_loss=certificate.max_loss,
        confidence=certificate.confidence,
        bound=certificate.bound,
        accepted=certificate.accepted.value,
        accepts_nothing=certificate.accepts_nothing,
    )
