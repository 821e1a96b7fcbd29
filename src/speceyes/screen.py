"""The screen reads, from the first token alone, how probable it is that a query needs a tool.

It refuses to know the prompt, the model and the tokenizer; it sees candidate texts and log-probs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, assert_never

from speceyes.errors import ConfigError
from speceyes.types import Evidence, Generation

ScreenRule: TypeAlias = Literal["logprobs", "text"]
ScreenPrompt: TypeAlias = Literal["paper", "shared"]

_SAID: Final[Mapping[str, float]] = {"yes": 1.0, "no": 0.0}
SCREEN_WORDS: Final = tuple(_SAID)
"""The only two replies of use, for engines that can hold a model to them."""

# What tokenizers write for a leading space or newline: GPT-2 style bytes, and SentencePiece.
_SPACE_MARKS = str.maketrans({"\u0120": " ", "\u2581": " ", "\u010a": " ", "\u0109": " "})


@dataclass(frozen=True, slots=True)
class ScreenSpec:
    """Say when Phase I sends a query to the agent: p(needs a tool) >= `threshold`, or in doubt.

    Doubt is yes and no together holding less than `min_mass` of the first token's probability.
    `rule` "logprobs" reads the first token's candidates; "text" lets the model say up to
    `max_tokens` tokens, and takes anything that does not begin with "no" for a need, as the
    reference code does. `prompt` "paper" asks about picture and question alone; "shared" asks at
    the end of the agent's own opening, which an engine that keeps prefixes reads once for both.
    Raises: ConfigError naming the field.
    """

    threshold: float = 0.5
    min_mass: float = 0.01
    top_logprobs: int = 20
    rule: ScreenRule = "logprobs"
    max_tokens: int = 1
    prompt: ScreenPrompt = "paper"
    prompt_id: str | None = None
    engine: str | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigError("screen.threshold", f"{self.threshold} is not in 0..1")
        if not 0.0 <= self.min_mass <= 1.0:
            raise ConfigError("screen.min_mass", f"{self.min_mass} is not in 0..1")
        if self.top_logprobs < 2:
            raise ConfigError("screen.top_logprobs", "must be at least 2, for yes and for no")
        if self.max_tokens < 1:
            raise ConfigError("screen.max_tokens", f"{self.max_tokens} is below 1")


PAPER_SCREEN: Final = ScreenSpec(rule="text", max_tokens=10)
"""The reference code's: up to ten tokens, screened when they begin with "no"."""


def read_need(generation: Generation, spec: ScreenSpec) -> float | None:
    """Read p(needs a tool) off what the screening model said, by the spec's rule.

    Under the rule "text" it is 0 or 1, and 1 for whatever cannot be read. None means doubt.
    """
    match spec.rule:
        case "logprobs":
            return p_needs_tool(generation.evidence, min_mass=spec.min_mass, text=generation.text)
        case "text":
            return 0.0 if generation.text.strip().casefold().startswith("no") else 1.0
        case _:
            assert_never(spec.rule)


def p_needs_tool(
    evidence: Evidence | None, *, min_mass: float = 0.0, text: str = ""
) -> float | None:
    """Read p(yes) / (p(yes) + p(no)) off the first token, over all spellings of yes and no.

    Spellings differ in case, whitespace, a tokenizer's space marks and closing punctuation.
    Where there is no evidence at all, `text`, what was said, counts as 1 or 0 if it is one of the
    two words. Units: nats in, a probability out. Invariants: a constant added to the row changes
    nothing while `min_mass` is 0. None means doubt: no first token, neither word among the
    candidates, both together below `min_mass`, or another text.

    >>> import numpy as np
    >>> row = np.log(np.array([[0.6, 0.3, 0.1]], dtype=np.float32))
    >>> p = p_needs_tool(Evidence(row, row[:, 0], ((" Yes", "no", "The"),)))
    >>> None if p is None else round(p, 4)
    0.6667
    """
    if evidence is None:
        return _SAID.get(_word(text))
    if not evidence.candidates or evidence.logp_topk.ndim != 2:
        return None
    if evidence.logp_topk.shape[0] == 0:
        return None
    mass = {"yes": 0.0, "no": 0.0}
    for token, logp in zip(evidence.candidates[0], evidence.logp_topk[0].tolist(), strict=False):
        word = _word(token)
        if word in mass and math.isfinite(logp):
            mass[word] += math.exp(min(logp, 0.0))
    total = mass["yes"] + mass["no"]
    if total == 0.0 or total < min_mass:
        return None
    return mass["yes"] / total


def needs_tool(p_tool: float | None, spec: ScreenSpec) -> bool:
    """Decide whether a query goes to the agent; doubt (None) does."""
    return p_tool is None or p_tool >= spec.threshold


def _word(token: str) -> str:
    return token.translate(_SPACE_MARKS).strip().strip(".,!:;\"'*").casefold()
