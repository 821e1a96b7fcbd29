"""Ask the gateway by way of LangChain.

python langchain_client.py http://127.0.0.1:8400/v1 scene.png "What shape is the red object?"
"""

import base64
import mimetypes
import sys
from pathlib import Path

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI


def main() -> None:
    """Ask, print the answer."""
    base_url, picture, question = sys.argv[1:4]
    media_type = mimetypes.guess_type(picture)[0] or "image/png"
    data = base64.b64encode(Path(picture).read_bytes()).decode()
    model = ChatOpenAI(model="speceyes", base_url=base_url, api_key="none")
    content = [
        {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}},
        {"type": "text", "text": question},
    ]
    print(model.invoke([HumanMessage(content=content)]).content)


if __name__ == "__main__":
    main()
