"""Server-sent events are read here: bytes in, however they are cut, the events' data out.

It refuses to know what the data means. Source: the HTML standard, server-sent events; only `data`
is kept, for the API uses no other field.
"""

from __future__ import annotations


class SseParser:
    r"""Take in a stream piece by piece and give each event's data when it is whole.

    Invariants: where the stream is cut into pieces changes nothing. Lines end in LF, CRLF or CR;
    comments and other fields are passed over; the lines of one event's data are joined by LF; bytes
    that are no UTF-8 read as U+FFFD.

    >>> parser = SseParser()
    >>> parser.feed(b": hello\nda"), parser.feed(b"ta: {}\n\ndata:[DONE]\n"), parser.end()
    ([], ['{}'], ['[DONE]'])
    """

    def __init__(self) -> None:
        self._rest = b""  # the line that is not whole yet
        self._after_cr = False  # a LF that comes first belongs to the CR before it
        self._is_first_line = True
        self._data: list[str] = []

    @property
    def held_bytes(self) -> int:
        """How much is held of an event that is not whole yet."""
        return len(self._rest) + sum(map(len, self._data))

    def feed(self, piece: bytes) -> list[str]:
        """Take in the next piece; give the data of the events that it completes."""
        if self._after_cr and piece:
            piece = piece.removeprefix(b"\n")
            self._after_cr = False
        if b"\n" not in piece and b"\r" not in piece:
            self._rest += piece
            return []
        self._after_cr = piece.endswith(b"\r")
        text = (self._rest + piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = text.split(b"\n")
        return [data for line in lines if (data := self._take(line)) is not None]

    def end(self) -> list[str]:
        """Say that the stream is over; give what only lacked its empty line."""
        last = self._take(self._rest) if self._rest else None
        self._rest = b""
        data = [last, self._take(b"")]
        return [text for text in data if text is not None]

    def _take(self, line: bytes) -> str | None:
        if self._is_first_line:
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._is_first_line = False
        if not line:
            data, self._data = self._data, []
            return "\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" ").decode("utf-8", "replace"))
        return None
