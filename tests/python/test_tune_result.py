"""Results of searches and comparisons: tables, JSON and pictures."""

import dataclasses
import io
import json
import math
import sys

import numpy as np
import pytest
import rich.console
from processes import run_python
from tuning_results import SPACE, history_of, result_of, row_of, seconds_of

from transfuse import _terminal
from transfuse.bench.statistics import Estimate
from transfuse.tune import Candidate, TuningResult, report

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from transfuse.tune import plots


def stays(**changes):
    """A result in which the default is the best."""
    default = result_of().default
    return result_of(best=default, speedup=Estimate(1.0, 1.0, 1.0), probability=math.nan, **changes)


def printed(renderable, width=100, *, terminal=False):
    stream = io.StringIO()
    console = rich.console.Console(file=stream, width=width, force_terminal=terminal, highlight=False, markup=False)
    console.print(renderable)
    return stream.getvalue()


def test_break_even_is_the_time_of_the_search_over_what_a_call_gains():
    result = result_of(speedup=Estimate(2.0, 1.9, 2.1))
    gain = seconds_of(result.default) / 2
    assert result.break_even == pytest.approx(result.seconds / gain)
    assert math.isinf(stays().break_even)


def test_summary_of_a_winner():
    rows = dict(report.summary_rows(result_of()))
    assert rows["best"] == "block_q 64, block_kv 64, threads 2"
    assert rows["time"] == "1.01 ms"
    assert rows["default"] == "block_q 64, block_kv 256, threads 1: 2.08 ms"
    assert rows["speed-up"] == "2.06 [2, 2.1], above 1 with probability 99.9%"
    assert rows["confirmed"] == "yes"
    assert rows["ties"] == "1 as good: block_q 64, block_kv 128, threads 2"
    assert rows["measured"] == "22 of 24 configurations, 93 measurements in 6 iterations, 500 ms"
    assert rows["pays off"] == "after 468 calls"


def test_summary_where_the_default_stays():
    rows = dict(report.summary_rows(stays(validated=False, stopped="interrupted", ties=[])))
    assert rows["best"].endswith("threads 1 (the default)")
    assert rows["leader"] == "block_q 64, block_kv 64, threads 2: not shown to be better than the default"
    assert rows["confirmed"].startswith("no")
    assert rows["stopped"] == "interrupted"
    assert rows["ties"] == "none"
    assert not {"speed-up", "default", "pays off"} & set(rows)


def test_many_ties_are_counted():
    ties = [{"block_q": size} for size in range(10)]
    assert dict(report.summary_rows(result_of(ties=ties)))["ties"].endswith("block_q 2, and 7 more")


def test_table():
    text = printed(result_of().table())
    lines = [line.split() for line in text.splitlines()]
    assert ["64", "64", "2", "1.01", "ms", "2.059", "3.0%", "5", "best"] in lines
    assert ["64", "128", "2", "1.02", "ms", "2.039", "3.0%", "5", "tie"] in lines
    assert ["64", "256", "1", "2.08", "ms", "1.000", "3.0%", "5", "default"] in lines
    assert "and 4 more" in text
    assert "\x1b" not in text


def test_table_has_the_fastest_first_and_always_the_default():
    rows = result_of().table(limit=2).row_count, printed(result_of().table(limit=2))
    assert rows[0] == 3
    assert rows[1].index("best") < rows[1].index("tie") < rows[1].index("default")
    with pytest.raises(ValueError, match="limit: expected at least 1, got 0"):
        result_of().table(limit=0)


def test_table_fits_a_narrow_terminal():
    text = printed(result_of().table(limit=3), width=80)
    assert "default" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("width", [40, 60, 80])
def test_nothing_of_a_table_is_cut_off(width, monkeypatch, capsys):
    monkeypatch.setattr(_terminal, "PIPE_WIDTH", width)
    monkeypatch.setenv("COLUMNS", str(width))
    screen = _terminal.Screen()
    wide = printed(result_of().table(), width=400).split()
    screen.table(result_of().table())
    assert capsys.readouterr().out.split() == wide
    screen.table(report.comparison(ROWS))
    narrow = capsys.readouterr().out
    for row in ROWS:
        for cell in (row.landscape, row.strategy, f"{row.regret_95:.2%}"):
            assert f" {cell} " in narrow
    assert screen.console.width == width


def test_failed_candidates_say_why():
    text = result_of().markdown(limit=24)
    (line, _) = [line for line in text.splitlines() if "failed" in line]
    assert line == "| 64 | 512 | 1 | – | – | – | 0 | failed: MemoryError: too large |"


def test_markdown():
    lines = result_of().markdown(limit=1).splitlines()
    assert lines[0] == "| block_q | block_kv | threads | time | speed-up | variation | measured | remark |"
    assert lines[1] == "|" + " --- |" * 8
    assert lines[2] == "| 64 | 64 | 2 | 1.01 ms | 2.059 | 3.0% | 5 | best |"
    assert len(lines) == 4


def test_a_default_without_a_time_has_no_speed_up():
    result = result_of(default={"block_q": 1, "block_kv": 1, "threads": 1})
    assert math.isnan(result.default_seconds)
    assert result.markdown(1).splitlines()[2] == "| 64 | 64 | 2 | 1.01 ms | – | 3.0% | 5 | best |"


def test_json_round_trip(tmp_path):
    result = result_of()
    text = result.to_json(tmp_path / "result.json")
    assert (tmp_path / "result.json").read_text() == text + "\n"
    for source in (text, tmp_path / "result.json", str(tmp_path / "result.json")):
        again = TuningResult.from_json(source)
        assert again.to_json() == text
        assert again.candidates == result.candidates
        assert again.observations == result.observations
        assert again.speedup == result.speedup
        assert again.history[1:] == result.history[1:]
        assert math.isnan(again.history[0].seconds)
    content = json.loads(text)
    assert content["break_even"] == pytest.approx(result.break_even)
    assert content["history"][0]["seconds"] is None


def test_json_has_no_infinities():
    text = stays().to_json()
    assert json.loads(text, parse_constant=pytest.fail)["break_even"] is None
    assert math.isnan(TuningResult.from_json(text).probability)
    unbounded = dataclasses.replace(result_of(), speedup=Estimate(1.5, 0.0, math.inf))
    text = unbounded.to_json()
    json.loads(text, parse_constant=pytest.fail)
    assert TuningResult.from_json(text).speedup == unbounded.speedup


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not the JSON of a search: "),
        ('{"schema": 0}', "schema 0, expected 1"),
        ('{"target": 1}', "'schema' is missing"),
        ('{"schema": 1}', "'target' is missing"),
        (result_of().to_json().replace('"reason"', '"cause"'), "cause"),
    ],
)
def test_json_of_something_else(text, message):
    with pytest.raises(ValueError, match="not the JSON of a search") as error:
        TuningResult.from_json(text)
    assert message in str(error.value)


def test_plot_measures():
    axes = result_of().plot_measures()
    heights = {container.get_label(): [bar.get_height() for bar in container.patches] for container in axes.containers}
    assert heights == {"measurements (search)": [24, 22, 20, 10, 6], "measurements (validation)": [5]}
    (alive,) = axes.get_lines()
    assert alive.get_label() == "candidates alive"
    assert alive.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert axes.get_xlabel() == "iteration"
    assert "93 measurements" in axes.get_title()


def test_plot_convergence():
    axes = result_of().plot_convergence()
    leader, changes, default = axes.get_lines()
    assert leader.get_xdata().tolist() == [46, 66, 76, 82, 87]  # the first iteration had no median yet
    np.testing.assert_allclose(leader.get_ydata(), [1.8, 1.6, 1.4, 1.2, 1.0])
    assert changes.get_xdata().tolist() == [46, 66]
    assert list(default.get_ydata()) == pytest.approx([2.08, 2.08])
    assert axes.get_ylabel() == "time of a call (ms)"
    assert axes.get_xlabel() == "measurements"


def heatmap_of(axes):
    """Numbers of the cells, NaN where nothing was measured; texts; frames."""
    (image,) = axes.images
    texts = {tuple(map(round, text.get_position())): text.get_text() for text in axes.texts}
    frames = {
        patch.get_linestyle(): (round(patch.get_x() + 0.46), round(patch.get_y() + 0.46)) for patch in axes.patches
    }
    return np.ma.filled(image.get_array(), np.nan), texts, frames


def test_plot_heatmap():
    axes = result_of().plot_heatmap("block_kv", "block_q")
    cells, texts, frames = heatmap_of(axes)
    for row, block_q in enumerate(SPACE["block_q"]):
        for column, block_kv in enumerate(SPACE["block_kv"]):
            fails = (block_q, block_kv) == (64, 512)
            fastest = seconds_of({"block_q": block_q, "block_kv": block_kv, "threads": 2}) * 1e3
            assert cells[row, column] == pytest.approx(np.nan if fails else fastest, nan_ok=True)
            assert texts.get((column, row)) == (None if fails else f"{fastest:.3g}")
    assert frames == {"-": (0, 0), "--": (2, 0)}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["64", "128", "256", "512"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("block_kv", "block_q")
    assert "least over threads" in axes.get_title()
    bar = axes.figure.axes[1]
    assert bar.get_ylabel() == "time of a call (ms)"
    assert axes.images[0].cmap.get_bad()[:3] == pytest.approx([0.8, 0.8, 0.8])


def test_heatmap_chooses_the_parameters_with_most_values():
    axes = result_of().plot_heatmap()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("block_kv", "block_q")
    axes = result_of().plot_heatmap(x="threads")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("threads", "block_kv")


def test_heatmap_of_one_parameter():
    result = result_of(space={"block_kv": SPACE["block_kv"]})
    cells, _, frames = heatmap_of(result.plot_heatmap())
    np.testing.assert_allclose(cells, [[1.01, 1.02, 1.04, 2.16]])
    assert frames == {"-": (0, 0), "--": (2, 0)}


def test_heatmap_of_very_different_times():
    times = [2.5e-6, 40e-6, 3.6e-3, 1.0e-3]
    configurations = [{"block": i} for i in range(4)]
    candidates = [Candidate(one, time, 1, 0.0, "measured") for one, time in zip(configurations, times, strict=True)]
    result = result_of(space={"block": [0, 1, 2, 3]}, candidates=candidates, default={"block": 3}, best={"block": 0})
    axes = result.plot_heatmap()
    assert list(heatmap_of(axes)[1].values()) == ["2.5", "40", "3600", "1000"]
    axes.figure.savefig(io.BytesIO())
    assert {"10", "100", "1000"} <= {text.get_text() for text in axes.figure.axes[1].get_yticklabels()}


def test_heatmap_where_nothing_was_measured():
    cells, texts, _ = heatmap_of(result_of(candidates=[]).plot_heatmap())
    assert np.isnan(cells).all()
    assert texts == {}


def test_heatmap_of_a_default_outside_the_space():
    _, _, frames = heatmap_of(result_of(default={"block_q": 1, "block_kv": 1, "threads": 1}).plot_heatmap())
    assert set(frames) == {"-"}


def test_heatmap_of_many_candidates_stays_readable():
    values = list(range(60))
    candidates = [Candidate({"a": a, "b": b}, 1e-6 * (1 + a + b), 1, 0.0, "measured") for a in values for b in values]
    first = candidates[0].configuration
    result = result_of(space={"a": values, "b": values}, candidates=candidates, best=first, default=first)
    axes = result.plot_heatmap()
    assert len(axes.get_xticks()) <= 24
    assert not axes.texts
    assert axes.figure.axes[1].get_ylabel() == "time of a call (µs)"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("block", None), "x: expected one of block_q, block_kv, threads, got 'block'"),
        ((None, "block"), "y: expected one of"),
        (("threads", "threads"), "y: expected another parameter than x, got 'threads'"),
    ],
)
def test_heatmap_of_unknown_parameters(names, message):
    with pytest.raises(ValueError, match=message):
        result_of().plot_heatmap(*names)


@pytest.mark.parametrize("name", ["plot_measures", "plot_heatmap", "plot_convergence"])
def test_pictures_go_where_they_are_told(name):
    axes = Figure().add_subplot()
    assert getattr(result_of(), name)(axes=axes) is axes
    assert axes.get_title()


@pytest.mark.parametrize("name", ["plot_measures", "plot_heatmap", "plot_convergence"])
def test_a_search_without_measurements_has_pictures_too(name):
    axes = getattr(result_of(history=[], candidates=[]), name)()
    axes.figure.savefig(io.BytesIO())


def test_many_iterations():
    axes = result_of(history=history_of([3] * 1000, changes=500)).plot_measures()
    assert sum(len(container.patches) for container in axes.containers) == 1000


def test_overview_has_all_three():
    figure = plots.overview(result_of())
    assert {axes.get_xlabel() for axes in figure.axes} >= {"iteration", "measurements", "block_kv"}


@pytest.mark.parametrize("name", ["plot_measures", "plot_heatmap", "plot_convergence"])
def test_without_matplotlib(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"drawing needs matplotlib \(pip install transfuse\[tune\]\)"):
        getattr(result_of(), name)()


def test_no_backend_is_chosen():
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from tuning_results import result_of
        assert "matplotlib" not in sys.modules
        result_of().plot_measures(), result_of().plot_heatmap(), result_of().plot_convergence()
        import matplotlib
        print("matplotlib.pyplot" in sys.modules, dict.__getitem__(matplotlib.rcParams, "backend"))
    """
    done = run_python(program, __file__.rpartition("/")[0], environment={"MPLBACKEND": None})
    assert done.stdout.startswith("False <object")


ROWS = [
    row_of("grid", "here", [320, 320, 320], [0.0, 0.0, 0.03]),
    row_of("race", "here", [60, 80, 70], [0.0, 0.004, 0.015]),
    row_of("race", "there", [50, 40, 30], [0.2, 0.0, 0.0]),
]


def test_comparison_table():
    lines = report.comparison_markdown(ROWS).splitlines()
    assert lines[3] == "| here | 32 | race | 70 | 32 | 0.63% | 0.40% | 1.50% | 67% | 100% | 90% | 25% | 100% |"
    assert len(lines) == 5
    text = printed(report.comparison(ROWS), width=160)
    assert "3 runs each" in text
    assert text.count("here ") == 2  # a landscape is named once, and "there" ends so too
    assert "\x1b" not in text


def test_comparison_picture():
    figure = plots.comparison(ROWS)
    here, there = figure.axes
    assert (here.get_title(), there.get_title()) == ("here, 32 configurations", "there, 32 configurations")
    clouds = {
        "runs": [c.get_offsets().tolist() for c in here.collections if not c.get_label() or c.get_label()[0] == "_"],
        "medians": {c.get_label(): c.get_offsets().tolist() for c in here.collections if c.get_label()[0] != "_"},
    }
    assert clouds["runs"][1] == [[60, plots.LEAST_REGRET], [80, 0.004], [70, 0.015]]
    assert clouds["medians"] == {"grid": [[320, plots.LEAST_REGRET]], "race": [[70, 0.004]]}
    assert here.get_xlabel() == "measurements"
    assert here.get_ylabel() == "slower than the true best"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["grid", "race"]
    figure.savefig(io.BytesIO())
    assert {"≤ 0.01%", "0.10%", "1%", "10%"} <= {text.get_text() for text in here.get_yticklabels()}
    assert {"50", "100", "200"} <= {text.get_text() for text in here.get_xticklabels()}


def test_comparison_picture_of_nothing():
    with pytest.raises(ValueError, match="rows: expected at least one, got none"):
        plots.comparison([])
