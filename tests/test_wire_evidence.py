"""Which tokens a server's rows belong to: the end token told or not, counted or not, or hidden."""

import math

import numpy as np
import pytest

from speceyes.engines.wire.ending import Ending
from speceyes.engines.wire.evidence import answer_tokens, evidence_of, read_rows
from tests.stub_server import END, entry

STOPPED = Ending("a red disc", "stop")
TAGGED = Ending("a red</x>", "stop", "</x>")


def told(*tokens, k=4):
    return read_rows([entry(token, k) for token in tokens])


def covered(tokens, ending, counted):
    """Give T of the evidence, or None if its rows are not the answer's."""
    evidence, count = evidence_of(told(*tokens), ending, k=4, completion_tokens=counted)
    rows = len(evidence.logp_topk)
    assert rows in {0, count}
    assert rows == len(evidence.logp_chosen) == len(evidence.candidates)
    return rows or (None if count else 0)


WORDS = ("a", " red", " disc")


@pytest.mark.parametrize(
    ("tokens", "counted", "rows"),
    [
        ((*WORDS, END), 4, 3),  # listed and counted: vLLM
        ((*WORDS, END), None, 3),
        ((*WORDS, END), 3, 3),  # listed, not counted
        ((*WORDS, ""), 4, 3),  # listed without its name
        (WORDS, 4, 3),  # counted, not listed
        (WORDS, 3, 3),  # neither
        (WORDS, None, 3),
        (("a", "<|x|>", " red", " disc", END), 5, 4),  # a special token, which shows no text
        (("a", "<|x|>", " red", " disc"), 5, 4),
        (("a", "<|x|>", " red", " disc", END), None, None),  # ... is not believed uncounted
        (("a", "<|x|>", " red", " disc", END), 4, None),
        (WORDS, 5, None),  # two tokens without evidence
        ((*WORDS, END), 2, None),
        (WORDS[:2], 3, None),
        (("a", " red", " discs"), 3, None),
        (WORDS[1:], 3, None),
        (("a", " red", " ring", END), 4, None),
        ((*WORDS, END, END), 4, None),
        (("token_id:7", "token_id:8"), 2, None),
    ],
)
def test_rows_are_the_answers_or_they_are_nothing(tokens, counted, rows):
    assert covered(tokens, STOPPED, counted) == rows


@pytest.mark.parametrize(
    ("tokens", "counted", "rows"),
    [
        (("a", " red", "</", "x>"), 4, 4),
        (("a", " red", "</x> and"), 3, 3),  # the last token goes on after the stop string
        (("a", " red", "</x>", " more", END), 5, 3),  # the server went on, and we cut
        (("a", " red"), 2, None),  # its tokens are not told: not covered
        (("a", " red", "</"), 3, None),
    ],
)
def test_a_stop_strings_tokens_are_the_answers_too(tokens, counted, rows):
    assert covered(tokens, TAGGED, counted) == rows


def test_an_end_at_once_is_an_answer_of_no_token():
    assert covered((END,), Ending("", "stop"), 1) == 0


def test_a_cut_off_answer_has_no_end_token_to_leave_out():
    assert covered(("a", ""), Ending("a", "length"), 2) == 2


def test_rows_that_are_nothing_leave_a_length_that_cannot_match():
    evidence, count = evidence_of(told("x", END), Ending("a", "stop"), k=4, completion_tokens=2)
    assert (evidence.logp_topk.shape, count) == ((0, 4), 1)


@pytest.mark.parametrize(
    ("ending", "counted", "count"),
    [
        (STOPPED, 4, 3),
        (TAGGED, 4, 4),
        (Ending("a", "length"), 4, 4),
        (Ending("a", "stop"), 1, 1),
        (Ending("a", "stop"), None, 1),
        (Ending("", "stop"), 1, 0),
    ],
)
def test_without_rows_the_servers_count_is_taken(ending, counted, count):
    assert answer_tokens(ending, counted) == count


def test_the_width_is_the_narrowest_rows_and_at_most_what_was_asked_for():
    rows = read_rows([entry("a", 6), entry("b", 5)])
    ending = Ending("ab", "length")
    assert evidence_of(rows, ending, k=9, completion_tokens=2)[0].logp_topk.shape == (2, 5)
    assert evidence_of(rows, ending, k=3, completion_tokens=2)[0].logp_topk.shape == (2, 3)


def test_the_sampled_token_may_stand_anywhere_and_nan_goes_last():
    (row,) = read_rows([entry("a", 5, sampled_first=False)])
    assert row.ranked[0] == (-0.05, "a")
    top = [{"token": "x", "logprob": math.nan}, {"token": "y", "logprob": -1}, {"token": "z"}]
    (row,) = read_rows([{"token": "y", "logprob": -1, "top_logprobs": top}])
    assert [text for _, text in row.ranked] == ["y", "x", "z"]
    assert np.isnan([logp for logp, _ in row.ranked[1:]]).all()
