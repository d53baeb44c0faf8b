"""What a suite asks of its lines, and the judgement."""

import dataclasses
import io

import pytest
import rich.console
from test_bench_report import line_of, report_of

from transfuse.bench import Entry, goals
from transfuse.bench.goals import MET, SHORT, Goal, judge
from transfuse.bench.matmul_t import GOALS, OPERATION, MatmulT

SMALL, OTHER = MatmulT(64, 64, 64), MatmulT(32, 32, 32)


def verdicts(report, *goals):
    return [one.verdict for one in judge(report, goals)]


def test_ratio_of_each_line():
    report = report_of(line_of(1e-5, {"numpy": 2e-5}))
    assert verdicts(report, Goal("g", (SMALL,), each=2)) == [MET]
    assert verdicts(report, Goal("g", (SMALL,), each=2.01)) == [SHORT]
    assert verdicts(report, Goal("g", (OTHER,), each=5)) == [], "another case is none of its business"


def test_an_interval_that_reaches_the_goal_meets_it():
    line = line_of(1e-5, {"numpy": 1e-5})
    line.entries[1].samples = [0.98e-5 if i % 2 else 1.01e-5 for i in range(10)]
    assert verdicts(report_of(line), Goal("g", (SMALL,), each=1)) == [MET]


def test_a_line_without_a_ratio_falls_short():
    assert verdicts(report_of(line_of(1e-5, {})), Goal("g", (SMALL,), each=1)) == [SHORT]


def test_mean_over_each_dtype_and_thread_count():
    lines = [
        line_of(1e-5, {"numpy": 1e-5}),
        line_of(1e-5, {"numpy": 4e-5}, size=32),
        line_of(1e-5, {"numpy": 1e-5}, dtype="float64"),
    ]
    judged = judge(report_of(*lines), (Goal("g", (SMALL, OTHER), mean=1.9),))
    assert [(one.case, one.dtype, one.found, one.verdict) for one in judged] == [
        ("geometric mean of 2", "float32", "2.00", MET),
        ("geometric mean of 1", "float64", "1.00", SHORT),
    ]


def test_share_of_the_limit():
    line = line_of(1e-5, {"numpy": 1e-5})  # 52 of 100 GFLOP/s, 4.9 of 100 GB/s
    assert verdicts(report_of(line), Goal("g", (SMALL,), share=0.5)) == [MET]
    assert verdicts(report_of(line), Goal("g", (SMALL,), share=0.6)) == [SHORT]
    assert verdicts(report_of(line), Goal("g", (SMALL,), share=0.6, share_from=1e6)) == []
    assert verdicts(report_of(line), Goal("g", (SMALL,), share=0.04, limit="memory")) == [MET]
    assert verdicts(report_of(line), Goal("g", (SMALL,), share=0.5, limit="memory")) == [SHORT]


def test_call():
    line = line_of(1e-5, {"numpy": 1e-5})
    line.entries.append(Entry("transfuse", "matmul_t(a, b)", False, [2e-7] * 10))
    assert verdicts(report_of(line), Goal("g", (SMALL,), call=2e-7)) == [MET]
    assert verdicts(report_of(line), Goal("g", (SMALL,), call=1.9e-7)) == [SHORT]


@pytest.mark.parametrize(("threads", "spoken_of"), [("one", [1]), ("many", [2]), (None, [1, 2])])
def test_threads(threads, spoken_of):
    report = report_of(*(line_of(1e-5, {"numpy": 1e-5}, threads=count) for count in (1, 2)))
    assert [one.threads for one in judge(report, (Goal("g", (SMALL,), each=1, threads=threads),))] == spoken_of


def test_time_beside_another_case():
    like = Goal("g", (SMALL,), like=OTHER, within=0.1)
    fast, slow = line_of(1.09e-5, {"numpy": 1e-5}), line_of(1.2e-5, {"numpy": 1e-5})
    other = line_of(1e-5, {"numpy": 1e-5}, size=32)
    assert verdicts(report_of(fast, other), like) == [MET]
    assert verdicts(report_of(slow, other), like) == [SHORT]
    assert verdicts(report_of(slow, dataclasses.replace(other, dtype="float64")), like) == []


def test_gain_over_float32():
    goal = Goal("g", (SMALL,), gain=1.6, dtypes=("bfloat16",))
    base, line = line_of(1.61e-5, {"numpy": 1e-5}), line_of(1e-5, {"numpy": 1e-5}, dtype="bfloat16")
    assert verdicts(report_of(base, line), goal) == [MET]
    assert verdicts(report_of(base, line), dataclasses.replace(goal, gain=1.62)) == [SHORT]
    assert verdicts(report_of(base, line_of(1e-5, {"numpy": 1e-5}, dtype="float16")), goal) == [], "of another dtype"
    assert verdicts(report_of(line), goal) == [], "nothing to compare with"


def test_tables():
    judged = judge(report_of(line_of(1e-5, {"numpy": 2e-5})), (Goal("g", (SMALL,), each=1, share=0.6),))
    assert goals.markdown(judged).splitlines()[2:] == [
        "| g | 64³ | float32 | 1 | ratio ≥ 1 | 2.00 [2.00, 2.00] | met |",
        "| g | 64³ | float32 | 1 | ≥ 60% FMA | 52% | falls short |",
    ]
    console = rich.console.Console(file=io.StringIO(), width=150)
    console.print(goals.table(judged))
    assert "falls short" in console.file.getvalue()
    assert goals.summary(judged) == "2 goals: 1 met, 1 falls short"


def test_the_full_suite_has_every_case_that_goals_speak_of():
    cases = set(OPERATION.suites["full"])
    for goal in GOALS:
        assert set(goal.cases) <= cases
        assert goal.like is None or goal.like in cases
    assert len({(case.label, case.name) for case in cases}) == len(cases), "lines are found by their labels"
