"""The exact modes: published optima, brute force, memory and communication."""

import json
import pathlib
import random
from dataclasses import replace

import plan_oracle
import pytest

from transfuse.plan import Edge, Graph, InfeasibleError, Operation, Settings, load, solve
from transfuse.plan.solver import stages_plan

DATA = pathlib.Path(__file__).parents[1] / "data" / "planner"
EXPECTED = json.loads((DATA / "EXPECTED.json").read_text())
PATIENCE = 600  # seconds: a machine may be slow
DIGITS = 5e-6  # the published values have six


def checked(plan):
    plan.verify()
    return plan


@pytest.mark.parametrize("row", EXPECTED["contiguous_max_load"]["rows"], ids=lambda row: row[0])
def test_dnn_partitioning(row):
    graph = load(DATA / "dnn-partitioning" / f"{row[0]}.json")
    p, cpus = graph.rules["accelerators"], graph.rules["cpus"]
    plan = checked(solve(graph, p, mode="stages", cost_model="dnn-partitioning", cpus=cpus, time_limit=PATIENCE))
    assert plan.period == pytest.approx(row[2], rel=DIGITS)
    assert plan.optimal
    alone = checked(solve(graph, 1, mode="stages", cost_model="dnn-partitioning", memory=1e18, time_limit=PATIENCE))
    assert alone.period == pytest.approx(row[6], rel=DIGITS)


@pytest.mark.parametrize("row", EXPECTED["contiguous_max_load_variants"]["rows"][:5], ids=lambda row: row[0])
def test_dnn_partitioning_without_cpu(row):
    name, p, work, with_transfers, without = row
    graph = load(DATA / "dnn-partitioning" / f"{name}.json")
    options = {"mode": "stages", "cost_model": "dnn-partitioning", "time_limit": PATIENCE}
    plan = checked(solve(graph, p, **options))
    assert plan.period == pytest.approx(with_transfers, rel=DIGITS)
    free = replace(graph, rules={**graph.rules, "transfer": dict.fromkeys(graph.rules["transfer"], 0.0)})
    assert checked(solve(free, p, **options)).period == pytest.approx(without, rel=DIGITS)
    assert sum(o.times[1] for o in graph.operations) / p == pytest.approx(work, rel=DIGITS)


@pytest.mark.parametrize("row", EXPECTED["moldable_stages_bert32"]["rows"], ids=lambda row: str(row[0]))
def test_piper(row):
    p, free, limited, _ = row
    graph = load(DATA / "piper" / "bert32a100.json")
    for bandwidth, expected in ((1e30, free), (25 * 2**30, limited)):
        plan = checked(solve(graph, p, mode="stages", cost_model="piper", bandwidth=bandwidth, memory=1e18))
        assert plan.period == pytest.approx(expected, rel=1e-9)
    assert checked(solve(graph, p, mode="stages")).period == pytest.approx(free, rel=1e-9)


@pytest.mark.parametrize("row", EXPECTED["pipedream_optimizer"]["rows"], ids=lambda row: str(row[1]))
def test_pipedream(row):
    _, machines, replicas, seconds, speedup, _ = row
    graph = load(DATA / "pipedream" / "vgg16_graph.txt")
    plan = checked(solve(graph, machines, mode="stages", cost_model="pipedream", replication=True))
    assert plan.period == pytest.approx(seconds, rel=1e-12)
    stages = dict.fromkeys(plan.assignments[o.name].accelerators for o in graph.sorted())
    assert [len(stage) for stage in stages] == replicas
    work = sum(o.times[1] for o in graph.operations)
    weights = sum(o.parameters for o in graph.operations)
    alone = (work + 4 * (machines - 1) * weights / (1e9 * machines)) / machines
    assert alone / plan.period == pytest.approx(speedup, rel=1e-9)


def random_graph(seed, most=5):
    rng = random.Random(seed)
    n, p = rng.randint(2, most), rng.randint(2, 4)
    operations = [
        Operation(f"op{i}", {q: float(rng.randint(1, 9)) for q in range(1, p + 1) if q == 1 or rng.random() < 0.7})
        for i in range(n)
    ]
    edges = [Edge(f"op{i}", f"op{j}", 1.0) for j in range(n) for i in range(j) if rng.random() < 0.4]
    return Graph(operations, edges), p


@pytest.mark.parametrize("seed", range(30))
def test_stages_equal_brute_force(seed):
    graph, p = random_graph(seed)
    edges = [(graph.index[e.source], graph.index[e.target]) for e in graph.edges]
    expected = plan_oracle.contiguous([o.times for o in graph.operations], edges, p)
    assert checked(solve(graph, p, mode="stages")).period == expected


@pytest.mark.parametrize("seed", range(20))
def test_dedicated_equals_brute_force(seed):
    graph, _ = random_graph(seed, most=4)
    p = 7
    best = float("inf")

    def choose(i, left, longest):
        nonlocal best
        if i == len(graph.operations):
            best = min(best, longest)
            return
        for q, t in graph.operations[i].times.items():
            if q <= left:
                choose(i + 1, left - q, max(longest, t))

    choose(0, p, 0.0)
    assert checked(solve(graph, p, mode="dedicated")).period == best


def test_replicas_of_dedicated_operations():
    graph = Graph([Operation("a", {1: 6.0}), Operation("b", {1: 2.0})])
    assert checked(solve(graph, 4, mode="dedicated", replication=True)).period == 2.0
    assert solve(graph, 4, mode="dedicated").period == 6.0


def test_too_few_accelerators():
    graph = Graph([Operation("a", {1: 1.0}), Operation("wide", {4: 1.0})])
    with pytest.raises(InfeasibleError, match="'wide' needs 4"):
        solve(graph, 3)
    with pytest.raises(InfeasibleError, match="need more than 4"):
        solve(graph, 4, mode="dedicated")


def test_memory_limits_stages():
    graph = Graph([Operation("a", {1: 1.0, 2: 0.8}, parameters=20.0), Operation("b", {1: 1.0, 2: 0.8}, parameters=2.0)])
    for limit, period in ((None, 1.0), (20.0, 1.0), (15.0, 1.6)):
        plan = checked(solve(graph, 2, mode="stages", memory=limit))
        assert plan.period == period
        assert limit is None or max(plan.peak_memory) <= limit
    with pytest.raises(InfeasibleError, match="memory"):
        solve(graph, 2, mode="stages", memory=10.0)


def test_memory_of_bert():
    graph = load(DATA / "piper" / "bert32a100.json")
    plan = checked(solve(graph, 8, mode="stages", memory=3e9))
    assert max(plan.peak_memory) <= 3e9
    with pytest.raises(InfeasibleError, match="memory"):
        solve(graph, 8, mode="stages", memory=1e9)


def test_memory_and_replicas_by_pipers_rules():
    graph = load(DATA / "piper" / "bert32a100.json")
    options = {"mode": "stages", "cost_model": "piper", "bandwidth": 25 * 2**30, "replication": True}
    loose, tight = (checked(solve(graph, 8, memory=limit, **options)) for limit in (80e9, 8 * 2**30))
    assert loose.period < tight.period


def test_stages_keep_the_time_limit():
    """When the time is up, the best partition along one order, and the bound says no more than it may."""
    graph = load(DATA / "dnn-partitioning" / "LayerGraphs" / "resnet50_training.json")
    settings = Settings(6, "stages", cost_model="dnn-partitioning").checked(graph)
    best = stages_plan(graph, settings)
    calls = 0

    def stop():
        nonlocal calls
        calls += 1
        return calls > 200  # more than one order takes, fewer than all ideals

    plan = checked(stages_plan(graph, settings, stop=stop))
    assert 200 < calls < 300
    assert "one order" in plan.method
    assert plan.lower_bound < best.period <= plan.period
    with pytest.raises(TimeoutError, match="time_limit"):
        stages_plan(graph, settings, stop=lambda: True)


def test_many_accelerators_cost_nothing():
    graph, _ = random_graph(0)
    few, many = (checked(solve(graph, p, mode="stages")) for p in (30, 100_000))
    assert few.period == many.period


def test_all_machines_work_in_pipedream():
    graph = load(DATA / "pipedream" / "vgg16_graph.txt")
    plan = checked(solve(graph, 5, mode="stages", cost_model="pipedream", replication=True, bandwidth=1e6))
    assert {number for found in plan.assignments.values() for number in found.accelerators} == set(range(5))


def test_transfers_take_time_on_both_sides():
    graph = Graph([Operation("a", {1: 1.0}), Operation("b", {1: 1.0})], [Edge("a", "b", 10.0)])
    plan = checked(solve(graph, 2, mode="stages", cost_model="transfer", bandwidth=100.0, link_latency=0.05))
    assert plan.period == pytest.approx(1.15)
    assert checked(solve(graph, 2, mode="stages", cost_model="transfer", bandwidth=5.0)).period == 2.0


def test_transfer_stages_of_a_graph_with_skips():
    edges = [Edge("a", "b", 1.0), Edge("a", "c", 1.0), Edge("a", "d", 1.0), Edge("b", "d", 1.0), Edge("c", "d", 1.0)]
    graph = Graph([Operation(name, {1: 1.0, 2: 0.6}) for name in "abcd"], edges)
    plan = checked(solve(graph, 4, mode="stages", cost_model="transfer", bandwidth=10.0))
    assert 1.0 < plan.period < 2.0
    checked(solve(graph, 8, mode="dedicated", cost_model="transfer", bandwidth=10.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accelerators": 0}, "accelerators must be an integer from 1 on, got 0"),
        ({"accelerators": 2.0}, "accelerators"),
        ({"mode": "wide"}, "mode must be one of"),
        ({"cost_model": "free"}, "cost_model must be one of"),
        ({"cost_model": "transfer"}, "needs a bandwidth"),
        ({"cost_model": "piper"}, "mode must be 'stages'"),
        ({"cost_model": "piper", "mode": "stages"}, "needs a graph that was read"),
        ({"cpus": 1}, "CPUs"),
        ({"bandwidth": 0.0}, "bandwidth must be a positive"),
        ({"bandwidth": "fast"}, "bandwidth must be a positive finite number, got 'fast'"),
        ({"memory": -1.0}, "memory must be a positive"),
        ({"memory": float("inf")}, "memory must be a positive finite number, got inf"),
        ({"link_latency": -1.0}, "link_latency"),
        ({"time_limit": 0}, "time_limit"),
        ({"time_limit": float("nan")}, "time_limit"),
        ({"effort": 0}, "effort"),
        ({"seed": "x"}, "seed"),
        ({"replication": "yes"}, "replication"),
    ],
)
def test_bad_questions(options, message):
    with pytest.raises(ValueError, match=message):
        solve(Graph([Operation("a", {1: 1.0})]), **{"accelerators": 2, **options})


def test_a_file_is_no_graph():
    with pytest.raises(TypeError, match="graph must be a Graph"):
        solve("graph.json", 2)
