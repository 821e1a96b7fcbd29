"""Ask the gateway by way of pydantic-ai.

python pydantic_ai_client.py http://127.0.0.1:8400/v1 scene.png "What shape is the red object?"
"""

import mimetypes
import sys
from pathlib import Path

from pydantic_ai import Agent, BinaryContent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


def main() -> None:
    """Ask, print the answer."""
    base_url, picture, question = sys.argv[1:4]
    provider = OpenAIProvider(base_url=base_url, api_key="none")
    agent = Agent(OpenAIChatModel("speceyes", provider=provider))
    media_type = mimetypes.guess_type(picture)[0] or "image/png"
    shown = BinaryContent(data=Path(picture).read_bytes(), media_type=media_type)
    print(agent.run_sync([shown, question]).output)


if __name__ == "__main__":
    main()
