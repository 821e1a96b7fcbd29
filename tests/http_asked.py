"""An HTTP engine on a stub server, for one test, and requests to ask it with."""

import json

from PIL import Image as Pillow

from speceyes.engines.http import HttpEngine, HttpSettings
from speceyes.pictures import encode_png
from speceyes.types import GenerateRequest, Image, Message, Text
from tests.stub_server import say, serving

PHOTO = encode_png(Pillow.linear_gradient("L").resize((64, 48)).convert("RGB"))
ZOOM = json.dumps({"type": "function", "function": {"name": "zoom", "parameters": {}}})
CALL = '<tool_call>\n{"name": "zoom", "arguments": {"box": [1, 2]}}\n</tool_call>'


def user(*parts):
    return Message("user", tuple(Text(p) if isinstance(p, str) else Image(p) for p in parts))


def ask(*messages, tokens=16, **more):
    return GenerateRequest(messages or (user("What is it?"),), tokens, **more)


def words(body):
    return say(body, ["a", " red", " disc"])


class Asked:
    """An engine on a stub, for one test."""

    def __init__(self, server, **settings):
        more = {name: settings.pop(name) for name in ("key", "key_env") if name in settings}
        model = settings.pop("model", "stub")
        settings = HttpSettings(**({"backoff_s": 0.001} | settings))
        self.engine = HttpEngine(server.url, model=model, settings=settings, **more)

    async def __aenter__(self):
        return self.engine

    async def __aexit__(self, *_):
        await self.engine.aclose()


async def generate(script, request=None, **settings):
    async with serving(script) as server, Asked(server, **settings) as engine:
        return await engine.generate(request or ask(top_logprobs=8)), server
