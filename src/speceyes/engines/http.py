"""This engine asks a server that speaks the chat-completions API: vLLM, SGLang, llama.cpp, hosted.

It refuses to know prompts, protocols and gates. It runs on asyncio only, as aiohttp does; on trio
it says so. The key is sent to its server and shows nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import anyio
import msgspec

from speceyes.engines.dataurls import DataUrls
from speceyes.engines.kept import KeptPictures
from speceyes.engines.server_load import ServerLoad
from speceyes.engines.transport import Server, Sink, Transport
from speceyes.engines.wire.body import Shown, chat_body, pictures_of
from speceyes.engines.wire.heard import (
    Ear,
    Heard,
    Refused,
    ServedModel,
    Unreadable,
    hear,
    read_models,
)
from speceyes.engines.wire.refusals import Refusal, clean, error_of, strange_reply
from speceyes.engines.wire.reply import generation_of
from speceyes.engines.wire.settings import DEFAULT_HTTP, HttpSettings
from speceyes.engines.wire.sse import SseParser
from speceyes.engines.wire.terms import Learnt, concede, learn, terms_for
from speceyes.errors import ConfigError, EngineError, EngineProtocolError, EngineUnavailable
from speceyes.meter import note_lost
from speceyes.types import GenerateRequest, Generation, Picture, Usage

__all__ = ["HttpEngine", "HttpSettings", "ServedModel"]

_NAMED_MODELS: Final = 8  # that an error lists


class HttpEngine:
    """Ask one model of one server. Implements `types.Engine`; nothing is opened before first use.

    `base_url` usually ends in /v1. `model` None: the first one that the server names, looked up on
    first use. `key_env` only says, in errors, where the key came from. What a server refuses
    (log-probabilities, choices, reading tool calls) is learnt from its first refusal.
    Raises: ConfigError naming the field, for an address or a key that cannot be one.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None,
        key: str | None = None,
        key_env: str | None = None,
        settings: HttpSettings = DEFAULT_HTTP,
        name: str | None = None,
    ) -> None:
        address = _address(base_url)
        self._name = name or (address if model is None else f"{address}#{model}")
        self._server = Server(address, self._name, _sound_key(key))
        self._transport = Transport(self._server, settings)
        self._load = ServerLoad(self._server, settings)
        self._settings = settings
        self._key_env = key_env
        self._given_model = model
        self._found_model: str | None = None
        self._looking = anyio.Lock()
        self._urls = DataUrls(settings.image_format, settings.max_shelf_bytes)
        self._learnt = Learnt(tool_choice=settings.tool_choice)
        self._kept = KeptPictures(settings.image_format)
        self._is_vllm: bool | None = None

    def __repr__(self) -> str:
        return f"HttpEngine({self._name!r})"

    @property
    def name(self) -> str:
        """The address and the model, unless another name was given."""
        return self._name

    async def generate(self, request: GenerateRequest) -> Generation:
        """Go on with the conversation. Raises: EngineError; PictureError for a damaged picture."""
        self._transport.check_open()
        model = await self.find_model()
        pictures = pictures_of(request)
        is_named = bool(pictures) and await self._keeps_pictures()
        held = self._kept.among(pictures) if is_named else frozenset()
        asked = terms = terms_for(request, self._learnt, self._settings)
        while True:
            shown = await self._show(pictures, held, is_named=is_named)
            body = chat_body(request, terms, model=model, shown=shown, stream=self._settings.stream)
            said = await self._ask(msgspec.json.encode(body))
            if isinstance(said, Heard):
                break
            if held and said.may_miss_pictures:
                self._kept.miss(held)
                held = frozenset()
                continue
            fewer = concede(terms, said, request=request, settings=self._settings)
            if fewer is None:
                raise await self._error(said, model)
            terms = fewer
        if is_named:
            self._kept.keep(pictures, found=held)
        try:
            generation = generation_of(said, request, engine=self._name)
        except Unreadable as error:
            raise self._unreadable(error) from error
        self._learnt = learn(
            self._learnt,
            asked=asked,
            granted=terms,
            has_evidence=generation.evidence is not None,
        )
        return generation

    def probe(self) -> ServerLoad:
        """Give who asks the server how busy it is; closed with the engine."""
        return self._load

    @property
    def model(self) -> str | None:
        """The model that it asks for; None: not looked up yet."""
        return self._given_model or self._found_model

    async def find_model(self) -> str:
        """Give the model that it asks for, looked up if it must be. Raises: EngineError."""
        return self._given_model or await self._first_model()

    async def served_models(self) -> tuple[ServedModel, ...]:
        """Ask the server what it serves, and with which context. Raises: EngineError."""
        found = await self._transport.get("/models")
        self._is_vllm = bool(self._is_vllm)  # reached; what it was known to be, it stays
        if isinstance(found, Refusal):
            raise error_of(found, engine=self._name, key_env=self._key_env)
        try:
            models = read_models(found)
        except Unreadable:
            raise self._strange("what is no list of models", found) from None
        self._is_vllm = any(model.owner == "vllm" for model in models)
        return models

    def forget_pictures(self) -> None:
        """Send all pictures anew: the server is known to have dropped them."""
        self._kept.forget()

    async def aclose(self) -> None:
        """Close the connections; calls under way end in EngineUnavailable."""
        await self._transport.aclose()
        await self._load.aclose()

    async def _keeps_pictures(self) -> bool:
        if self._settings.image_reuse == "never":
            return False
        if self._is_vllm is None:
            async with self._looking:
                if self._is_vllm is None:
                    await self._find_kind()
        return bool(self._is_vllm)

    async def _find_kind(self) -> None:
        try:
            await self.served_models()
        except EngineError:
            if self._is_vllm is None:
                raise  # it was not reached at all

    async def _show(
        self, pictures: Sequence[Picture], held: frozenset[str], *, is_named: bool
    ) -> dict[str, Shown]:
        urls = await self._urls.show(one for one in pictures if one.digest not in held)
        return {
            one.digest: Shown(urls.get(one.digest), self._kept.name(one) if is_named else None)
            for one in pictures
        }

    async def _first_model(self) -> str:
        async with self._looking:
            if self._found_model is None:
                served = await self.served_models()
                if not served:
                    raise EngineUnavailable(self._name, "serves no model; load one there")
                self._found_model = served[0].model_id
            return self._found_model

    async def _ask(self, body: bytes) -> Heard | Refusal:
        sinks: list[_Stream | _Whole] = []

        def open_sink(content_type: str) -> Sink:
            is_stream = content_type.startswith("text/event-stream")
            ear = Ear(key=self._server.key)
            sinks.append(_Stream(ear) if is_stream else _Whole(content_type, self._server.key))
            return sinks[-1]

        try:
            refusal = await self._transport.post("/chat/completions", body, open_sink)
            return refusal or sinks[-1].whole()
        except anyio.get_cancelled_exc_class():
            note_lost(Usage(0, None, sinks[-1].heard_tokens if sinks else 0, 0))
            raise
        except Refused as error:
            # vLLM says so within a stream that begins well
            if error.refusal.names_logprobs or error.refusal.misses_pictures:
                return error.refusal
            raise error_of(error.refusal, engine=self._name, key_env=self._key_env) from error
        except Unreadable as error:
            if sinks and isinstance(whole := sinks[-1], _Whole) and not whole.is_json:
                raise self._strange(whole.content_type, bytes(whole.body)) from error
            raise self._unreadable(error) from error

    async def _error(self, refusal: Refusal, model: str) -> EngineError:
        if refusal.status != 404:
            return error_of(refusal, engine=self._name, key_env=self._key_env)
        self._found_model = None  # perhaps another one is served now
        try:
            served = await self.served_models()
        except EngineError:
            return EngineProtocolError(
                self._name, "has no chat-completions API there (404); does the address end in /v1?"
            )
        known = ", ".join(one.model_id for one in served[:_NAMED_MODELS]) or "none"
        return EngineUnavailable(
            self._name,
            f"does not serve the model {model!r}; it serves: {clean(known, key=self._server.key)}",
        )

    def _strange(self, content_type: str, body: bytes) -> EngineProtocolError:
        return strange_reply(self._name, content_type=content_type, body=body, key=self._server.key)

    def _unreadable(self, error: Unreadable) -> EngineProtocolError:
        why = clean(str(error), key=self._server.key)
        return EngineProtocolError(
            self._name, f"sent a reply that cannot be used: {why}; its log may tell more"
        )


@dataclass(slots=True)
class _Whole:
    """Gather a reply that comes in one piece."""

    content_type: str
    key: str | None = field(repr=False)
    body: bytearray = field(default_factory=bytearray)

    @property
    def is_json(self) -> bool:
        return "json" in self.content_type

    @property
    def heard_tokens(self) -> int:
        return 0

    def feed(self, piece: bytes) -> bool:
        self.body += piece
        return False

    def whole(self) -> Heard:
        return hear(bytes(self.body), key=self.key)


@dataclass(slots=True)
class _Stream:
    """Gather a reply that comes as a stream of events."""

    ear: Ear
    is_done: bool = False
    parser: SseParser = field(default_factory=SseParser)

    def feed(self, piece: bytes) -> bool:
        return self._take(self.parser.feed(piece))

    @property
    def heard_tokens(self) -> int:
        return self.ear.pieces

    def whole(self) -> Heard:
        if not self.is_done and not self._take(self.parser.end()):
            raise Unreadable("the stream broke off, without [DONE]")
        return self.ear.whole()

    def _take(self, events: list[str]) -> bool:
        for data in events:
            if not self.is_done:
                self.is_done = self.ear.take_event(data)
        return self.is_done


def _address(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        is_web = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ConfigError("base_url", "is no address; write http://host:port/v1") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError("base_url", "holds a secret; give the key by an environment variable")
    if not is_web or parts.query or parts.fragment:
        raise ConfigError("base_url", f"{base_url!r} is no address; write http://host:port/v1")
    return base_url.rstrip("/")


def _sound_key(key: str | None) -> str | None:
    key = key.strip() if key is not None else None
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError("key", "has characters that no key has; was it copied whole?")
    return key or None
