"""Frames a second, kept by the pictures' own time."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingestor.pace import Pacer


@pytest.mark.parametrize(
    ("source_fps", "fps"),
    [(10, 5), (25, 10), (30, 20), (25, 15), (15, 10), (29.97, 5), (60, 1), (10, 10), (12.5, 12)],
)
def test_no_tick_is_skipped_where_the_source_has_a_picture_for_it(source_fps, fps):
    pacer = Pacer(fps)
    admitted = [
        n / source_fps for n in range(round(60 * source_fps)) if pacer.admits(n / source_fps)
    ]
    assert len(admitted) == pytest.approx(60 * fps, rel=0.01, abs=1)
    longest = max(later - earlier for earlier, later in pairwise(admitted))
    assert longest < 1 / fps + 1 / source_fps


@settings(max_examples=25, deadline=None)
@given(st.floats(1, 60), st.floats(1, 30), st.randoms(use_true_random=False))
def test_the_rate_is_held_within_a_tenth_whatever_the_source_and_its_jitter(
    source_fps, fps, chance
):
    jitter_s = 0.1 / source_fps
    pacer = Pacer(fps)
    times = [n / source_fps + chance.uniform(0, jitter_s) for n in range(round(20 * source_fps))]
    admitted = sum(pacer.admits(at) for at in times)
    assert admitted <= 20 * fps * 1.1 + 1
    assert admitted >= 20 * min(fps, source_fps) * 0.9 - 1


def test_a_source_slower_than_the_limit_loses_nothing_to_its_jitter():
    chance = random.Random(1)
    pacer = Pacer(10)
    times = [n / 10 + chance.uniform(-0.03, 0.03) for n in range(600)]
    assert sum(pacer.admits(at) for at in times) == 600


def test_a_new_rate_counts_from_the_next_picture():
    pacer = Pacer(1)
    assert [pacer.admits(n / 10) for n in range(10)].count(True) == 1
    pacer.retune(5)
    assert [pacer.admits(1 + n / 10) for n in range(10)].count(True) == 5


def test_the_same_rate_again_changes_nothing():
    pacer = Pacer(1)
    assert pacer.admits(0)
    pacer.retune(1)
    assert not pacer.admits(0.1)
