"""Accelerators shared in time: optimality, bounds, properties, limits."""

import pathlib
import random
import signal
import time

import plan_oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transfuse.plan import Edge, Graph, Operation, PlanError, load, model, random_graph, solve, transformer
from transfuse.plan.bounds import AcceleratorBound, Cover, Item, configuration_bound, fitting_bound, work_bound
from transfuse.plan.cases import toy
from transfuse.plan.exact import WINDINGS, least_ratio, solve_exactly
from transfuse.plan.kinds import kinds_of
from transfuse.plan.shared import Sharing

DATA = pathlib.Path(__file__).parents[1] / "data" / "planner"


def small(seed, most_operations=4, most_accelerators=3):
    rng = random.Random(seed)
    n, p = rng.randint(2, most_operations), rng.randint(2, most_accelerators)
    operations = []
    for i in range(n):
        alone, power = rng.uniform(1, 10), rng.uniform(0.2, 1.2)
        operations.append(Operation(f"op{i}", {q: round(alone / q**power, 2) for q in range(1, p + 1)}))
    edges = [Edge(f"op{i}", f"op{j}", 1.0) for j in range(n) for i in range(j) if rng.random() < 0.3]
    return Graph(operations, edges), p


def test_the_toy_needs_wrapping():
    plan = solve(toy(), 5, effort=1)
    assert plan.verify()
    assert plan.period == plan.lower_bound == 2.5
    assert plan.optimal


@pytest.mark.parametrize("seed", range(15))
def test_brute_force(seed):
    graph, p = small(seed)
    plan = solve(graph, p, effort=1)
    assert plan.verify()
    assert plan.period == pytest.approx(plan_oracle.brute_force([o.times for o in graph.operations], p), rel=1e-9)
    assert plan.optimal


@pytest.mark.parametrize("seed", range(100, 112))
def test_bounds_are_bounds(seed):
    graph, p = small(seed, 6, 5)
    best = solve(graph, p, effort=1).period
    kinds = kinds_of(graph, p)
    assert work_bound(kinds, p) <= fitting_bound(kinds, p) <= best * (1 + 1e-9)
    assert configuration_bound(kinds, p, 2 * best) <= best * (1 + 1e-9)
    assert AcceleratorBound(kinds, p, 0.0, 2 * best).run() <= best * (1 + 1e-9)


def test_a_bound_does_not_rely_on_the_tolerances_of_the_linear_program(monkeypatch):
    """Prices a little too high, as HiGHS may return them, must not raise the bound."""
    cover = Cover([3, 2], [Item(0, 1, 1, 4), Item(0, 2, 2, 2), Item(1, 1, 1, 5)], 10)
    exact, upper = cover.solve()
    assert exact == pytest.approx(upper)
    priced = Cover._master

    def wrong(self):
        found = priced(self)
        self.prices *= 1.01
        return found * 1.01

    monkeypatch.setattr(Cover, "_master", wrong)
    assert Cover(cover.counts, cover.items, 10).solve()[0] <= exact * (1 + 1e-9)


def test_bound_of_bert_on_4():
    """Proven apart, in whole microseconds: within 0.24335 s four accelerators cannot do what must be done."""
    kinds = kinds_of(load(DATA / "piper" / "bert32a100.json"), 4)
    bound = AcceleratorBound(kinds, 4, 0.243216, 0.243456)
    assert 0.2433 < bound.run() < 0.243453


def test_periods_are_times_over_turns():
    unit = 1 / WINDINGS
    assert least_ratio(2.5 - unit, unit, 5) == pytest.approx(2.5)
    assert least_ratio(20 / 7 - unit / 2, unit, 6) > 20 / 7  # seven turns need seven operations
    assert least_ratio(20 / 7 - unit / 2, unit, 7) == pytest.approx(20 / 7)


def test_constraint_solver_finds_the_toys_optimum():
    handler = signal.getsignal(signal.SIGINT)
    answer, lower, _ = solve_exactly(kinds_of(toy(), 5), 5, 2.0, 3.0, 20.0, None, 0)
    assert answer.period == 2.5
    assert signal.getsignal(signal.SIGINT) is handler  # CP-SAT would leave it to kill the process
    assert 2.0 <= lower <= 2.5


@pytest.mark.parametrize("p", [4, 8, 22, 64])
def test_bert32(p):
    plan = solve(load(DATA / "piper" / "bert32a100.json"), p, effort=0.3)
    assert plan.verify()
    assert plan.gap <= 0.005
    assert p != 22 or plan.period <= 0.0491


@pytest.mark.parametrize(("layers", "p", "gap"), [(2, 20, 0.03), (6, 64, 0.03), (16, 48, 0.01)])
def test_language_models(layers, p, gap):
    plan = solve(transformer(layers, 4096, 32, 11008, 4096, max_width=p), p, effort=0.4)
    assert plan.verify()
    assert plan.gap <= gap


@st.composite
def problems(draw):
    n, p = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    times = st.floats(0.0, 10.0).map(lambda value: round(value, 3))
    operations = []
    for i in range(n):
        widths = draw(st.sets(st.integers(1, p), min_size=1))
        kind, size = f"kind{i % 3}", draw(st.floats(0, 100))
        operations.append(Operation(f"op{i}", {q: draw(times) for q in widths}, kind, size, size))
    edges = [
        Edge(f"op{i}", f"op{j}", draw(st.floats(0, 10))) for j in range(n) for i in range(j) if draw(st.booleans())
    ]
    return Graph(operations, edges), p


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    problems(), st.sampled_from(["none", "transfer"]), st.sampled_from(["shared", "stages", "dedicated"]), st.booleans()
)
def test_every_plan_passes_verification(problem, cost_model, mode, replication):
    graph, p = problem
    options = {"mode": mode, "replication": replication, "cost_model": cost_model, "bandwidth": 5.0}
    try:
        plan = solve(graph, p, effort=0.003, link_latency=0.1, **options)
    except ValueError:
        assert mode != "shared"  # stages need a common width, dedicated operations enough accelerators
        return
    assert plan.verify()
    assert plan.lower_bound <= plan.period
    again = type(plan).from_json(plan.to_json())
    assert again == plan
    assert again.verify()
    if plan.period > 0:
        assert plan.simulate(50).throughput * plan.period == pytest.approx(1, rel=1e-9)


def test_scaling_times_scales_the_period():
    graph, p = small(3, 6, 4)
    plan, scaled = solve(graph, p, effort=1), solve(graph.scaled(8.0), p, effort=1)
    assert scaled.period == pytest.approx(8 * plan.period, rel=1e-12)


@pytest.mark.parametrize("mode", ["shared", "stages"])
def test_more_accelerators_never_hurt(mode):
    graph = random_graph(30, max_width=4, seed=1)
    before = None
    for p in range(2, 6):
        candidates = () if before is None or mode == "stages" else (before,)
        plan = solve(graph, p, mode=mode, effort=0.02, candidates=candidates)
        assert plan.verify()
        assert before is None or plan.period <= before.period
        before = plan


def test_twice_the_graph_takes_at_most_twice_the_period():
    graph = random_graph(12, max_width=4, seed=2)
    plan = solve(graph, 5, effort=0.02)
    twice = plan.repeated(2)
    assert twice.verify()
    found = solve(graph.repeated(2), 5, effort=0.02, candidates=[twice])
    assert found.verify()
    assert found.period <= 2 * plan.period


def test_a_candidate_is_where_the_search_starts(monkeypatch):
    graph = transformer(2, 4096, 32, 11008, 4096, max_width=20)
    good = solve(graph, 20, effort=0.01)
    monkeypatch.setattr(Sharing, "run", lambda self: None)
    assert solve(graph, 20).period > good.period
    assert solve(graph, 20, candidates=[good]).period == good.period


def test_a_candidate_must_be_a_plan():
    plan = solve(random_graph(5, seed=1), 4, effort=0.02)
    with pytest.raises(PlanError):
        solve(random_graph(5, seed=2), 4, candidates=[plan])


def test_the_same_seed_gives_the_same_plan():
    graph = transformer(2, 4096, 32, 11008, 4096, max_width=20)
    first, second, other = (solve(graph, 20, effort=0.02, seed=seed) for seed in (7, 7, 8))
    assert first.assignments == second.assignments
    assert (first.period, first.lower_bound) == (second.period, second.lower_bound)
    assert first.assignments != other.assignments


@pytest.mark.parametrize(("operations", "limit"), [(1000, 3.0), (60, 2.0)])
def test_the_time_limit_is_kept(operations, limit):
    graph = random_graph(operations, seed=4)
    begin = time.monotonic()
    plan = solve(graph, 50, time_limit=limit)
    assert time.monotonic() - begin <= 1.1 * limit + 0.5
    assert plan.verify()


@pytest.mark.parametrize("after", [0, 3])
def test_an_interrupt_returns_the_incumbent(after):
    graph = random_graph(60, seed=5)
    calls = 0

    def interrupt(period, lower):
        nonlocal calls
        calls += 1
        if calls == after + 1:
            signal.raise_signal(signal.SIGINT)

    begin = time.monotonic()
    plan = solve(graph, 24, time_limit=60, progress=interrupt)
    assert time.monotonic() - begin < 30
    assert plan.verify()


def test_communication_costs_something():
    graph = transformer(2, 1024, 16, 4096, 512, accelerator="H100", max_width=4)
    free = solve(graph, 4, effort=0.1)
    paid = solve(graph, 4, effort=0.1, cost_model="transfer", bandwidth=2e10, link_latency=1e-5)
    stages = solve(graph, 4, mode="stages", cost_model="transfer", bandwidth=2e10, link_latency=1e-5)
    assert all(plan.verify() for plan in (free, paid, stages))
    assert free.period < paid.period <= stages.period


def test_memory_is_kept_when_sharing():
    graph = model("gpt2", max_width=4)
    free = solve(graph, 4, effort=0.05)
    limit = max(solve(graph, 4, mode="stages").peak_memory) * 1.5
    plan = solve(graph, 4, effort=0.05, memory=limit)
    assert plan.verify()
    assert max(plan.peak_memory) <= limit
    assert plan.period >= free.lower_bound


def test_only_free_operations():
    plan = solve(Graph([Operation("a", {1: 0.0}), Operation("b", {2: 0.0})], [Edge("a", "b")]), 2, effort=0.01)
    assert plan.verify()
    assert plan.period == plan.gap == plan.latency == 0
