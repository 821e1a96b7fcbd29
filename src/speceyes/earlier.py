"""What was said before a question goes before it here, whatever is asked of which model.

It refuses to know protocols, engines and where the earlier turns come from.
"""

from __future__ import annotations

from speceyes.types import Conversation, Message, Part, Text


def splice(earlier: Conversation, conversation: Conversation) -> Conversation:
    r"""Put earlier turns into a conversation: after its system text, before all else.

    The caller's own system text, if `earlier` begins with one, is joined to the conversation's.
    Invariants: no earlier turns, no change; all that is said keeps its order.

    >>> def said(role, text):
    ...     return Message(role, (Text(text),))
    >>> spliced = splice(
    ...     (said("system", "Be brief."), said("user", "Hello."), said("assistant", "Hello!")),
    ...     (said("system", "You may zoom."), said("user", "Which shape?")),
    ... )
    >>> for message in spliced:
    ...     print(message.role, [part.text for part in message.parts])
    system ['You may zoom.', '\n\n', 'Be brief.']
    user ['Hello.']
    assistant ['Hello!']
    user ['Which shape?']
    """
    if not earlier:
        return conversation
    own, rest = _parted(conversation)
    callers, turns = _parted(earlier)
    between = (Text("\n\n"),) if own and callers else ()
    parts = (*_parts(own), *between, *_parts(callers))
    system = (Message("system", parts),) if parts else ()
    return (*system, *turns, *rest)


def _parts(messages: Conversation) -> tuple[Part, ...]:
    return tuple(part for message in messages for part in message.parts)


def _parted(conversation: Conversation) -> tuple[Conversation, Conversation]:
    begins = bool(conversation) and conversation[0].role == "system"
    return conversation[:begins], conversation[begins:]
