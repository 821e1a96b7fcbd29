"""Turns are added to a conversation here: what the model said, and what it is told of it.

It refuses to know any protocol's words.
"""

from __future__ import annotations

from speceyes.types import (
    Conversation,
    Image,
    Malformed,
    Message,
    Observation,
    Part,
    Role,
    Text,
)


def add_turn(
    conversation: Conversation, said: str, told: tuple[Part, ...], *, role: Role = "user"
) -> Conversation:
    """Add the model's own words, and the answer to them."""
    return (*conversation, Message("assistant", (Text(said),)), Message(role, told))


def add_words(conversation: Conversation, text: str) -> Conversation:
    """Add words to the last user turn; after a tool's turn they are a user turn of their own."""
    *before, last = conversation
    if last.role != "user":
        return (*conversation, Message("user", (Text(text.lstrip()),)))
    return (*before, Message(last.role, (*last.parts, Text(text))))


def tell(
    outcome: Observation | Malformed, *, mark: str = "Error: "
) -> tuple[str, tuple[Image, ...]]:
    """Put into words what came of a reply, an error marked as one; and give the pictures."""
    if isinstance(outcome, Malformed):
        return f"{mark}{outcome.detail}", ()
    words = outcome.text if outcome.error is None else f"{mark}{outcome.error}"
    return words, tuple(map(Image, outcome.pictures))


def count_turns(conversation: Conversation) -> int:
    """Count the model's turns so far."""
    return sum(message.role == "assistant" for message in conversation)


def count_images(conversation: Conversation) -> int:
    """Count the pictures shown so far."""
    return sum(isinstance(part, Image) for message in conversation for part in message.parts)
