"""``transfuse tune`` as a user calls it. What is timed here does not matter, only what becomes of it."""

import contextlib
import io
import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import rich.console
from processes import run_module
from tuning_results import result_of
from typer.testing import CliRunner

from transfuse import tune
from transfuse.bench.statistics import Estimate
from transfuse.cli import app
from transfuse.tune import Landscape, Progress, TuningResult, commands, keeping, report, usual
from transfuse.tune.view import time_left, view

QUICK = ("--measurements", "20", "--seed", "1", "--no-save")


def run(*arguments):
    return CliRunner().invoke(app, ["tune", *map(str, arguments)])


def ticking(step=1e-3):
    """A clock that goes on by a step whenever it is read."""
    return itertools.count(0.0, step).__next__


@pytest.fixture
def landscape(tmp_path):
    """A file with four configurations, of which the last is the best by 20 %."""
    rng = np.random.default_rng(0)
    times = np.array([1.0, 1.1, 1.3, 0.8]) * np.exp(0.02 * rng.standard_normal((50, 4))) * 1e-3
    parameters = {"block": [1, 2, 3, 4]}
    file = tmp_path / "slope.json"
    Landscape("slope", {}, parameters, [{"block": i} for i in parameters["block"]], 0, times).save(file)
    return file


def test_a_small_search(tmp_path):
    pytest.importorskip("matplotlib")
    files = {name: tmp_path / f"out.{name}" for name in ("json", "png", "journal")}
    outputs = ("--json", files["json"], "--plot", files["png"], "--journal", files["journal"])
    done = run_module("tune", "matmul-t", "--shape", "64", *QUICK, *map(str, outputs))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert done.stdout.startswith("target     matmul_t 64³, float32")  # nothing but the result
    for text in ("search     race, seed 1", "best       ", "speed-up", "default"):
        assert text in done.stdout
    result = TuningResult.from_json(files["json"])
    assert result.measurements <= 20
    assert result.description["case"]["m"] == 64
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert files["journal"].read_text()


def test_options_reach_the_search(monkeypatch):
    seen = {}

    def search(target, **options):
        seen.update(options, target=target)
        return result_of(validated=False)

    monkeypatch.setattr(commands.tune, "search", search)
    options = "--strategy halving --budget 3 --measurements 99 --threads 1 --dtype float64 --isa scalar --seed 7"
    done = run("attention", "--shape", "2x4/2x8x16x32:causal", *options.split(), "--confidence=0.9", "--cache=cold")
    assert done.exit_code == 0, done.output
    target = seen.pop("target")
    progress = seen.pop("progress")
    assert seen == {
        "strategy": "halving",
        "budget": 3.0,
        "max_measurements": 99,
        "seed": 7,
        "confidence": 0.9,
        "cache": "cold",
        "journal": None,
    }
    assert (target.operation, target.dtype, target.threads, target.isa) == ("attention", "float64", 1, "scalar")
    assert target.case.sizes == (2, 4, 8, 16, 32)
    assert (target.case.kv_heads, target.case.option) == (2, "causal")
    progress(event())  # there is no terminal: nothing is shown
    assert "not kept: nothing was confirmed by fresh measurements" in done.output


@pytest.mark.parametrize(
    ("arguments", "budget", "measurements"),
    [([], 30.0, None), (["--measurements", "5"], None, 5), (["--budget", "2"], 2.0, None)],
)
def test_a_search_ends_without_being_told_when(arguments, budget, measurements, monkeypatch):
    seen = {}
    monkeypatch.setattr(commands.tune, "search", lambda target, **options: seen.update(options) or result_of())
    assert run("matmul-t", "--shape=8", "--no-save", *arguments).exit_code == 0
    assert (seen["budget"], seen["max_measurements"]) == (budget, measurements)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["matmul-t", "--shape", "4x4"], "shape: expected N, MxKxN or BxMxKxN, each at least 1, got '4x4'"),
        (["matmul-t", "--shape", ""], "shape: expected N, MxKxN"),
        (["attention", "--shape", "1x2x3"], "shape: expected BxHxLxD or BxHxLqxLkxD"),
        (["attention", "--shape", "1x2x8x8:alibi"], "shape: expected no option but :causal, got :alibi"),
        (["matmul-t", "--shape=8", "--strategy=luck"], "strategy: expected one of grid, exhaustive"),
        (["matmul-t", "--shape=8", "--dtype=float16"], "dtype: expected one of float32, float64, got 'float16'"),
        (["matmul-t", "--shape=8", "--threads=0"], "threads: expected at least 1, got 0"),
        (["matmul-t", "--shape=8", "--isa=avx3"], "isa: expected a tier that this machine can run"),
        (["matmul-t", "--shape=8", "--cache=hot"], "cache: expected 'warm' or 'cold', got 'hot'"),
        (["matmul-t", "--shape=8", "--confidence=95"], "confidence: expected a number between 0.5 and 1, got 95.0"),
        (["matmul-t", "--shape=8", "--json=/nowhere/a.json"], "json: cannot write /nowhere/a.json"),
        (["matmul-t", "--shape=8", "--journal=/nowhere/a"], "journal: cannot write /nowhere/a"),
        (["matmul-t", "--shape=8", "--plot=a.txt"], "plot: expected a file ending in one of"),
        (["all", "--suite=everything"], "suite: expected one of"),
        (["all", "--operations=softmax"], "operation: expected one of matmul-t, attention, got 'softmax'"),
        (["all", "--markdown=/nowhere/a.md"], "markdown: cannot write"),
        (["compare", "--landscapes=moon"], "landscape: expected a file or one of"),
        (["compare", "--landscapes=no-such-file.json"], "no-such-file.json"),
        (["compare", "--landscapes=,"], "landscapes: expected names or numbers separated by commas, got ','"),
        (["record", "--output=/proc/nowhere"], "/proc/nowhere"),
        (["record", "--output=.", "--names=moon"], "names: expected some of"),
    ],
)
def test_bad_input(arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["matmul-t"], "--shape"),
        (["matmul-t", "--shape=8", "--budget=0"], "--budget"),
        (["matmul-t", "--shape=8", "--measurements=0"], "--measurements"),
        (["matmul-t", "--shape=8", "--seed=-1"], "--seed"),
        (["compare", "--runs=none"], "--runs"),
        (["record", "--output=.", "--rounds=0"], "--rounds"),
        (["record"], "--output"),
    ],
)
def test_options_of_a_wrong_kind(arguments, option):
    done = run(*arguments)
    assert done.exit_code == 2
    assert option in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_the_commands():
    output = run("--help").output
    for name in ("matmul-t", "attention", "all", "compare", "record"):
        assert name in output


def test_a_journal_of_another_search_is_refused(tmp_path):
    journal = f"--journal={tmp_path / 'journal'}"
    assert run("matmul-t", "--shape=8", *QUICK, journal).exit_code == 0
    done = run("matmul-t", "--shape=16", *QUICK, journal)
    assert done.exit_code == 2
    assert "journal" in done.stderr


def test_a_file_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(commands.tune, "search", lambda target, **options: result_of())

    def fail(self, path):
        raise OSError("the disk is full")

    monkeypatch.setattr(TuningResult, "to_json", fail)
    done = run("matmul-t", "--shape=8", "--no-save", f"--json={tmp_path / 'a.json'}")
    assert done.exit_code == 1
    assert "the disk is full" in done.stderr
    assert "speed-up" in done.stdout


def test_ctrl_c_prints_and_saves_the_best_so_far(tmp_path):
    journal, file = tmp_path / "journal", tmp_path / "out.json"
    command = [sys.executable, "-m", "transfuse", "tune", "matmul-t", "--shape=128", "--strategy=grid", "--cache=cold"]
    command += ["--budget=300", "--seed=1", f"--journal={journal}", f"--json={file}", "--no-save"]

    def heed_interrupts():  # which a shell's background jobs ignore, and their children too
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    ) as process:
        while not (journal.exists() and journal.read_text().count("\n") > 8) and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors == ""
    assert output.startswith("target     matmul_t 128³, float32")
    assert "stopped    interrupted" in output
    result = TuningResult.from_json(file)
    assert result.interrupted
    assert result.measurements >= 1


def test_ctrl_c_before_anything_was_measured(landscape, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    for name in ("search", "compare", "record_all"):
        monkeypatch.setattr(commands.tune, name, interrupt)
    for arguments in (["matmul-t", "--shape=8"], ["compare", f"--landscapes={landscape}"], ["record", "--output=."]):
        done = run(*arguments)
        assert done.exit_code == 130
        assert done.stdout == "interrupted: nothing was measured\n"


def event(**changes):
    """Half a search."""
    fields = {
        "phase": "search",
        "strategy": "race",
        "target": "matmul_t 64³, float32",
        "iteration": 3,
        "measurements": 50,
        "max_measurements": None,
        "seconds": 2.0,
        "budget": 10.0,
        "best": {"block_m": 64, "threads": 2},
        "best_seconds": 0.5e-3,
        "default_seconds": 1e-3,
        "alive": 4,
        "candidates": 9,
        "failed": 0,
    }
    return Progress(**(fields | changes))


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


def test_a_terminal_sees_the_search_and_then_the_result():
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "transfuse", "tune", "matmul-t", "--shape=8", *QUICK]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen(command, stdout=child, stderr=child, stdin=child, env=environment) as process:
        os.close(child)
        pieces = []
        with contextlib.suppress(OSError):  # the other side is closed
            while piece := os.read(parent, 65536):
                pieces.append(piece)
        assert process.wait() == 0
    os.close(parent)
    output = b"".join(pieces).decode()
    live, _, result = output.rpartition("target")
    assert "candidates" in live
    assert "alive" in live
    assert "\x1b[2K" in live  # it is wiped out
    assert "matmul_t 8³, float32" in result
    assert "confirmed" in result


def test_compare(landscape, tmp_path):
    pytest.importorskip("matplotlib")
    files = {name: tmp_path / f"out.{name}" for name in ("json", "md", "png")}
    options = ("--json", files["json"], "--markdown", files["md"], "--plot", files["png"])
    done = run("compare", "--runs=3", f"--landscapes={landscape}", "--strategies=grid,race", *options)
    assert done.exit_code == 0, done.output
    assert done.stdout.lstrip().startswith("strategies on recorded landscapes, 3 runs each")
    assert "\x1b" not in done.stdout
    grid, race = json.loads(files["json"].read_text())
    assert (grid["strategy"], grid["runs"], grid["measurements"]) == ("grid", 3, [40, 40, 40])
    assert race["regrets"] == [0.0, 0.0, 0.0]
    assert files["md"].read_text().count("\n") == 4
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def test_compare_chooses_the_landscapes(landscape, monkeypatch):
    seen = []
    monkeypatch.setattr(commands.tune, "landscapes", lambda: ["slope", "flat"])
    monkeypatch.setattr(commands.tune.Landscape, "load", lambda name: SimpleNamespace(name=name))
    monkeypatch.setattr(
        commands.tune, "compare", lambda names, landscapes, **options: seen.append((names, landscapes)) or []
    )
    run("compare")
    assert [(names, [one.name for one in landscapes]) for names, landscapes in seen] == [(None, ["slope"])]
    seen.clear()
    run("compare", "--flat", "--strategies=grid")
    assert [landscapes[0].name for _, landscapes in seen] == ["slope", "flat"]
    assert seen[0][0] == ["grid"]


def test_compare_keeps_what_it_has_when_interrupted(landscape, tmp_path, monkeypatch):
    rows = tune.compare(["grid"], [Landscape.load(landscape)], runs=2)
    answers = iter([rows])

    def compare(*arguments, **options):
        for answer in answers:
            return answer
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.tune, "compare", compare)
    done = run("compare", f"--landscapes={landscape},{landscape}", f"--markdown={tmp_path / 'a.md'}")
    assert done.exit_code == 130
    assert "slope" in done.stdout
    assert "grid" in (tmp_path / "a.md").read_text()


def test_record(tmp_path):
    done = run("record", f"--output={tmp_path / 'new'}", "--rounds=5", "--names=flat")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'new' / 'flat.json'}\n"
    assert Landscape.load(tmp_path / "new" / "flat.json").times.shape[0] == 5


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
        _, ratio = answers[target.name]
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
    assert [one.verdict for one in outcomes] == ["no choice", "faster", "default stays", "default stays"]
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
    assert report.counts(outcomes).startswith("faster: 1; the default stays: 2; undecided, so the default stays: 0;")


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
    assert [(target, best["block_m"]) for target, best, _, _ in kept] == [(targets[1], 64), (targets[2], 256)]
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
    done = run("matmul-t", "--shape=8")
    assert "kept for later calls: /home/wisdom.json" in done.stdout
    ((target, best, seconds, default_seconds),) = kept
    assert target.case.m == 8
    assert best == result_of().best
    assert (seconds, default_seconds) == (result_of().best_seconds, result_of().default_seconds)


@pytest.mark.parametrize("error", [OSError("read-only"), ValueError("wisdom is off")])
def test_what_cannot_be_kept_is_no_failure(error, monkeypatch):
    def keep(found):
        raise error

    monkeypatch.setattr(keeping, "keep", keep)
    monkeypatch.setattr(commands.tune, "search", lambda target, **options: result_of())
    done = run("matmul-t", "--shape=8")
    assert done.exit_code == 0
    assert f"not kept: {error}" in done.stdout


def test_sizes_by_which_calls_look_up():
    assert keeping.sizes_of(tune.MatmulT(2, 3, 4, batch=(5, 6))) == (30, 2, 3, 4)
    assert keeping.sizes_of(tune.MatmulT(2, 3, 4)) == (1, 2, 3, 4)
    target = tune.Attention(1, 8, 1, 64, keys=100, kv_heads=2, causal=True)
    assert keeping.sizes_of(target) == (1, 8, 2, 1, 100, 64, 1)


def test_what_is_kept_can_be_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFUSE_WISDOM", str(tmp_path / "wisdom.json"))
    target = tune.MatmulT(100, 200, 300, threads=2)
    best = target.default | {"block_m": 64, "threads": 1}
    assert str(keeping.keep([(target, best, 1e-3, 2e-3)])) == str(tmp_path / "wisdom.json")
    (entry,) = tune.Wisdom.load()
    assert (entry.operation, entry.dtype, tuple(entry.sizes)) == ("matmul_t", "float32", (1, 100, 200, 300))
    assert (entry.threads, entry.parameters["block_m"]) == (1, 64)
    assert (entry.seconds, entry.default_seconds) == (1e-3, 2e-3)
