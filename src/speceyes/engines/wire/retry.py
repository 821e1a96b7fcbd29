"""Whether a call is tried again, and after how long, is decided here.

It refuses to wait and to draw lots: time gone by and a random number are arguments.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from speceyes.engines.wire.settings import HttpSettings

# What may pass by itself: too busy, not there yet, a proxy without its server. No other status is
# tried again, and nothing is once a byte of the reply has come.
RETRIED_STATUSES: Final = frozenset({429, 502, 503, 504})


def wait_before_retry(
    settings: HttpSettings,
    *,
    attempts: int,
    elapsed_s: float,
    asked_s: float | None,
    draw: float,
) -> float | None:
    """Say how many seconds to wait before trying again, or None to give up.

    backoff_s * 2^(attempts - 1), times 0.5 to 1.5 by `draw` (0 <= draw < 1, uniform), so that
    many callers do not return at once; at least `asked_s`, the server's own Retry-After.
    None: all attempts are made, or the next one would start after the deadline.
    """
    if attempts >= settings.max_attempts:
        return None
    wait_s: float = settings.backoff_s * 2.0 ** (attempts - 1) * (0.5 + draw)
    if asked_s is not None:
        wait_s = max(wait_s, asked_s)
    return wait_s if elapsed_s + wait_s <= settings.retry_deadline_s else None


def retry_after_s(header: str | None, *, now: datetime) -> float | None:
    """Read a Retry-After header, in seconds or as a date; None if it is missing or unreadable.

    >>> retry_after_s(
    ...     "Wed, 21 Oct 2026 07:28:00 GMT", now=datetime(2026, 10, 21, 7, 27, tzinfo=UTC)
    ... )
    60.0
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:  # "-0000": UTC without saying so
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - now).total_seconds())
