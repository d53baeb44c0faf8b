"""``transfuse bench`` and ``transfuse demo`` as a user calls them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from processes import run_module

from transfuse import bench

QUICK = ("--peers", "numpy", "--threads", "1", "--seconds", "0.05", "--rounds", "5", "--repetitions", "1")


def test_a_small_run(tmp_path):
    pytest.importorskip("matplotlib")
    files = {name: tmp_path / f"out.{name}" for name in ("json", "md", "png")}
    outputs = ("--json", files["json"], "--markdown", files["md"], "--plot", files["png"])
    done = run_module("bench", "matmul-t", "--sizes", "4,8,2x3x4", *QUICK, *map(str, outputs))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    for label in ("4³ float32, 1 thread: transfuse", "8³", "2×3×4", "NumPy", "geometric mean", "verdict"):
        assert label in done.stdout
    report = bench.Report.load(files["json"])
    assert [line.label for line in report.lines] == ["4³", "8³", "2×3×4"]
    assert {"date", "kernel", "cpus", "libraries", "transfuse"} <= set(report.machine)
    assert "wisdom" not in report.machine["transfuse"], "a path of the user, in what is made to be shown to others"
    assert set(report.machine["libraries"]) == {"transfuse", "NumPy"}
    assert files["md"].read_text().count("\n") == 5
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def test_dtypes_and_threads(tmp_path):
    file = tmp_path / "out.json"
    done = run_module("bench", "matmul-t", "--sizes=4", "--dtype=float32,float64", *QUICK, f"--json={file}")
    assert done.returncode == 0, done.stderr
    assert [line["dtype"] for line in json.loads(file.read_text())["lines"]] == ["float32", "float64"]


def test_a_forced_tier(tmp_path):
    file = tmp_path / "out.json"
    done = run_module("bench", "matmul-t", "--sizes=256", "--isa=scalar", *QUICK, f"--json={file}")
    assert done.returncode == 0, done.stderr
    report = bench.Report.load(file)
    assert report.machine["tier"] == report.settings["isa"] == "scalar"
    assert "transfuse (scalar) against the fastest peer" in done.stdout


def test_a_library_without_out_is_compared_all_the_same(tmp_path):
    pytest.importorskip("jax")
    file = tmp_path / "out.json"
    options = ("--peers=jax", "--threads=1", "--seconds=0.2", "--rounds=5", "--repetitions=1", f"--json={file}")
    done = run_module("bench", "matmul-t", "--sizes=32", *options)
    assert done.returncode == 0, done.stderr
    assert "JAX" in done.stdout
    (line,) = bench.Report.load(file).lines
    assert line.headline == "allocated"
    assert line.ratio("allocated") is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "nunpy"], "peers: expected some of numpy, torch, numba"),
        (["--sizes", "0"], "sizes: expected N, MxKxN or BxMxKxN, each at least 1, got '0'"),
        (["--sizes", "-3"], "each at least 1, got '-3'"),
        (["--sizes", "4x4"], "each at least 1, got '4x4'"),
        (["--suite", "everything"], "suite: expected one of default"),
        (["--dtype", "float16"], "dtypes: expected some of float32, float64, got 'float16'"),
        (["--threads", "0"], "threads: expected 1 to"),
        (["--threads", "many"], "threads: expected numbers, got 'many'"),
        (["--threads", "100000"], "got 100000"),
        (["--isa", "avx1024"], "isa: "),
        (["--dtype", ""], "dtypes: expected at least one, got none"),
        (["--peers", ","], "peers: expected names or numbers separated by commas, got ','"),
        (["--sizes", ","], "sizes: expected names or numbers"),
        (["--plot", "picture"], "plot: expected a file ending in one of"),
        (["--json", "/nowhere/out.json"], "json: cannot write /nowhere/out.json"),
        (["--plot", "/"], "plot: expected a file, got the directory /"),
        (["--plot", "out.txt"], "plot: expected a file ending in one of"),
        (["--markdown", "/nowhere/table.md"], "markdown: cannot write"),
    ],
)
def test_bad_input(arguments, message):
    done = run_module("bench", "matmul-t", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_help_names_the_operations():
    assert "matmul-t" in run_module("bench").stdout + run_module("bench", "--help").stdout
    assert "--sizes" in run_module("bench", "matmul-t", "--help").stdout


def test_ctrl_c_prints_and_saves_what_there_is(tmp_path):
    file = tmp_path / "out.json"
    command = [
        sys.executable,
        "-m",
        "transfuse",
        "bench",
        "matmul-t",
        "--suite=squares",
        "--peers=numpy",
        "--threads=1",
    ]
    command += ["--seconds=0.05", "--repetitions=1", f"--json={file}"]

    def heed_interrupts():  # which a shell's background jobs ignore, and their children too
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    ) as process:
        first = process.stdout.readline()
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert first.startswith("1³ float32")
    assert "interrupted: the lines above are what was measured until then" in rest
    assert "Traceback" not in errors
    report = bench.Report.load(file)
    assert report.interrupted
    assert 1 <= len(report.lines) < 13


def test_demo(tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "demo.png"
    done = run_module("demo", "--seconds", "0.05", "--output", str(picture))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "Llama-2 rotary node" in done.stdout
    assert "BERT base" in done.stdout
    assert "(A·B)ᵀ: transfuse" in done.stdout
    assert "Attention: transfuse" in done.stdout
    assert f"picture: {picture}" in done.stdout
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("/nowhere/demo.png", "output: cannot write /nowhere/demo.png"),
        ("demo.txt", "output: expected a file ending in one of"),
    ],
)
def test_demo_refuses_a_bad_path(output, message):
    done = run_module("demo", "--output", output)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")


def test_a_terminal_without_unicode():
    done = run_module("bench", "matmul-t", "--sizes=4", *QUICK, environment={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "verdict" in done.stdout


def test_files_that_fail_do_not_take_others_with_them(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    options = (f"--json={folder / 'out.json'}", f"--markdown={tmp_path / 'out.md'}")
    with subprocess.Popen(
        [sys.executable, "-m", "transfuse", "bench", "matmul-t", "--sizes=4,8", *QUICK, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.readline()
        folder.rmdir()
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith(f"error: {folder / 'out.json'}: ")
    assert "verdict" in rest
    assert (tmp_path / "out.md").read_text().count("\n") == 4
