"""``transfuse tune all``, and what is kept for later calls. What is timed here does not matter."""

import itertools
import json

import numpy as np
import pytest
from tuning_commands import run
from tuning_results import result_of

from transfuse import _core, tune
from transfuse.bench.statistics import Estimate
from transfuse.tune import Landscape, commands, keeping, report, usual


def ticking(step=1e-3):
    """A clock that goes on by a step whenever it is read."""
    return itertools.count(0.0, step).__next__


def test_the_usual_shapes_are_those_of_the_benchmark():
    targets = usual.usual_targets()
    names = [target.name for target in targets]
    assert "matmul_t 1024³, float32" in names
    assert "attention 1×12×512×64, causal, float32" in names
    assert [target.case.flops for target in targets] == sorted(target.case.flops for target in targets)
    assert len(usual.usual_targets(["matmul-t"], suite="full")) > 30  # without layouts, shared operands and activations


@pytest.fixture
def found(monkeypatch):
    """What searches and the last measurements find, to be filled in: by target's name the best, and the two times."""
    answers = {}

    def search(target, space, *, budget, **options):
        best, _ = answers[target.name]
        assert budget > 0
        assert all(one["threads"] == target.threads for one in space.configurations())
        return result_of(
            target=target.name, best=target.default | best, default=target.default, validated=True, seconds=budget
        )

    def record(target, space, *, rounds, default, **options):
        _, ratio = answers.get(target.name, ({}, 1.0))
        (best,) = space.configurations()
        assert best != default
        times = np.tile([ratio * 1e-3, 1e-3], (rounds, 1)) * (1 + 0.01 * np.arange(rounds)[:, None])
        return Landscape(target.name, {}, {}, [default, best], 0, times)

    monkeypatch.setattr(usual, "search", search)
    monkeypatch.setattr(usual, "record", record)
    return answers


def test_tune_all_keeps_what_is_faster_in_fresh_measurements(found):
    targets = [tune.MatmulT(size, size, size, threads=2) for size in (1, 128, 256, 512)]
    _, faster, refuted, unchanged = targets
    found |= {
        faster.name: ({"block_m": 64}, 1.25),
        refuted.name: ({"block_m": 64}, 0.9),
        unchanged.name: ({}, None),
    }
    outcomes = list(usual.tune_all(targets, budget=100.0, clock=ticking()))
    assert [one.verdict for one in outcomes] == ["no choice", "faster", "undecided", "default stays"]
    assert outcomes[1].best == faster.default | {"block_m": 64}
    assert outcomes[1].ratio == Estimate(pytest.approx(1.25), pytest.approx(1.25), pytest.approx(1.25))
    assert outcomes[1].before / outcomes[1].after == pytest.approx(1.25)
    for one in outcomes[2:]:
        assert one.best == one.default
        assert one.ratio.value == 1
    lines = report.outcomes_markdown(outcomes).splitlines()
    assert lines[3].startswith("| matmul_t 128³, float32 | block_m 256 | block_m 64 | ")
    assert lines[3].endswith(" | 1.25 [1.25, 1.25] | faster |")
    assert lines[5].startswith("| matmul_t 512³, float32 |  |  | ")
    assert report.counts(outcomes).startswith(
        "faster: 1; the default stays: 1; undecided, so the default stays: 1; nothing"
    )


@pytest.mark.parametrize(("ratio", "verdict"), [(0.9, "here only"), (1.0, "faster"), (1.1, "faster")])
@pytest.mark.parametrize(
    ("target", "other"),
    [
        (tune.MatmulT(1024, 1200, 160, threads=1), "matmul_t 1536×1536×192, float32"),
        (tune.MatmulT(2000, 1, 700, threads=1), "matmul_t 1024×1×512, float32"),
        (tune.Attention(1, 8, 256, 64, causal=True, threads=1), "attention 1×8×384×64, causal, float32"),
        (tune.Attention(1, 8, 1, 64, keys=3000, kv_heads=2, threads=1), "attention 1×8(2)×1×2048×64, float32"),
    ],
)
def test_what_is_slower_for_others_of_its_bucket_is_not_kept(found, target, other, ratio, verdict):
    name = "block_n" if target.operation == "matmul_t" else "block_kv"
    found |= {target.name: ({name: 32}, 1.25), other: ({}, ratio)}
    (outcome,) = usual.tune_all([target], budget=100.0, clock=ticking())
    assert outcome.verdict == verdict
    assert (outcome.best != outcome.default) == (verdict == "faster")
    assert outcome.found().decided


def test_a_winner_that_fails_when_measured_anew(found, monkeypatch):
    target = tune.MatmulT(256, 256, 256, threads=1)
    found[target.name] = ({"block_m": 64}, 1.25)
    monkeypatch.setattr(
        usual, "record", lambda target, space, *, default, **o: Landscape("", {}, {}, [default], 0, np.ones((3, 1)))
    )
    (outcome,) = usual.tune_all([target], budget=100.0, clock=ticking())
    assert (outcome.verdict, outcome.best) == ("undecided", outcome.default)


def test_all_of_shapes_with_nothing_to_choose(found, kept, monkeypatch):
    monkeypatch.setattr(usual, "usual_targets", lambda operations, **options: [tune.MatmulT(1, 1, 1, threads=1)])
    assert "not kept: there is nothing" in run("all").stdout
    assert kept == []


def test_tune_all_leaves_what_is_too_slow_for_the_budget(found):
    (target,) = targets = [tune.MatmulT(512, 512, 512, threads=1)]
    found[target.name] = ({"block_m": 64}, 1.25)
    (outcome,) = usual.tune_all(targets, budget=100.0, clock=ticking(10.0))  # a call takes ten seconds
    assert (outcome.verdict, outcome.result) == ("no time", None)


def test_tune_all_searches_near_the_default_if_there_is_little_time(found, monkeypatch):
    (target,) = targets = [tune.MatmulT(512, 512, 512, threads=1)]
    found[target.name] = ({}, None)
    sizes = []
    search = usual.search
    monkeypatch.setattr(
        usual, "search", lambda target, space, **o: sizes.append(len(space)) or search(target, space, **o)
    )
    for budget in (1000.0, 10.0):
        list(usual.tune_all(targets, budget=budget, clock=ticking(0.05)))
    whole, near = sizes
    assert near < whole
    assert near == 1 + sum(len(values) - 1 for values in target.space().parameters.values()) - (
        len(target.space().parameters["threads"]) - 1
    )


def test_tune_all_ends_after_an_interrupted_search(found, monkeypatch):
    targets = [tune.MatmulT(size, size, size, threads=1) for size in (128, 256)]
    stopped = result_of(best={}, default={}, stopped="interrupted", validated=False)
    monkeypatch.setattr(usual, "search", lambda *arguments, **options: stopped)
    (outcome,) = usual.tune_all(targets, clock=ticking())
    assert outcome.verdict == "undecided"


def test_tune_all_needs_a_budget():
    with pytest.raises(ValueError, match="budget: expected seconds above 0, got 0"):
        list(usual.tune_all([], budget=0))


@pytest.fixture
def kept(monkeypatch):
    """What would be kept."""
    entries = []

    def keep(found):
        entries.extend(found)
        return "/home/wisdom.json"

    monkeypatch.setattr(keeping, "keep", keep)
    return entries


def test_all(found, kept, tmp_path, monkeypatch):
    targets = [tune.MatmulT(size, size, size, threads=1) for size in (1, 128, 256)]
    monkeypatch.setattr(usual, "usual_targets", lambda operations, **options: targets)
    found |= {targets[1].name: ({"block_m": 64}, 1.25), targets[2].name: ({}, None)}
    files = {name: tmp_path / f"out.{name}" for name in ("json", "md")}
    done = run("all", "--budget=100", "--json", files["json"], "--markdown", files["md"])
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    assert "before and after" in done.stdout
    assert "kept for later calls: /home/wisdom.json" in done.stdout
    assert [(one.target, one.best["block_m"]) for one in kept] == [(targets[1], 64), (targets[2], 256)]
    content = json.loads(files["json"].read_text())
    assert [one["verdict"] for one in content] == ["no choice", "faster", "default stays"]
    assert content[0]["before"] is None
    assert files["md"].read_text().count("\n") == 5


def test_all_without_saving(found, kept, monkeypatch):
    (target,) = targets = [tune.MatmulT(128, 128, 128, threads=1)]
    monkeypatch.setattr(usual, "usual_targets", lambda operations, **options: targets)
    found[target.name] = ({"block_m": 64}, 1.25)
    assert run("all", "--no-save").exit_code == 0
    assert kept == []


def test_a_confirmed_result_is_kept(kept, monkeypatch):
    monkeypatch.setattr(commands.tune, "search", lambda target, **options: result_of())
    done = run("matmul-t", "--shape=8", "--threads=2")
    assert "kept for later calls: /home/wisdom.json" in done.stdout
    (one,) = kept
    assert one.target.case.m == 8
    assert one.best == result_of().best
    assert (one.seconds, one.default_seconds) == (result_of().best_seconds, result_of().default_seconds)


@pytest.mark.parametrize("error", [OSError("read-only"), ValueError("wisdom is off")])
def test_what_cannot_be_kept_is_no_failure(error, monkeypatch):
    def keep(found):
        raise error

    monkeypatch.setattr(keeping, "keep", keep)
    monkeypatch.setattr(commands.tune, "search", lambda target, **options: result_of())
    done = run("matmul-t", "--shape=8", "--threads=2")
    assert done.exit_code == 0
    assert f"not kept: {error}" in done.stdout


def test_what_is_kept_can_be_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFUSE_WISDOM", str(tmp_path / "wisdom.json"))
    target = tune.MatmulT(100, 200, 300, threads=2)
    found = keeping.Found(target, target.default | {"block_m": 64}, target.default, 1e-3, 2e-3)
    assert str(keeping.keep([found])) == str(tmp_path / "wisdom.json")
    (entry,) = tune.Wisdom.load()
    assert (entry.operation, entry.dtype, tuple(entry.sizes)) == ("matmul_t", "float32", (1, 100, 200, 300))
    assert (entry.threads, entry.parameters) == (2, {"block_m": 64})
    assert (entry.seconds, entry.default_seconds) == (1e-3, 2e-3)


def test_a_shape_whose_default_stays_uses_no_other_shapes_entry(tmp_path, monkeypatch, tuned):
    monkeypatch.setenv("TRANSFUSE_WISDOM", str(tmp_path / "wisdom.json"))
    small, large = (tune.MatmulT(size, 256, 256, threads=1) for size in (256, 512))
    faster = keeping.Found(small, small.default | {"block_k": 64}, small.default, 1e-3, 2e-3)
    keeping.keep([faster])
    tune.Wisdom.load().apply()
    look_up = ("matmul_t", large.isa, "float32", large.sizes)
    assert _core.find_tuned(*look_up) == {"block_k": 64}
    keeping.keep([keeping.Found(large, large.default, large.default, decided=False)])
    tune.Wisdom.load().apply()
    assert _core.find_tuned(*look_up) == {}


def test_what_was_found_outlasts_a_search_without_a_decision(tmp_path):
    file = tmp_path / "wisdom.json"
    target = tune.MatmulT(256, 256, 256, threads=1)
    best = target.default | {"block_k": 64}
    for found, expected in (
        (keeping.Found(target, target.default, target.default, decided=False), {}),
        (keeping.Found(target, best, target.default, 1e-3, 2e-3), {"block_k": 64}),
        (keeping.Found(target, target.default, target.default, decided=False), {"block_k": 64}),
        (keeping.Found(target, target.default, target.default, 1e-3, 1e-3), {}),
    ):
        keeping.keep([found], file)
        (entry,) = tune.Wisdom.load(file)
        assert entry.parameters == expected


def test_a_shape_without_a_decision_leaves_that_of_the_same_bucket(tmp_path):
    file = tmp_path / "wisdom.json"
    one, other = (tune.MatmulT(size, 256, 256, threads=1) for size in (256, 300))
    decided = keeping.Found(one, one.default | {"block_k": 64}, one.default, 1e-3, 2e-3)
    undecided = keeping.Found(other, other.default, other.default, decided=False)
    for found in ([decided, undecided], [undecided, decided]):
        file.unlink(missing_ok=True)
        keeping.keep(found, file)
        (entry,) = tune.Wisdom.load(file)
        assert entry.parameters == {"block_k": 64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validated": False}, "nothing was confirmed by fresh measurements"),
        ({"best": {"threads": 1}}, "calls take 2 threads unless they say num_threads=1"),
    ],
)
def test_what_no_later_call_can_use_is_not_kept(changes, message, kept, monkeypatch):
    target = tune.MatmulT(8, 8, 8, threads=2)
    best = target.default | changes.pop("best", {})
    result = result_of(best=best, default=target.default, **changes)
    monkeypatch.setattr(commands.tune, "search", lambda target, **options: result)
    done = run("matmul-t", "--shape=8", "--threads=2")
    assert done.exit_code == 0
    assert f"not kept: {message}" in done.stdout
    assert kept == []


def test_all_keeps_what_was_found_before_an_error(found, kept, monkeypatch):
    targets = [tune.MatmulT(size, size, size, threads=1) for size in (128, 256)]
    monkeypatch.setattr(usual, "usual_targets", lambda operations, **options: targets)
    found |= {targets[0].name: ({"block_m": 64}, 1.25)}
    search = usual.search

    def fail(target, space, **options):
        if target is targets[1]:
            raise tune.DefaultFailed("no memory")
        return search(target, space, **options)

    monkeypatch.setattr(usual, "search", fail)
    done = run("all", "--budget=100")
    assert done.exit_code == 2
    assert "error: no memory" in done.stderr
    assert "matmul_t 128³" in done.stdout
    assert [one.target for one in kept] == targets[:1]
