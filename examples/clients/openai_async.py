"""Ask the gateway several questions about a picture at once, with the openai package.

python openai_async.py http://127.0.0.1:8400/v1 scene.png "What shape is it?" "Which colour is it?"
"""

import asyncio
import base64
import mimetypes
import sys
from pathlib import Path

from openai import AsyncOpenAI


async def ask(client: AsyncOpenAI, url: str, question: str) -> str:
    """Give the answer to one question."""
    reply = await client.chat.completions.create(
        model="speceyes",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": url}},
                    {"type": "text", "text": question},
                ],
            }
        ],
    )
    return reply.choices[0].message.content or ""


async def main() -> None:
    """Ask all questions together, print the answers in order."""
    base_url, picture, *questions = sys.argv[1:]
    media_type = mimetypes.guess_type(picture)[0] or "image/png"
    data = base64.b64encode(Path(picture).read_bytes()).decode()  # noqa: ASYNC240 - before any call
    async with AsyncOpenAI(base_url=base_url, api_key="none") as client:
        url = f"data:{media_type};base64,{data}"
        answers = await asyncio.gather(*(ask(client, url, question) for question in questions))
    print("\n".join(answers))


if __name__ == "__main__":
    asyncio.run(main())
