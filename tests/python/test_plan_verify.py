"""Plans: their check, execution, JSON, pictures and frontier."""

import itertools
import json
import xml.etree.ElementTree as xml
from dataclasses import replace

import pytest

from transfuse.plan import (
    Assignment,
    Edge,
    Graph,
    Operation,
    Plan,
    PlanError,
    Settings,
    frontier,
    solve,
    transformer,
)
from transfuse.plan.drawing import _boxes, _colors, _drawn


@pytest.fixture(scope="module")
def plan():
    """Two stages of two operations, and one wide operation at the end."""
    operations = [Operation(name, {1: 2.0, 2: 1.2}, "kind", 10.0, 100.0) for name in "abcd"]
    operations.append(Operation("wide", {2: 3.0}, "wide", 10.0, 100.0))
    edges = [Edge(*pair, 8.0) for pair in ("ab", "bc", "cd")] + [Edge("d", "wide", 8.0)]
    found = solve(Graph(operations, edges), 4, mode="stages")
    assert found.verify()
    return found


def broken(plan, name, **changes):
    return replace(plan, assignments={**plan.assignments, name: replace(plan.assignments[name], **changes)})


def without(plan, name):
    return replace(plan, assignments={key: found for key, found in plan.assignments.items() if key != name})


BROKEN = {
    "an operation is missing": (lambda p: without(p, "a"), "'a' is not assigned"),
    "an unknown operation": (
        lambda p: replace(p, assignments={**p.assignments, "z": p.assignments["a"]}),
        "no operation 'z'",
    ),
    "an accelerator too high": (lambda p: broken(p, "a", accelerators=(9,)), "there are 4"),
    "an accelerator twice": (lambda p: broken(p, "wide", accelerators=(2, 2)), "twice"),
    "no accelerator": (lambda p: broken(p, "a", accelerators=()), "has no accelerator"),
    "a width without a time": (
        lambda p: broken(p, "wide", accelerators=p.assignments["wide"].accelerators[:1], width=1),
        "no time at width 1",
    ),
    "replicas that were not allowed": (lambda p: broken(p, "wide", width=1), "no time at width 1|replicated"),
    "a duration too short": (lambda p: broken(p, "a", duration=1.0), "lasts 1.0"),
    "an offset beyond the period": (lambda p: broken(p, "a", offset=p.period), "offset"),
    "a negative shift": (lambda p: broken(p, "a", shift=-1), "shift"),
    "two at once": (lambda p: broken(p, "b", offset=p.assignments["a"].offset), "overlap|starts before"),
    "an operation before its input": (lambda p: broken(p, "wide", shift=0), "starts before"),
    "a shorter period": (lambda p: replace(p, period=p.period * 0.9, lower_bound=0.0), "offset|overlap|longer"),
    "a bound above the period": (lambda p: replace(p, lower_bound=2 * p.period), "above the period"),
    "a period that is none": (lambda p: replace(p, period=float("nan")), "period"),
    "a stage in two places": (
        lambda p: broken(p, "b", accelerators=p.assignments["c"].accelerators, offset=0.0, shift=9),
        "overlap|starts before|share",
    ),
    "too little memory": (lambda p: replace(p, settings=replace(p.settings, memory=50.0)), "bytes"),
    "other communication": (
        lambda p: replace(p, settings=replace(p.settings, cost_model="transfer", bandwidth=8.0)),
        "its places mean",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_verification_rejects(plan, name):
    make, message = BROKEN[name]
    with pytest.raises(PlanError, match=message):
        make(plan).verify()


def test_an_interval_that_wraps_may_not_reach_the_next_start():
    graph = Graph([Operation("a", {1: 2.0}), Operation("b", {1: 2.0})])
    plan = solve(graph, 1, mode="stages")
    assert plan.period == 4.0
    late = broken(plan, "a", offset=3.0)
    late = broken(late, "b", offset=0.5)
    with pytest.raises(PlanError, match="overlap on accelerator 0"):
        late.verify()
    assert broken(broken(plan, "a", offset=3.0), "b", offset=1.0).verify()


def by_hand(mode, *places):
    """A chain of operations of one second, one period after the other, on these accelerators."""
    names = "abc"[: len(places)]
    graph = Graph([Operation(n, {1: 1.0, 2: 1.0}) for n in names], [Edge(*pair) for pair in itertools.pairwise(names)])
    found = {
        n: Assignment(at, 0.0, number, len(at), 1.0) for number, (n, at) in enumerate(zip(names, places, strict=True))
    }
    return Plan(graph, Settings(4, mode), 4.0, 0.0, "none", found)


def at(plan, **offsets):
    for name, offset in offsets.items():
        plan = broken(plan, name, offset=offset)
    return plan


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (at(by_hand("stages", (0,), (1,), (0,)), c=2.0), "not contiguous"),
        (at(by_hand("stages", (0,), (0, 1)), b=2.0), "two stages share"),
        (at(by_hand("dedicated", (0,), (0,)), b=2.0), "same accelerators"),
        (at(by_hand("dedicated", (0,), (0, 1)), b=2.0), "two operations share"),
    ],
)
def test_verification_rejects_what_another_mode_allows(plan, message):
    assert replace(plan, settings=replace(plan.settings, mode="shared")).verify()
    with pytest.raises(PlanError, match=message):
        plan.verify()


def test_simulation_keeps_the_period(plan):
    found = plan.simulate(1000)
    assert found.throughput * plan.period == pytest.approx(1, rel=1e-9)
    assert found.in_flight == plan.in_flight
    assert found.utilisation == pytest.approx(plan.busy, rel=1e-2)
    assert found.latency == pytest.approx(plan.latency)


def test_jitter_costs_throughput(plan):
    found = plan.simulate(500, jitter=0.2, seed=1)
    assert found.throughput * plan.period < 1
    assert found == plan.simulate(500, jitter=0.2, seed=1)


def test_free_operations_wait_for_no_accelerator():
    """Free operations on both, in the middle of what they do, must not make them wait for each other."""
    graph = Graph([Operation(name, {1: 1.0}) for name in "ab"] + [Operation(name, {2: 0.0}) for name in "cd"])
    found = {
        "a": Assignment((0,), 0.0, 0, 1, 1.0),
        "c": Assignment((0, 1), 0.25, 0, 2, 0.0),
        "b": Assignment((1,), 0.5, 0, 1, 1.0),
        "d": Assignment((0, 1), 0.75, 0, 2, 0.0),
    }
    plan = Plan(graph, Settings(2), 1.0, 0.0, "none", found)
    assert plan.verify()
    assert plan.simulate(200).throughput == pytest.approx(1.0, rel=1e-9)


def test_jitter_delays_what_follows():
    """Nobody waits for an accelerator here, only for inputs."""
    operations = [Operation(name, {1: 1.0}) for name in "abcd"] + [Operation("slow", {1: 10.0})]
    plan = solve(Graph(operations, [Edge(*pair) for pair in ("ab", "bc", "cd")]), 5, mode="dedicated")
    assert plan.simulate(500, jitter=0.2).latency > plan.latency * 1.02


@pytest.mark.parametrize(("n", "jitter"), [(1, 0.0), (2.5, 0.0), (10, -1.0), (10, float("inf")), (10, float("nan"))])
def test_bad_simulations(plan, n, jitter):
    with pytest.raises(ValueError, match=r"n must|jitter must"):
        plan.simulate(n, jitter=jitter)


def test_json_round_trip(plan, tmp_path):
    path = tmp_path / "plan.json"
    text = plan.to_json(path)
    assert Plan.from_json(path) == Plan.from_json(text) == plan
    found = json.loads(text)["assignments"]["wide"]
    assert set(found) == {"accelerators", "offset", "shift", "width", "duration"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"period": "long"}, "the period must be a number"),
        ({"settings": {"accelerators": "many"}}, "accelerators must be an integer"),
        ({"settings": {"accelerators": 4, "mode": "wide"}}, "mode must be one of"),
        ({"assignments": {"a": {"accelerators": [0.5], "offset": 0, "shift": 0, "width": 1, "duration": 1}}}, "'a'"),
        ({"assignments": {"a": {"accelerators": [0], "offset": 0, "shift": 1.5, "width": 1, "duration": 1}}}, "shift"),
    ],
)
def test_plans_of_wrong_types(plan, change, message):
    with pytest.raises(ValueError, match=message):
        Plan.from_dict({**json.loads(plan.to_json()), **change})


@pytest.mark.parametrize("text", ["{", '{"schema": 1}', '{"schema": 99}', '{"schema": 1, "assignments": 3}'])
def test_malformed_plans(text):
    with pytest.raises(ValueError, match="plan"):
        Plan.from_json(text)


def test_gantt(plan, tmp_path):
    path = tmp_path / "plan.svg"
    plan.gantt(path)
    assert xml.parse(path).getroot().tag.endswith("svg")
    plan.gantt(tmp_path / "plan.png", periods=1)
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="periods"):
        plan.gantt(path, periods=0)
    with pytest.raises(ValueError, match=r"must end with \.svg"):
        plan.gantt(tmp_path / "plan.xyz")


def test_gantt_shows_every_operation_of_a_period_and_explains_itself(plan, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    backend = matplotlib.get_backend(auto_select=False)
    boxes = list(_boxes(plan, 1))
    busy = sum(box.right - box.left for box in boxes)
    assert busy == pytest.approx(sum(plan.busy) * plan.period)
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plan.gantt(tmp_path / "plan.svg", title="$x_{")
    text = (tmp_path / "plan.svg").read_text()
    assert "each box an operation" in text
    assert "$x_{" in text
    assert matplotlib.get_backend(auto_select=False) == backend  # a notebook goes on showing its own figures


@pytest.mark.parametrize("count", [1, 20, 21, 30])
def test_gantt_of_many_kinds(count, tmp_path):
    plan = solve(Graph([Operation(f"$o_{{{i}", {1: 1.0}) for i in range(count)]), 2, mode="stages")
    assert len(_drawn(plan, _colors(plan))) == min(count, 20)
    plan.gantt(tmp_path / "plan.png", periods=1)


def test_gantt_of_nothing(tmp_path):
    solve(Graph([Operation("free", {1: 0.0})]), 1, mode="stages").gantt(tmp_path / "plan.svg")


def test_perfetto(plan, tmp_path):
    path = tmp_path / "trace.json"
    plan.to_perfetto(path, micro_batches=3)
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]
    assert len(events) == 3 * sum(len(found.accelerators) for found in plan.assignments.values())
    last = max(event["ts"] + event["dur"] for event in events)
    assert last == pytest.approx((2 * plan.period + max(map(plan.end, plan.assignments))) * 1e6)


def test_frontier():
    graph = transformer(2, 1024, 16, 4096, 1024, max_width=4)
    plans = frontier(graph, 4, effort=0.05)
    assert len(plans) > 1
    assert all(plan.verify() for plan in plans)
    values = [(plan.period, plan.latency, max(plan.peak_memory)) for plan in plans]
    assert [value[0] for value in values] == sorted(value[0] for value in values)
    for first in values:
        assert not any(other != first and all(a <= b for a, b in zip(other, first, strict=True)) for other in values)


def test_peak_memory():
    operations = [Operation("a", {1: 1.0}, memory=10.0, parameters=3.0), Operation("b", {1: 1.0}, memory=1.0)]
    plan = solve(Graph(operations, [Edge("a", "b")]), 2, mode="stages")
    assert plan.peak_memory == [3 + 2 * 10, 1.0]  # one is read while the next is made
    assert plan.in_flight == 2
