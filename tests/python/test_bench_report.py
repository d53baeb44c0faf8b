"""What follows from samples: ratios, verdicts, tables, files."""

import io
import json

import numpy as np
import pytest
import rich.console

from transfuse.bench import Entry, Line, Report, plot
from transfuse.bench.measure import is_close
from transfuse.bench.table import HEADINGS, duration, markdown, remarks, row, table


def line_of(ours, peers, *, rounds=10, size=64, **changes):
    """A line in which every round took the same: seconds of transfuse, and of each peer by name."""
    entries = [Entry("transfuse", "matmul_t(a, b, out=out)", True, [ours] * rounds)]
    entries += [Entry(name, f"{name}(a, b)", True, [seconds] * rounds) for name, seconds in peers.items()]
    fields = {
        "label": f"{size}³",
        "name": "",
        "sizes": (size, size, size),
        "dtype": "float32",
        "threads": 1,
        "flops": 2.0 * size**3,
        "bytes": 12.0 * size**2,
        "entries": entries,
        "clean": [True] * rounds,
        "groups": [0] * rounds,
        "peak_flops": [1e11] * rounds,
        "peak_bytes": [1e11] * rounds,
        "tolerance": 1e-5,
    }
    return Line(**(fields | changes))


def report_of(*lines, **fields):
    """A report of lines."""
    return Report("matmul-t", "(A·B)ᵀ", {"cpus": 2}, lines=list(lines), sizes="M×K×N", **fields)


def test_ratio_against_the_fastest():
    line = line_of(1e-5, {"numpy": 3e-5, "torch": 2e-5})
    assert line.fastest_peer("out").library == "torch"
    assert line.ratio("out").value == pytest.approx(2)
    assert line.verdict == "2.00 times as fast"
    assert line.ratio("allocated") is None


def test_the_times_shown_are_those_of_the_ratio():
    line = line_of(1e-5, {"numpy": 2e-5}, rounds=9)
    line.groups = [0] * 6 + [1] * 3
    line.entries[1].samples[6:] = [4e-5] * 3
    ours, peer = line.ours("out"), line.fastest_peer("out")
    assert line.seconds_of(peer) == pytest.approx(3e-5)
    assert line.ratio("out").value == pytest.approx(line.seconds_of(peer) / line.seconds_of(ours))


def test_losses_are_told_like_wins():
    assert line_of(4e-5, {"numpy": 2e-5}).verdict == "slower: 2.00 times the time"
    assert line_of(2e-5, {"numpy": 2e-5}).verdict == "even"


def test_rounds_in_which_a_core_was_held_do_not_count():
    line = line_of(1e-5, {"numpy": 2e-5}, rounds=9)
    for entry in line.entries:
        entry.samples[:4] = [9.0] * 4
    line.entries[1].samples[0] = 1e-9
    line.clean[:4] = [False] * 4
    assert line.dropped == 4
    assert line.ratio("out").value == pytest.approx(2)
    assert line.seconds_of(line.entries[0]) == pytest.approx(1e-5)


def test_too_few_rounds_leave_it_undecided():
    line = line_of(1e-5, {"numpy": 2e-5}, rounds=9)
    line.clean[:5] = [False] * 5
    assert line.verdict == "undecided: the machine was busy"
    assert line.ratio("out").value == pytest.approx(2), "all rounds are shown, without a verdict"
    assert row(line).style == ""


def test_few_rounds_decide_nothing():
    line = line_of(1e-5, {"numpy": 2e-5}, rounds=4)
    assert line.verdict == "undecided: too few rounds"
    line.clean[0] = False
    assert line.verdict == "undecided: too few rounds", "of quiet ones there could not have been enough"
    assert line_of(1e-5, {"numpy": 2e-5}, rounds=5).decided


def test_close_ratios_have_more_digits():
    assert line_of(1.0, {"numpy": 1.004}).verdict == "1.004 times as fast"
    assert line_of(1.004, {"numpy": 1.0}).verdict == "slower: 1.004 times the time"


def test_the_other_column_counts_where_no_peer_takes_out():
    line = line_of(1e-5, {"jax": 3e-5})
    line.entries[1].writes_out = False
    line.entries.append(Entry("transfuse", "matmul_t(a, b)", False, [1.5e-5] * 10))
    assert line.headline == "allocated"
    assert line.ratio("out") is None
    assert line.verdict == "2.00 times as fast (result allocated)"
    assert row(line).ours == "15 µs"
    assert report_of(line).geometric_mean() == pytest.approx(2)


def test_our_fastest_form_counts_and_is_named():
    line = line_of(2e-5, {"numpy": 3e-5})
    assert row(line).our_form == ""
    line.entries.append(Entry("transfuse", "attention(q, cache=cache)", True, [1e-5] * 10))
    assert line.ours("out") is line.entries[-1]
    assert line.ratio("out").value == pytest.approx(3)
    assert row(line).our_form == "attention(q, cache=cache)"
    assert "| 10 µs `attention(q, cache=cache)` | NumPy 30 µs `numpy(a, b)` |" in markdown(report_of(line))


def test_an_estimate_decides_nothing():
    line = line_of(1e-5, {"numpy": 2e-5, "torch": 1e-5})
    line.entries[2].samples.clear()
    line.entries[2].estimate = 1e-9
    line.entries[2].fail("no time for more than an estimate", "left")
    assert line.fastest_peer("out").library == "numpy"
    assert line.ratio("out").value == pytest.approx(2)
    assert line.seconds_of(line.entries[2]) == 1e-9
    assert line.interval_of(line.entries[2]) is None


def test_forms_that_left_cannot_be_the_fastest_of_later_rounds():
    line = line_of(1e-5, {"numpy": 2e-5, "torch": 8e-5})
    line.entries[2].samples[3:] = [None] * 7
    line.entries[2].fail("too slow", "left")
    assert line.ratio("out").value == pytest.approx(2)
    assert line.seconds_of(line.entries[2]) == pytest.approx(8e-5)


def test_wrong_and_failed_forms_do_not_count():
    line = line_of(1e-5, {"numpy": 2e-5, "torch": 1e-9})
    line.entries[2].fail("off by 1", "wrong")
    assert line.fastest_peer("out").library == "numpy"
    line.entries[1].fail("died")
    assert line.verdict == "no peer to compare with"
    line.entries[0].fail("died")
    assert line.verdict == "transfuse failed: died"
    assert row(line).style == ""


def test_shares_of_the_limits():
    line = line_of(1e-5, {"numpy": 2e-5})
    ours = line.ours("out")
    assert line.share_of_peak(ours) == pytest.approx(2 * 64**3 / 1e-5 / 1e11)
    assert line.share_of_bandwidth(ours) == pytest.approx(12 * 64**2 / 1e-5 / 1e11)
    assert row(line).share == "52% FMA"
    thin = line_of(1e-6, {"numpy": 2e-6}, flops=1e3, bytes=9e4)
    assert row(thin).speed == "90 GB/s"
    assert row(thin).share == "90% memory"
    tiny = line_of(1e-6, {"numpy": 2e-6}, peak_bytes=[0.0] * 10)
    assert tiny.share_of_bandwidth(tiny.ours("out")) is None


def test_the_ceiling_that_a_softmax_leaves():
    flops = 4.0 * 64 * 1e6
    # Products: 2.56 ms at the peak; the softmax of a million scores: 0.64 ms.
    fields = {"flops": flops, "scores": 1e6, "peak_flops": [1e11] * 9, "peak_scores": [1e6 / 0.64e-3] * 9}
    line = line_of(4e-3, {"torch": 8e-3}, rounds=9, **fields)
    assert line.ceiling == pytest.approx(0.8)
    assert row(line).share == "64% FMA (of 80%)"
    line.peak_scores[0] = 1.0
    assert line.ceiling == pytest.approx(0.8), "the median"
    line.clean[1:4] = [False] * 3
    line.peak_scores[1:4] = [1.0] * 3
    assert line.ceiling == pytest.approx(0.8), "of the rounds that count"
    assert line_of(1e-5, {"numpy": 2e-5}).ceiling is None
    assert json.loads(report_of(line).to_json())["lines"][0]["ceiling"] == pytest.approx(0.8)
    assert json.loads(report_of(line_of(1e-5, {})).to_json())["lines"][0]["ceiling"] is None


def test_the_nearer_limit_counts_the_softmax():
    fields = {"flops": 6e8, "scores": 1e6, "peak_flops": [1e12] * 9, "peak_scores": [2.5e9] * 9, "bytes": 7e7}
    line = line_of(1e-3, {"torch": 1e-3}, rounds=9, **fields)
    assert line.ceiling == pytest.approx(0.6)
    assert row(line).share == "60% FMA (of 60%)"


def test_close_lines():
    assert is_close(line_of(1.0, {"numpy": 1.09}))
    assert is_close(line_of(1.0, {"numpy": 0.91}))
    assert not is_close(line_of(1.0, {"numpy": 1.11}))
    assert not is_close(line_of(1.0, {}))


def test_geometric_mean():
    report = report_of(line_of(1.0, {"numpy": 4.0}), line_of(1.0, {"numpy": 1.0}), line_of(1.0, {}))
    assert report.geometric_mean() == pytest.approx(2)
    assert report_of().geometric_mean() is None


def test_saved_and_loaded(tmp_path):
    report = report_of(line_of(1e-5, {"numpy": 2e-5}), absent={"jax": "not installed"}, interrupted=True)
    report.lines[0].entries[1].samples[0] = None
    (tmp_path / "report.json").write_text("what was there")
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == report
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]
    content = json.loads((tmp_path / "report.json").read_text())
    (line,) = content["lines"]
    assert line["ratios"]["out"]["value"] == pytest.approx(2)
    assert line["ratios"]["allocated"] is None
    assert line["verdict"] == "2.00 times as fast"
    assert line["entries"][0]["median"] == {"value": 1e-5, "low": 1e-5, "high": 1e-5}


def test_a_report_from_before_sizes_were_named_is_read(tmp_path):
    content = json.loads(report_of(line_of(1e-5, {})).to_json())
    del content["sizes"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert markdown(Report.load(tmp_path / "old.json")).startswith("| sizes |")


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": 99}', "3"])
def test_foreign_files_are_refused(tmp_path, text):
    (tmp_path / "foreign.json").write_text(text)
    with pytest.raises(ValueError, match=r"foreign\.json: expected a benchmark's JSON of schema 1"):
        Report.load(tmp_path / "foreign.json")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.5, "1.5 s"),
        (0.9999, "1 s"),
        (0.0123, "12.3 ms"),
        (3.456e-6, "3.46 µs"),
        (1.2345e-4, "123 µs"),
        (1.23e-7, "123 ns"),
        (9.9e-10, "1 ns"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_markdown():
    text = markdown(report_of(line_of(1e-5, {"numpy": 2e-5}, name="a node")))
    heading, rule, only = text.splitlines()
    assert heading.count("|") == rule.count("|") == only.count("|") == len(HEADINGS) + 1
    assert "64³ (a node)" in only
    assert "NumPy 20 µs `numpy(a, b)`" in only
    assert "2.00 [2.00, 2.00]" in only
    assert (
        markdown(report_of(line_of(1e-5, {})), ["case", "verdict"]).splitlines()[2]
        == "| 64³ | no peer to compare with |"
    )


def test_narrow_tables_keep_what_matters_most():
    report = report_of(line_of(1e-5, {"numpy": 2e-5}))
    wide, narrow = table(report, width=200), table(report, width=100)
    assert [column.header for column in wide.columns] == ["M×K×N", *list(HEADINGS.values())[1:]]
    assert {"M×K×N", "transfuse", "fastest peer", "verdict"} <= {column.header for column in narrow.columns}
    assert len(narrow.columns) < len(wide.columns)
    shown = rich.console.Console(width=120, record=True, file=io.StringIO())
    shown.print(narrow)
    text = shown.export_text()
    assert "allocated –" in text, "both columns of the ratio are there"
    assert "float32, 1 thread" in text, "what all lines share is said once"
    report.lines.append(line_of(1e-5, {"numpy": 2e-5}, threads=2))
    assert "threads" in {column.header for column in table(report, width=100).columns}


def test_narrow_tables_show_the_only_ratio_that_there_is():
    line = line_of(1e-5, {"jax": 3e-5})
    for entry in line.entries:
        entry.writes_out = False
    shown = rich.console.Console(width=80, record=True, file=io.StringIO())
    shown.print(table(report_of(line), width=80))
    assert "3.00 [3.00, 3.00]" in shown.export_text()


def test_remarks_name_everyone_who_is_missing():
    line = line_of(1e-5, {"numpy": 2e-5, "torch": 1e-5})
    line.entries[2].fail("off by 1", "wrong")
    line.clean[0] = False
    found = remarks(report_of(line, absent={"jax": "not installed"}, interrupted=True))
    assert found == [
        "JAX took no part: not installed",
        "64³ float32, 1 thread: PyTorch `torch(a, b)` wrong: off by 1",
        "64³ float32, 1 thread: 1 of 10 rounds dropped: a foreign job was on a core",
        "interrupted: the lines above are what was measured until then",
    ]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_pictures(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    lines = [line_of(size * 1e-6, {"numpy": size * 2e-6, "cython": size * 9e-6}, size=size) for size in (8, 16, 32)]
    for line in lines:
        line.entries += [Entry(e.library, f"{e.statement} allocated", False, e.samples) for e in line.entries]
    for entry in lines[2].entries:
        if entry.library == "cython":
            entry.samples = []
            entry.fail("a call takes more than 5 s", "stopped")
    lines.append(line_of(1e-5, {}, size=64))
    plot.save(tmp_path / f"picture{suffix}", report_of(*lines))
    assert (tmp_path / f"picture{suffix}").stat().st_size > 5000


def test_what_a_picture_shows():
    pytest.importorskip("matplotlib")
    lines = [line_of(size * 1e-6, {"numpy": size * 2e-6}, size=size) for size in (8, 16, 32)]
    for line in lines:
        line.entries += [Entry(e.library, e.statement, False, e.samples) for e in line.entries]
    lines += [line_of(1e-6, {"torch": 1e-6}, size=8, threads=2)]
    drawn = plot.figure(report_of(*lines))
    times, ratios, few = drawn.axes
    assert [curve.get_label() for curve in times.get_lines()] == ["transfuse", "NumPy"]
    np.testing.assert_allclose(times.get_lines()[1].get_ydata(), [1.6e-5, 3.2e-5, 6.4e-5])
    assert [label.get_text() for label in ratios.get_yticklabels()] == ["32³", "16³", "8³"]
    assert times.get_xlabel()
    assert times.get_ylabel()
    assert ratios.get_xlabel()
    assert few.get_title() == "(A·B)ᵀ, float32, 2 threads"


def test_times_against_another_size():
    figure = pytest.importorskip("matplotlib.figure")
    lines = [line_of(length * 1e-6, {}, sizes=(1, 2, length, length, 64)) for length in (128, 256)]
    for line in lines:
        line.entries[0].writes_out = False
    axes = figure.Figure().subplots()
    plot.draw_times(axes, lines, dimension=2, label="length")
    np.testing.assert_array_equal(axes.get_lines()[0].get_xdata(), [128, 256])
    assert axes.get_xlabel() == "length"


def test_reports_below_each_other():
    pytest.importorskip("matplotlib")
    other = Report("attention", "Attention", {}, lines=[line_of(1e-6, {"torch": 1e-6})])
    drawn = plot.figure(report_of(line_of(1e-6, {"numpy": 2e-6})), other)
    assert [axes.get_title() for axes in drawn.axes] == ["(A·B)ᵀ, float32, 1 thread", "Attention, float32, 1 thread"]


def test_nothing_to_draw():
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="report: expected at least one line"):
        plot.figure(report_of())
