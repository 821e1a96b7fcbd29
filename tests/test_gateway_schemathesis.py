"""The gateway, tried against its own description: no 5xx, no status and no shape it does not tell.

A real gateway, before a real server that answers everything: a 5xx would be the gateway's own.
"""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from PIL import Image as Pillow
from schemathesis import GenerationMode, checks

from benchmarks.proxying.targets import gateway_settings
from speceyes.gateway.openapi import document
from tests.e2e.pinned_env import ROOT
from tests.gateway_process import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CHECKED = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.allow_header_conformance,
    checks.unsupported_method,
    checks.negative_data_rejection,
]
CHAT = "/v1/chat/completions"


def picture_url() -> str:
    kept = io.BytesIO()
    Pillow.new("RGB", (28, 28)).save(kept, "PNG")
    return f"data:image/png;base64,{base64.b64encode(kept.getvalue()).decode()}"


PICTURE_URL = picture_url()


INSIDE = {"model", "messages", "stream", "max_tokens", "max_completion_tokens", "speceyes"}
QUESTION = {
    "role": "user",
    "content": [
        {"type": "image_url", "image_url": {"url": PICTURE_URL}},
        {"type": "text", "text": "What is it?"},
    ],
}


def examples(count: int):
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def upstream() -> Iterator[int]:
    """Serve what answers everything; give its port."""
    words = [sys.executable, str(ROOT / "benchmarks" / "proxying" / "upstream.py")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    folder = tmp_path_factory.mktemp("described")
    file = folder / "speceyes.toml"
    with upstream() as port:
        file.write_text(gateway_settings(port, 0), encoding="utf-8")
        with serving(folder, "--config", str(file)) as gateway:
            yield schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")


@pytest.mark.parametrize("path", sorted(set(document()["paths"]) - {CHAT}))
def test_what_is_only_read_is_as_the_description_tells(described, path):
    @given(case=described[path]["get"].as_strategy())
    @examples(5)
    def holds(case):
        case.call_and_validate(checks=CHECKED)

    holds()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_gets_a_status_or_a_shape_that_the_description_does_not_tell(described, mode):
    told = {int(code) for code in document()["paths"][CHAT]["post"]["responses"] if code.isdigit()}
    ways = Counter()

    @given(case=described[CHAT]["post"].as_strategy(generation_mode=mode))
    @examples(150 if mode is GenerationMode.POSITIVE else 60)
    def holds(case):
        lead_on(case, mode)
        response = case.call_and_validate(checks=CHECKED)
        assert response.status_code in told  # not only as one of a server behind
        ways.update(response.headers.get("x-speceyes-route", ["none"]))

    holds()
    if mode is GenerationMode.POSITIVE:
        assert min(ways[way] for way in ("speculative", "bypass", "refused")) > 5, ways


def lead_on(case, mode: GenerationMode) -> None:
    """Let most requests reach a route, and some a picture: random names and URLs never would."""
    with suppress(TypeError, ValueError):
        if case.headers and 0 < float(case.headers["x-request-timeout-s"]) < 10:
            case.headers["x-request-timeout-s"] = "10"  # else a 504 would be right
    body = case.body
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return
    wanted = len(repr(body)) % 4
    body["model"] = (body["model"], "bypass", "funnel", "funnel")[wanted]
    messages = body.get("messages")
    if mode is GenerationMode.NEGATIVE or not isinstance(messages, list):
        return  # what is wrong stays wrong
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and isinstance(part.get("type"), str):
                lead_to_picture(part)
    if wanted == 3:  # all the way into the funnel
        for name in set(body) - INSIDE:
            del body[name]
        messages[:] = [QUESTION]


def lead_to_picture(part: dict) -> None:
    image = part.get("image_url")
    if isinstance(image, dict) and isinstance(image.get("url"), str):
        image["url"], part["type"] = PICTURE_URL, "image_url"
    elif isinstance(part.get("text"), str):
        part["type"] = "text"
