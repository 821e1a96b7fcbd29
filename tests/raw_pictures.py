"""Pictures as bytes: whole ones, and a head with no pixels behind it."""

import io
import struct
import zlib

from PIL import Image


def picture_bytes(kind="PNG", size=(8, 4), **more):
    buffer = io.BytesIO()
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    image.save(buffer, kind, **more)
    return buffer.getvalue()


PNG = picture_bytes()


def png_header(width, height):
    def chunk(body):
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(head) + chunk(b"IDAT" + zlib.compress(b""))
