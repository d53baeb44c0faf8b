"""``transfuse tune`` as a user calls it. What is timed here does not matter, only what becomes of it."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from processes import run_module
from tuning_commands import event, run
from tuning_results import result_of

from transfuse.tune import TuningResult, commands

QUICK = ("--measurements", "20", "--seed", "1", "--no-save")


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


def test_ctrl_c_before_anything_was_measured(monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    for name in ("search", "compare", "record_all"):
        monkeypatch.setattr(commands.tune, name, interrupt)
    for arguments in (["matmul-t", "--shape=8"], ["compare", "--landscapes=flat"], ["record", "--output=."]):
        done = run(*arguments)
        assert done.exit_code == 130
        assert done.stdout.startswith("interrupted: ")
        assert "traceback" not in done.stderr.lower()


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
