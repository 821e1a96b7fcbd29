"""Golden transcripts: what goes to each protocol's model, word for word, and how it is read.

A change here changes what models are asked. If it is meant: `python -m tests.golden_transcripts`
writes the files anew, and the difference is part of the commit.
"""

import pytest

from speceyes.protocols import PROTOCOLS
from tests.golden_transcripts import FOLDER, transcript


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_says_word_for_word_what_its_transcript_says(name):
    assert transcript(name) == (FOLDER / f"{name}.txt").read_text(encoding="utf-8"), (
        "if this is meant, renew it: python -m tests.golden_transcripts"
    )


def test_there_is_no_transcript_of_what_is_no_protocol():
    assert {path.stem for path in FOLDER.iterdir()} == set(PROTOCOLS)
