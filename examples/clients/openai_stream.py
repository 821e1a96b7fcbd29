"""Read the gateway's answer as it comes, and while the agent works, what it does.

python openai_stream.py http://127.0.0.1:8400/v1 scene.png "What shape is the red object?"
"""

import base64
import mimetypes
import sys
from pathlib import Path

from openai import OpenAI


def main() -> None:
    """Print the answer piece by piece; progress and the tokens used go to the standard error."""
    base_url, picture, question = sys.argv[1:4]
    media_type = mimetypes.guess_type(picture)[0] or "image/png"
    data = base64.b64encode(Path(picture).read_bytes()).decode()
    client = OpenAI(base_url=base_url, api_key="none")
    stream = client.chat.completions.create(
        model="speceyes",
        messages=[
            {
                "role": "user",
                "content": [
                    {
                        "type": "image_url",
                        "image_url": {"url": f"data:{media_type};base64,{data}"},
                    },
                    {"type": "text", "text": question},
                ],
            }
        ],
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        for choice in chunk.choices:
            progress = (choice.delta.model_extra or {}).get("reasoning_content")
            if progress:
                print(progress, end="", file=sys.stderr)
            if choice.delta.content:
                print(choice.delta.content, end="", flush=True)
        if chunk.usage is not None:
            print(f"{chunk.usage.total_tokens} tokens", file=sys.stderr)
    print()


if __name__ == "__main__":
    main()
