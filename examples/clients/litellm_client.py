"""Ask the gateway by way of LiteLLM, where it is one more server that speaks OpenAI's language.

python litellm_client.py http://127.0.0.1:8400/v1 scene.png "What shape is the red object?"
"""

import base64
import mimetypes
import sys
from pathlib import Path

import litellm


def main() -> None:
    """Ask, print the answer."""
    base_url, picture, question = sys.argv[1:4]
    media_type = mimetypes.guess_type(picture)[0] or "image/png"
    data = base64.b64encode(Path(picture).read_bytes()).decode()
    reply = litellm.completion(
        model="openai/speceyes",
        api_base=base_url,
        api_key="none",
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
    )
    print(reply.choices[0].message.content)


if __name__ == "__main__":
    main()
