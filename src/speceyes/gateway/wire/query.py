"""Turns become a query here: the last question, its pictures, and what was said before.

It refuses to know how pictures are fetched and read: which ones are wanted is said first, and they
come in by the field that they stand in.
"""

from __future__ import annotations

from collections.abc import Mapping

from speceyes.gateway.wire.turns import ImagePart, Turn
from speceyes.types import Conversation, Image, Message, Part, Picture, Query, Text


def question_of(turns: tuple[Turn, ...]) -> str:
    """Give the last turn's words, its parts each on lines of their own."""
    return "\n".join(part for part in turns[-1].parts if isinstance(part, str))


def images_of(turns: tuple[Turn, ...]) -> tuple[ImagePart, ...]:
    """Give all pictures of a conversation, in order."""
    return tuple(image for turn in turns for image in turn.images)


def query_of(turns: tuple[Turn, ...], pictures: Mapping[str, Picture], *, query_id: str) -> Query:
    """Make a query of turns that are inside the method.

    Its pictures are those of the last user turn that has some. Where that is an earlier turn, they
    move to the question, and the turn keeps its words.
    Raises: QueryError.
    """
    place = max(at for at, turn in enumerate(turns) if turn.role == "user" and turn.images)
    before = turns[:-1]
    if place < len(before):
        seen = before[place]
        words = tuple(part for part in seen.parts if isinstance(part, str))
        told = (Turn(seen.role, words),) if words else ()
        before = (*before[:place], *told, *before[place + 1 :])
    return Query(
        question_of(turns),
        tuple(pictures[image.field] for image in turns[place].images),
        query_id=query_id,
        earlier=_conversation(before, pictures),
    )


def _conversation(turns: tuple[Turn, ...], pictures: Mapping[str, Picture]) -> Conversation:
    heads = [turn for turn in turns if turn.role == "system"]  # all at the head: see `turns`
    texts = [part for turn in heads for part in turn.parts if isinstance(part, str)]
    system = (Message("system", (Text("\n\n".join(texts)),)),) if any(texts) else ()
    others = (turn for turn in turns if turn.role != "system")
    return (
        *system,
        *(
            Message(turn.role, tuple(_part(part, pictures) for part in turn.parts))
            for turn in others
        ),
    )


def _part(part: str | ImagePart, pictures: Mapping[str, Picture]) -> Part:
    return Text(part) if isinstance(part, str) else Image(pictures[part.field])
