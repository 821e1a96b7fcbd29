"""Write what curl and the openai SDK hear from the gateway before the built-in pair.

    python -m tests.e2e.gateway_transcript    # renews tests/e2e/gateway.txt; read the difference

What differs from run to run and from machine to machine (ids, times, scores, boxes, tokens) is
written as what it is.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openai import BadRequestError, OpenAI

from speceyes.builtin.suite import draw_items
from speceyes.types import Query
from tests.gateway_process import serving

FILE = Path(__file__).with_name("gateway.txt")
CHAT = "/v1/chat/completions"
_VARYING = (
    (re.compile(r"[0-9a-f]{32}"), "ID"),
    (re.compile(r"\[\d+, ?\d+, ?\d+, ?\d+\]"), "BOX"),
    (re.compile(r"(?<!HTTP/1.1 )(?<![\w/.\"-])-?\d+(\.\d+)?([eE][+-]\d+)?(?![\w.])"), "N"),
    (re.compile(r"(?m)^date: .*\n"), ""),
)


def main() -> None:
    """Write the transcript anew."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), "--builtin") as gateway:
        FILE.write_text(transcript(gateway.url), encoding="utf-8")


def transcript(url: str) -> str:
    """Ask about one thing that is plain to see, and one that is not, in every way."""
    return "\n".join(_lines(url)) + "\n"


def body_of(query: Query) -> dict[str, Any]:
    """Ask as a client of the API does."""
    (picture,) = query.pictures
    data = base64.b64encode(picture.data).decode()
    options = "\n".join(
        f"({letter}) {option}" for letter, option in zip("ABCDEF", query.options, strict=False)
    )
    text = f"{query.question}\n{options}" if options else query.question
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:{picture.media_type};base64,{data}"}},
        {"type": "text", "text": text},
    ]
    return {"model": "speceyes", "messages": [{"role": "user", "content": parts}]}


def questions() -> dict[str, Query]:
    """Give one question for each way through the funnel."""
    items = list(draw_items(12, seed=5, stream="calibration"))
    easy = next(item for item in items if not item.is_hard)
    hard = next(item for item in items if item.is_hard)
    return {"speculative": easy.query, "agentic": hard.query}


def _lines(url: str) -> Iterator[str]:
    for route, query in questions().items():
        asked = body_of(query)
        yield f"=== curl, {route}"
        yield _plain(_curl(url, asked))
        yield f"=== curl, {route}, stream"
        yield _plain(_curl(url, asked | {"stream": True}))
        yield f"=== openai, {route}"
        yield _plain(_whole(url, asked))
        yield f"=== openai, {route}, stream"
        yield _plain(_stream(url, asked))
    outside = body_of(questions()["speculative"]) | {"n": 2}
    yield "=== curl, outside the method, with no server to pass it on to"
    yield _plain(_curl(url, outside))
    yield "=== openai, the same"
    with _client(url) as client:
        try:
            client.chat.completions.create(**outside)
        except BadRequestError as error:
            yield _plain(f"{type(error).__name__}: {error.param} {error.code}: {error.message}")


def _curl(url: str, asked: dict[str, Any]) -> str:
    words = ["curl", "--silent", "--no-buffer", "--include", "--data-binary", "@-", f"{url}{CHAT}"]
    done = subprocess.run(words, input=json.dumps(asked).encode(), capture_output=True, check=True)
    return done.stdout.decode().replace("\r\n", "\n").rstrip()


def _whole(url: str, asked: dict[str, Any]) -> str:
    with _client(url) as client:
        said = client.chat.completions.create(**asked, extra_body={"speceyes": {"boxes": True}})
    return json.dumps(said.to_dict(), indent=1)


def _stream(url: str, asked: dict[str, Any]) -> str:
    usage = {"include_usage": True}
    with _client(url) as client:
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options=usage))
    return "\n".join(json.dumps(chunk.to_dict()) for chunk in chunks)


def _client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none")


def _plain(text: str) -> str:
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    return re.sub(r"BOX(, BOX)*", "BOX", re.sub(r"\[\n\s*N(,\n\s*N){3}\n\s*\]", "BOX", text))


if __name__ == "__main__":
    main()
