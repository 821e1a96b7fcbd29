"""Every way in which speceyes can fail has a name here, and says what to do next.

    SpecEyesError                    500
    +-- InputError                   400   names the field at fault
    |   +-- QueryError               400
    |   +-- PictureError             400
    |   |   +-- PictureUnreadable    400   no such file, or it cannot be read
    |   |   +-- PictureEmpty         400
    |   |   +-- PictureUnknown       415   not a format that is accepted
    |   |   +-- PictureTruncated     400   the pixels end early, or are damaged
    |   |   +-- PictureTooLarge      413   too many bytes or pixels; decompression bombs
    |   |   +-- PictureShapeError    400   an extreme aspect, or a box outside or empty
    |   +-- ConfigError              400
    |   +-- SuiteError               400   a suite's file or row; names it
    |   +-- RunFolderError           409   a run's folder that cannot be gone on with
    |   +-- RequestMalformed         400   a request that cannot be read, or not be answered
    |   +-- RouteUnknown             404   no route has that name
    |   +-- KeyRefused               401   no key, or one that opens nothing
    |   +-- PageRefused              403   a web page from elsewhere asks
    |   +-- RequestTooSlow           408   the request itself did not arrive in time
    |   +-- RequestTooLarge          413   a request beyond the limit of bytes
    +-- TooManyRequests              429   says when to ask again
    |   +-- RateExceeded             429   one caller's own limits
    |   +-- NoRoom                   429   all places are taken, and the queue is full or too slow
    +-- EngineError                  502   names the engine
    |   +-- EngineUnavailable        503   may say when to ask again
    |   +-- EngineTimeout            504
    |   +-- EngineProtocolError      502   the engine answered something unexpected
    |   +-- ContextTooLong           413
    +-- GateInputError               500   arrays that cannot be scored
    +-- AgentError                   502
    |   +-- NoAnswer                 502   the budget ended without an answer
    +-- ToolError                    500   the tool itself broke (not the model's call of it)
    +-- TraceError                   500   events that do not tell one whole story
    +-- StorageError                 507   results cannot be written: the disk is full, say

It knows nothing of what raises them. What a *model* does wrong is an `Observation`, never an error.
"""

# ruff: noqa: N818 - names say what happened; the bases alone carry the Error suffix

from __future__ import annotations

from typing import ClassVar


class SpecEyesError(Exception):
    """Anything that speceyes raises on purpose."""

    http_status: ClassVar[int] = 500


class InputError(SpecEyesError):
    """The caller gave something that cannot be used; `field` says which part."""

    http_status: ClassVar[int] = 400

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class QueryError(InputError):
    """A question, its pictures or its options cannot be asked as they are."""


class PictureError(InputError):
    """A picture cannot be used."""


class PictureUnreadable(PictureError):
    """The file of a picture is missing or cannot be read."""


class PictureEmpty(PictureError):
    """A picture without a single byte."""


class PictureUnknown(PictureError):
    """Bytes that are no picture in a format that is accepted."""

    http_status: ClassVar[int] = 415


class PictureTruncated(PictureError):
    """A picture whose header is sound but whose pixels end early or are damaged."""


class PictureTooLarge(PictureError):
    """A picture beyond the limit of bytes or pixels."""

    http_status: ClassVar[int] = 413


class PictureShapeError(PictureError):
    """A picture of an extreme aspect, or a box that is outside it or has no area."""


class ConfigError(InputError):
    """A setting that is unknown, missing, or outside its range."""


class SuiteError(InputError):
    """A file or a row of a suite that cannot be used; `field` names both."""


class RunFolderError(InputError):
    """A folder that holds another run, or is in use by one."""

    http_status: ClassVar[int] = 409


class RequestMalformed(InputError):
    """A request to the gateway that cannot be read, or asks for what no route can do."""


class RouteUnknown(InputError):
    """A request for a model, or a path, that the gateway does not have."""

    http_status: ClassVar[int] = 404


class KeyRefused(InputError):
    """The caller's key is missing, cannot be read, or is none of those that are known."""

    http_status: ClassVar[int] = 401


class PageRefused(InputError):
    """A web page from elsewhere asks, through the browser of somebody who may."""

    http_status: ClassVar[int] = 403


class RequestTooSlow(InputError):
    """A request whose body does not arrive whole within its time."""

    http_status: ClassVar[int] = 408


class RequestTooLarge(InputError):
    """A request whose body is beyond the limit of bytes."""

    http_status: ClassVar[int] = 413


class TooManyRequests(SpecEyesError):
    """There is no room for the request now; `retry_after_s` says when there may be."""

    http_status: ClassVar[int] = 429

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateExceeded(TooManyRequests):
    """The caller's own limit is reached: requests a minute, or requests at once."""


class NoRoom(TooManyRequests):
    """All places are taken, and the queue is full or did not move in time."""


class EngineError(SpecEyesError):
    """An engine could not generate; `engine` says which one."""

    http_status: ClassVar[int] = 502

    def __init__(self, engine: str, message: str) -> None:
        super().__init__(engine, message)
        self.engine = engine
        self.message = message

    def __str__(self) -> str:
        return f"{self.engine}: {self.message}"


class EngineUnavailable(EngineError):
    """The engine cannot be reached, is closed, or refuses work.

    `retry_after_s` is when it is tried again, where that is known.
    """

    http_status: ClassVar[int] = 503

    def __init__(self, engine: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(engine, message)
        self.retry_after_s = retry_after_s


class EngineTimeout(EngineError):
    """The engine did not answer before the deadline."""

    http_status: ClassVar[int] = 504


class EngineProtocolError(EngineError):
    """The engine's reply does not have the agreed shape."""


class ContextTooLong(EngineError):
    """The conversation does not fit the model's context; send fewer or smaller pictures."""

    http_status: ClassVar[int] = 413


class GateInputError(SpecEyesError):
    """Arrays that have no separability: too few candidates, or a non-finite value."""


class AgentError(SpecEyesError):
    """The tool loop ended without a usable result."""

    http_status: ClassVar[int] = 502


class NoAnswer(AgentError):
    """The agent's budget ended, and even when asked for it, no answer came."""


class ToolError(SpecEyesError):
    """A tool broke on its own account; the model's mistakes are observations instead."""


class TraceError(SpecEyesError):
    """Events that do not form one query's story: this is a defect in speceyes, report it."""


class StorageError(SpecEyesError):
    """Results could not be written. What was written before is whole and can be gone on with."""

    http_status: ClassVar[int] = 507
