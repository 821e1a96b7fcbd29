"""Ask the gateway about a picture with the openai package: only the base URL is another one.

python openai_sync.py http://127.0.0.1:8400/v1 scene.png "What shape is the red object?"
"""

import base64
import mimetypes
import sys
from pathlib import Path

from openai import OpenAI


def data_url(path: str) -> str:
    """Give a picture as the API takes it."""
    media_type = mimetypes.guess_type(path)[0] or "image/png"
    return f"data:{media_type};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


def main() -> None:
    """Ask, print the answer, then what the gateway says of its way to it."""
    base_url, picture, question = sys.argv[1:4]
    client = OpenAI(base_url=base_url, api_key="none")
    reply = client.chat.completions.create(
        model="speceyes",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": data_url(picture)}},
                    {"type": "text", "text": question},
                ],
            }
        ],
    )
    print(reply.choices[0].message.content)
    way = (reply.model_extra or {})["speceyes"]
    print(f"{way['route']}, {way['reason']}, by {reply.model}", file=sys.stderr)


if __name__ == "__main__":
    main()
