"""What is seen during a search."""

import io
import re

import pytest
import rich.console
from tuning_commands import event

from transfuse.tune.view import time_left, view


def shown(progress):
    console = rich.console.Console(width=100, file=io.StringIO())
    console.print(view(progress))
    return console.file.getvalue()


def test_live_view():
    text = shown(event())
    assert "race  matmul_t 64³, float32: searching, iteration 3" in text
    assert "best  500 µs with block_m 64, threads 2, 2.00 times as fast as the default" in text
    assert "alive 4 of 9 candidates\n" in re.sub(" +\n", "\n", text)
    assert "used  2 s, 50 measurements; 8 s left at most" in text
    assert "━" in text


def test_live_view_before_the_first_measurement():
    nan = float("nan")
    text = shown(event(phase="checking", best_seconds=nan, default_seconds=nan, measurements=0, failed=2, budget=None))
    assert "checking outputs" in text
    assert "best  – with block_m 64, threads 2" in text
    assert "as fast" not in text
    assert "4 of 9 candidates, 2 failed" in text
    assert "until it is decided" in text
    assert "━" not in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "8 s left at most"),
        ({"budget": None}, "until it is decided"),
        ({"budget": None, "max_measurements": 200}, "6 s left at most"),
        ({"budget": 3.0, "max_measurements": 200}, "1 s left at most"),
        ({"budget": 1.0}, "0 s left at most"),
        ({"budget": None, "max_measurements": 200, "measurements": 0}, "until it is decided"),
    ],
)
def test_time_left(changes, expected):
    assert time_left(event(**changes)) == expected
