"""What was heard becomes a generation here.

It refuses to know sockets and how the reply came; faults in its evidence are left to the gate.
"""

from __future__ import annotations

from dataclasses import replace

from speceyes.engines.wire.body import pictures_of
from speceyes.engines.wire.ending import end_of
from speceyes.engines.wire.evidence import answer_tokens, evidence_of, read_rows, spelling
from speceyes.engines.wire.heard import Heard
from speceyes.types import GenerateRequest, Generation, Usage


def generation_of(heard: Heard, request: GenerateRequest, *, engine: str) -> Generation:
    """Read a reply to a request. Raises: Unreadable if it came to no proper end."""
    rows = read_rows(heard.rows) if request.top_logprobs else ()
    ending = end_of(heard, request.stop, spelling(rows))
    told = None if heard.usage is None else heard.usage.completion_tokens
    evidence, tokens = None, answer_tokens(ending, told)
    if rows:
        evidence, tokens = evidence_of(rows, ending, k=request.top_logprobs, completion_tokens=told)
    usage = heard.usage or Usage(0, None, max(tokens, len(rows)), 0)
    return Generation(
        text=ending.text,
        finish=ending.finish,
        stop_string=ending.stop_string,
        token_count=tokens,
        evidence=evidence,
        usage=replace(usage, images=len(pictures_of(request))),
        engine=engine,
        request_id=heard.reply_id,
    )
