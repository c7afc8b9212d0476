"""Every target is scored exactly once, for all lengths and strides."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitgolf.errors import RecipeError
from bitgolf.score.methods import ContiguousScoring, ScoringMethod, SlidingScoring


def check(method: ScoringMethod, targets: int) -> None:
    seen = 0
    for i, window in enumerate(method.windows(targets)):
        assert window.start <= window.first_target < window.stop <= targets
        assert window.first_target == seen, "a target is skipped or scored twice"
        assert window.stop - window.start <= method.window
        if i:
            assert window.first_target - window.start >= min(method.window - method.stride, window.first_target)
        seen = window.stop
    assert seen == targets


@given(st.integers(1, 300), st.integers(1, 40), st.data())
def test_sliding_covers(targets: int, window: int, data: st.DataObject) -> None:
    check(SlidingScoring(window=window, stride=data.draw(st.integers(1, window))), targets)


@given(st.integers(1, 300), st.integers(1, 40))
@example(1, 8)
@example(7, 8)
@example(8, 8)
@example(9, 8)
@example(31, 8)
def test_contiguous_covers_and_is_sliding_with_the_whole_window_as_stride(targets: int, window: int) -> None:
    check(ContiguousScoring(window=window), targets)
    sliding = SlidingScoring(window=window, stride=window)
    assert list(ContiguousScoring(window=window).windows(targets)) == list(sliding.windows(targets))


def test_no_targets_no_windows() -> None:
    assert list(SlidingScoring(window=4, stride=2).windows(0)) == []


@pytest.mark.parametrize(("window", "stride"), [(4, 5), (4, 0), (0, 0)])
def test_strides_that_do_not_fit_are_errors(window: int, stride: int) -> None:
    with pytest.raises(RecipeError):
        SlidingScoring(window=window, stride=stride)
