"""These settings say how the gateway listens, what it lets in, and how it tells of it.

It refuses to know engines, files and sockets. All of the gateway's own defaults live here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from speceyes.errors import ConfigError
from speceyes.shadow.settings import NO_SHADOW, ShadowSettings

OnSampling: TypeAlias = Literal["bypass", "greedy"]
Mode: TypeAlias = Literal["funnel", "bypass"]
LargeDown: TypeAlias = Literal["refuse", "gated"]
Progress: TypeAlias = Literal["reasoning", "comments", "none"]
Format: TypeAlias = Literal["bmp", "gif", "jpeg", "png", "tiff", "webp"]

DEFAULT_ROUTE: Final = "speceyes"
DEFAULT_PORT: Final = 8400
_MIB: Final = 1024 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def check_name(field: str, name: str) -> None:
    """Refuse what cannot be a route's or a key's name. Raises: ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            field,
            f"{name[:60]!r} is no name; use letters, digits and . _ : / -, at most 128",
        )


def _check_counts(settings: object, *names: str, least: int = 1) -> None:
    for name in names:
        if getattr(settings, name) < least:
            raise ConfigError(name, f"{getattr(settings, name)} is below {least}")


def _check_times(settings: object, *names: str) -> None:
    for name in names:
        if not 0.0 < getattr(settings, name) < math.inf:
            raise ConfigError(name, f"{getattr(settings, name)} is not a number of seconds above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bound what is let in and how long it may take; what is at once, counts per worker.

    Raises: ConfigError naming the field.
    """

    max_body_bytes: int = 64 * _MIB
    max_held_bytes: int = 2048 * _MIB  # of the bodies of all that have come and not ended
    max_in_flight: int = 512
    max_queue: int = 512
    queue_timeout_s: float = 30.0
    request_timeout_s: float = 600.0
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    keep_alive_s: float = 75.0  # how long an idle connection stays open
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        _check_counts(self, "max_body_bytes", "max_in_flight")
        _check_counts(self, "max_held_bytes", least=self.max_body_bytes)
        _check_counts(self, "max_queue", least=0)
        _check_times(
            self,
            "queue_timeout_s",
            "request_timeout_s",
            "header_timeout_s",
            "body_timeout_s",
            "keep_alive_s",
            "drain_s",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """Bound a request's pictures; with `fetch` they may lie on the servers that `allow` names.

    Raises: ConfigError naming the field.
    """

    fetch: bool = False
    allow: tuple[str, ...] = ()
    max_bytes: int = 32 * _MIB
    max_pixels: int = 100_000_000
    max_held_pixels: int = 2_000_000_000  # of all requests' pictures together, in one worker
    max_count: int = 16
    timeout_s: float = 10.0
    formats: tuple[str, ...] = ("gif", "jpeg", "png", "webp")

    def __post_init__(self) -> None:
        _check_counts(self, "max_bytes", "max_pixels", "max_count")
        _check_counts(self, "max_held_pixels", least=self.max_pixels)
        _check_times(self, "timeout_s")
        known = get_args(Format)
        for name in self.formats:
            if name not in known:
                raise ConfigError("formats", f"{name!r} is unknown; choose from {', '.join(known)}")
        if self.fetch and not self.allow:
            raise ConfigError("allow", "is empty; name the hosts that pictures may be fetched from")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A caller's key, kept as its SHA-256 in hexadecimal; None: not bounded.

    Raises: ConfigError naming the field.
    """

    name: str
    sha256: str = field(repr=False)
    requests_per_minute: int | None = None
    max_in_flight: int | None = None

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if not _SHA256.fullmatch(self.sha256):
            raise ConfigError(
                "sha256",
                "is not the SHA-256 of a key, 64 hexadecimal digits; write what "
                "`printf %s KEY | sha256sum` prints",
            )
        for name in ("requests_per_minute", "max_in_flight"):
            if getattr(self, name) is not None:
                _check_counts(self, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """Say when an engine counts as down, and for how long it is then left alone.

    Raises: ConfigError naming the field.
    """

    failures: int = 5  # one after the other
    share: float = 0.5  # of the calls within the window, once there are `least_calls`
    least_calls: int = 20
    window_s: float = 30.0
    open_s: float = 10.0

    def __post_init__(self) -> None:
        _check_counts(self, "failures", "least_calls")
        _check_times(self, "window_s", "open_s")
        if not 0.0 < self.share <= 1.0:
            raise ConfigError("share", f"{self.share} is not above 0 and at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """Say what a streaming client hears while the agent works. Raises: ConfigError."""

    progress: Progress = "reasoning"
    keep_alive_s: float = 15.0

    def __post_init__(self) -> None:
        _check_times(self, "keep_alive_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings:
    """Say where traces go, by OTLP over HTTP; None: nowhere. `share` of all requests is traced."""

    endpoint: str | None = None
    service_name: str = "speceyes"
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ConfigError("share", f"{self.share} is not within 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """Say where the audit log goes; None: nowhere. With `prompts`, questions and answers are in it.

    A file of `max_bytes` is moved to FILE.1, that to FILE.2, and so on, up to `keep` of them; None:
    never. Raises: ConfigError naming the field.
    """

    file: str | None = None
    prompts: bool = False
    max_bytes: int | None = 256 * _MIB
    keep: int = 5

    def __post_init__(self) -> None:
        _check_counts(self, "keep")
        if self.max_bytes is not None:
            _check_counts(self, "max_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """Name the PEM files of a certificate, its chain included, and of its key; None: plain HTTP.

    Raises: ConfigError naming the field.
    """

    certificate: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        for name, other in (("certificate", "key"), ("key", "certificate")):
            if getattr(self, name) is None and getattr(self, other) is not None:
                raise ConfigError(name, f"is missing; give it, or leave the {other} out")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings:
    """Say what is done under one model name, apart from who does it.

    `mode` "bypass": all goes untouched to the large engine. `on_sampling`: what becomes of
    requests that ask for sampling. `large_down`: with the large engine down, refuse at once, or
    give what the gate accepts. Raises: ConfigError naming the field.
    """

    name: str = DEFAULT_ROUTE
    mode: Mode = "funnel"
    on_sampling: OnSampling = "bypass"
    large_down: LargeDown = "refuse"
    shadow: ShadowSettings = NO_SHADOW

    def __post_init__(self) -> None:
        check_name("name", self.name)
        if self.mode == "bypass" and self.shadow.mode != "off":
            raise ConfigError("shadow.mode", "needs a funnel, and this route bypasses; set off")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Say how the gateway listens and behaves. Raises: ConfigError naming the field."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    workers: int = 1
    limits: Limits = Limits()
    images: ImageSettings = ImageSettings()
    streaming: Streaming = Streaming()
    breaker: BreakerSettings = BreakerSettings()
    tracing: TracingSettings = TracingSettings()
    audit: AuditSettings = AuditSettings()
    tls: TlsSettings = TlsSettings()
    keys: tuple[Key, ...] = ()

    def __post_init__(self) -> None:
        _check_counts(self, "workers")
        if not 0 <= self.port <= 65535:
            raise ConfigError("port", f"{self.port} is no port; choose one from 1 to 65535, or 0")
        for what in ("name", "sha256"):
            told = [getattr(key, what) for key in self.keys]
            if len(set(told)) != len(told):
                raise ConfigError("keys", f"two keys have the same {what}; change one")
