"""The gateway's own description: every path, every status, what goes in and what comes out.

It refuses to know what is behind any path.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

_OBJECT: Final[Json] = {"type": "object"}
_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 1}
_ERROR: Final[Json] = {"$ref": "#/components/schemas/Error"}
_WHY: Final = {
    400: "The request cannot be read, or asks for what this route cannot do; `param` names it.",
    401: "The key is missing or not known.",
    403: "A web page from elsewhere asks, and there are no keys.",
    404: "No route has this name.",
    405: "This path has no such method.",
    408: "The request came too slowly.",
    413: "The request or a picture is too large, or the conversation is too long.",
    415: "A picture is of a format that is not accepted.",
    429: "A limit of the key, or the gateway's queue, is full; Retry-After says when to ask again.",
    431: "The request's headers are too long.",
    500: "A defect of the gateway.",
    502: "An engine or the agent gave no usable answer.",
    503: "An engine is down; Retry-After says when it is tried again, where that is known.",
    504: "There was no answer before the deadline.",
}


def document() -> Json:
    """Give the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "speceyes gateway",
            "version": _version(),
            "description": "Chat completions in front of an agentic vision-language model.",
        },
        "paths": {
            "/v1/chat/completions": {"post": _chat()},
            "/v1/models": {"get": _read("The routes, as models.", 401, 403)},
            "/v1/models/{model}": {"get": _one_model()},
            "/healthz": {"get": _read("The process is there.", is_open=True)},
            "/readyz": {"get": _read("Requests can be answered.", 503, is_open=True)},
            "/openapi.json": {"get": _read("This document.", is_open=True)},
            "/v1/stats": {"get": _read("What was done so far.", 401, 403)},
            "/metrics": {"get": _read("The same for Prometheus.", 401, 403, media="text/plain")},
            "/": {"get": _read("The same as a page.", 401, 403, media="text/html")},
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
        "security": [{}, {"key": []}],
    }


def _chat() -> Json:
    codes = (400, 401, 403, 404, 408, 413, 415, 429, 431, 500, 502, 503, 504)
    request: Json = {"$ref": "#/components/schemas/Request"}
    return {
        "summary": "Answer the last turn of a conversation.",
        "description": (
            "A request outside the method (without a picture, with tools, with n above 1, ...) is "
            "passed on to the large engine, whose reply, of any status, comes back untouched with "
            "`x-speceyes-route: bypass` and `x-speceyes-reason`."
        ),
        "parameters": [
            {
                "name": "x-request-timeout-s",
                "in": "header",
                "description": "Seconds after which the answer is of no use any more.",
                "schema": {"type": "number", "exclusiveMinimum": 0},
            }
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": {
                "description": "The answer, whole or as a stream of events.",
                "headers": _way_headers(),
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Completion"}},
                    "text/event-stream": {},
                },
            },
            **_errors(*codes),
            "4XX": {"description": "What a server said no with that the request was passed on to."},
            "5XX": {"description": "What such a server failed with."},
        },
    }


def _one_model() -> Json:
    name = {"name": "model", "in": "path", "required": True, "schema": _TEXT}
    return {**_read("One route, as a model.", 401, 403, 404), "parameters": [name]}


def _read(
    summary: str, *codes: int, media: str = "application/json", is_open: bool = False
) -> Json:
    schema = _OBJECT if media == "application/json" else _TEXT
    told: Json = {
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": {media: {"schema": schema}}},
            **_errors(*codes),
        },
    }
    if is_open:
        told["security"] = []
    if 503 in codes:  # says what is down, which is no error of the request
        told["responses"]["503"] = {
            "description": _WHY[503],
            "content": {media: {"schema": schema}},
        }
    return told


def _errors(*codes: int) -> Json:
    content = {"application/json": {"schema": _ERROR}}
    return {str(code): {"description": _WHY[code], "content": content} for code in codes}


def _way_headers() -> Json:
    told = {
        "route": "speculative, agentic, degraded or bypass.",
        "reason": "Why.",
        "score": "What the gate made of the small model's answer.",
        "threshold": "What it had to be above.",
        "depth": "How many tools were called.",
    }
    named = {
        f"x-speceyes-{name}": {"description": why, "schema": _TEXT} for name, why in told.items()
    }
    return {**named, "x-request-id": {"description": "This request's name.", "schema": _TEXT}}


def _schemas() -> Json:
    part: Json = {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": _TEXT,
            "text": _TEXT,
            "image_url": {
                "type": "object",
                "required": ["url"],
                "properties": {"url": _TEXT, "detail": _TEXT},
            },
        },
    }
    message: Json = {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]},
            "content": {"oneOf": [_TEXT, {"type": "array", "items": part}, {"type": "null"}]},
        },
    }
    return {
        "Request": {
            "type": "object",
            "required": ["model", "messages"],
            "properties": {
                "model": _TEXT,
                "messages": {"type": "array", "minItems": 1, "items": message},
                "stream": {"type": "boolean"},
                "stream_options": _OBJECT,
                "max_tokens": _COUNT,
                "max_completion_tokens": _COUNT,
                "n": _COUNT,
                "temperature": {"type": "number", "minimum": 0},
                "speceyes": {
                    "type": "object",
                    "properties": {"boxes": {"type": "boolean"}},
                    "additionalProperties": False,
                },
            },
        },
        "Completion": {
            "type": "object",
            "required": ["choices"],
            "properties": {
                "id": _TEXT,
                "object": _TEXT,
                "model": _TEXT,
                "choices": {"type": "array", "items": _OBJECT},
                "usage": {"type": ["object", "null"]},
                "speceyes": _OBJECT,
            },
        },
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["message", "type", "param", "code"],
                    "properties": {
                        "message": _TEXT,
                        "type": _TEXT,
                        "param": {"type": ["string", "null"]},
                        "code": {"type": ["string", "null", "integer"]},
                    },
                }
            },
        },
    }


def _version() -> str:
    try:
        return version("speceyes")
    except PackageNotFoundError:
        return "unknown"
