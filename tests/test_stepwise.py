"""A job of somebody else's making, round by round."""

from __future__ import annotations

import threading

import pytest

from speceyes.engines.stepwise import Stepwise


def counting(rounds: list[int], upto: int):
    def job(halt):
        for number in range(upto):
            rounds.append(number)
            halt()

    return job


def test_a_job_runs_only_when_told_to():
    rounds: list[int] = []
    job = Stepwise(counting(rounds, 3), name="job")
    assert rounds == []
    assert [job.advance() for _ in range(4)] == [True, True, True, False]
    assert rounds == [0, 1, 2]
    assert job.advance() is False


def test_a_job_can_be_left_where_it_stands():
    rounds, ends = [], []

    def job(halt):
        try:
            counting(rounds, 100)(halt)
        except Exception:  # noqa: BLE001 - being left is no failure that a loop could catch
            ends.append("caught")
        finally:
            ends.append("left")

    stepwise = Stepwise(job, name="speceyes-left")
    stepwise.advance()
    stepwise.end()
    stepwise.end()
    assert (rounds, ends) == ([0], ["left"])
    assert stepwise.advance() is False
    assert "speceyes-left" not in {thread.name for thread in threading.enumerate()}


def test_a_job_never_begun_can_be_left():
    stepwise = Stepwise(counting([], 1), name="job")
    stepwise.end()
    assert stepwise.advance() is False


@pytest.mark.parametrize("rounds", [0, 2])
def test_what_a_job_raises_is_raised_where_it_was_told_to_go_on(rounds):
    def job(halt):
        for _ in range(rounds):
            halt()
        raise ValueError("broken")

    stepwise = Stepwise(job, name="job")
    for _ in range(rounds):
        assert stepwise.advance()
    with pytest.raises(ValueError, match="broken"):
        stepwise.advance()
    assert stepwise.advance() is False
    stepwise.end()
