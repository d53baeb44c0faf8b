"""info() and the command line."""

import importlib.metadata
import json
import os
import pathlib
import sys

import numpy as np
import pytest
import typer.testing
from processes import run_module

import transfuse
from transfuse.cli import app


@pytest.fixture
def run():
    """Runs the command line in this process."""
    runner = typer.testing.CliRunner()
    return lambda *arguments: runner.invoke(app, arguments)


def test_parts():
    assert list(transfuse.info()) == ["isa", "cpu", "threads", "openmp", "wisdom", "versions"]


def test_isa():
    isa = transfuse.info()["isa"]
    assert isa["built"] == ("scalar", "avx2", "avx512")
    assert isa["available"] == isa["built"][: len(isa["available"])]
    assert isa["available"][0] == "scalar"
    assert isa["current"] in isa["available"]
    assert isa["source"] == ("TRANSFUSE_ISA" if os.environ.get("TRANSFUSE_ISA") else "detected")


def test_cpu():
    cpu = transfuse.info()["cpu"]
    assert isinstance(cpu["model"], str)
    assert cpu["features"]
    assert all(isinstance(name, str) and isinstance(value, bool) for name, value in cpu["features"].items())
    assert list(cpu["caches"]) == ["l1d", "l2", "l3"]
    sizes = [size for size in cpu["caches"].values() if size]
    assert sizes == sorted(sizes)
    assert all(isinstance(size, int) for size in cpu["caches"].values())


@pytest.mark.parametrize(
    ("tier", "needs"),
    [
        ("avx2", ["avx2", "fma", "f16c"]),
        ("avx512", ["avx2", "fma", "f16c"] + [f"avx512_{x}" for x in ["f", "bw", "dq", "vl"]]),
    ],
)
def test_tiers_follow_from_the_features(tier, needs):
    info = transfuse.info()
    assert (tier in info["isa"]["available"]) == all(info["cpu"]["features"][name] for name in needs)


def test_features_are_those_of_the_kernel():
    # Linux's names, where it lists any.
    names = {
        "avx2": "avx2",
        "fma": "fma",
        "f16c": "f16c",
        "avx512_f": "avx512f",
        "avx512_bw": "avx512bw",
        "avx512_dq": "avx512dq",
        "avx512_vl": "avx512vl",
        "avx512_vnni": "avx512_vnni",
        "avx512_bf16": "avx512_bf16",
        "avx_vnni": "avx_vnni",
        "amx_tile": "amx_tile",
    }
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), None)
    if flags is None:
        pytest.skip("the kernel lists no flags")
    features = transfuse.info()["cpu"]["features"]
    assert {name: features[name] for name in names} == {name: flag in flags for name, flag in names.items()}


def test_threads():
    threads = transfuse.info()["threads"]
    assert 1 <= threads["default"] <= len(os.sched_getaffinity(0))
    assert threads["source"] in {"OpenMP", "CPU affinity", "cgroup quota"}


def test_openmp():
    path = pathlib.Path(transfuse.info()["openmp"]["runtime"])
    assert path.name.startswith("libgomp")
    assert path.exists()


def test_wisdom():
    path = pathlib.Path(transfuse.info()["wisdom"])
    assert path.is_absolute()
    assert path.name == "wisdom.json"
    assert path.parent.name == "transfuse"


def test_versions():
    versions = transfuse.info()["versions"]
    assert versions["transfuse"] == transfuse.__version__ == importlib.metadata.version("transfuse")
    assert versions["numpy"] == np.__version__
    assert versions["python"] == sys.version.split()[0]
    assert versions["compiler"].split()[0] in {"GCC", "Clang"}


def test_command_info(run):
    result = run("info")
    assert result.exit_code == 0
    info = transfuse.info()
    lines = {line.split("  ")[0].strip() for line in result.output.splitlines()}
    assert {"transfuse", "tier", "tiers", "CPU", "features", "caches", "threads", "OpenMP", "wisdom"} <= lines
    assert transfuse.__version__ in result.output
    assert info["isa"]["current"] in result.output


def test_command_info_json(run):
    result = run("info", "--json")
    assert result.exit_code == 0
    assert json.loads(result.output) == json.loads(json.dumps(transfuse.info()))


def test_command_version(run):
    result = run("--version")
    assert result.exit_code == 0
    assert result.output == f"{transfuse.__version__}\n"


def test_no_command_shows_help(run):
    result = run()
    assert "Usage" in result.output
    assert "info" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("arguments", [("inform",), ("info", "--xml"), ("info", "extra"), ("--versions",)])
def test_wrong_commands(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("columns", ["20", "40", "200"])
@pytest.mark.parametrize("arguments", [("info",), ("info", "--json"), ("--version",)])
def test_plain_text_when_piped(arguments, columns):
    done = run_module(*arguments, environment={"COLUMNS": columns, "TERM": "xterm-256color"})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert transfuse.__version__ in done.stdout


def test_nothing_is_lost_on_a_narrow_terminal():
    narrow = run_module("info", environment={"COLUMNS": "40"}).stdout
    values = "".join(line[12:].strip() for line in narrow.splitlines())  # without the column of names
    for path in (transfuse.info()["wisdom"], transfuse.info()["openmp"]["runtime"]):
        assert path in values


def test_json_is_for_machines_whatever_the_terminal():
    done = run_module("info", "--json", environment={"COLUMNS": "10", "FORCE_COLOR": "1"})
    assert json.loads(done.stdout)["versions"]["transfuse"] == transfuse.__version__
