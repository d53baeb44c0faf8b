"""The commands ``transfuse wisdom``, and what ``transfuse info`` says of it."""

import json
import re

import pytest
import typer.testing
from processes import run_module
from wisdom_cases import SIZES, made, record, text

from transfuse.cli import app
from transfuse.tune import Wisdom


@pytest.fixture
def path(tmp_path, monkeypatch):
    path = tmp_path / "wisdom.json"
    monkeypatch.setenv("TRANSFUSE_WISDOM", str(path))
    monkeypatch.setenv("COLUMNS", "160")
    return path


def run(*arguments):
    """The exit code, and the lines of both outputs."""
    result = typer.testing.CliRunner().invoke(app, ["wisdom", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def test_path(path):
    assert run("path") == (0, f"{path}\n")


def test_show(path):
    assert run("show") == (0, f"0 entries for this machine, 0 for others, in {path}\n")
    wisdom = Wisdom()
    entry = record(wisdom, {"block_k": 9, "block_m": 32}, seconds=1e-3, default_seconds=1.5e-3)
    wisdom.put(entry._replace(machine=entry.machine._replace(cpu="Z80")))
    wisdom.save()
    code, output = run("show")
    assert code == 0
    for cell in ("matmul_t", entry.isa, "float32", "1×32×256×32", "block_k=9 block_m=32", "1.50"):
        assert cell in output
    assert output.splitlines()[-1] == f"1 entry for this machine, 1 for others, in {path}"


def test_show_says_what_calls_get(path):
    wisdom = Wisdom()
    record(wisdom, {"block_k": 77}, threads=1, seconds=1e-3, default_seconds=2e-3)
    record(wisdom, {"block_k": 100, "block_m": 33}, threads=2, seconds=1e-3, default_seconds=3e-3)
    wisdom.save()
    _, output = run("show")
    one, two = (line.split() for line in output.splitlines()[1:3])
    assert one[4:6] == ["1", "block_k=100"]
    assert "2.00" not in one, "that was measured with another one"
    assert two[4:8] == ["2", "block_k=100", "block_m=33", "3.00"]


def test_show_json(path, tmp_path):
    made(block_k=9).save()
    code, output = run("show", "--json")
    assert code == 0
    [entry] = json.loads(output)["entries"]
    assert entry["parameters"] == {"block_k": 9}
    assert entry["sizes"] == list(SIZES)
    (tmp_path / "shown.json").write_text(output)
    assert list(Wisdom.load(tmp_path / "shown.json")) == list(Wisdom.load())


def test_export_and_import(path, tmp_path):
    made(block_k=9).save()
    file = tmp_path / "exported.json"
    assert run("export", file) == (0, f"1 entry written to {file}\n")
    path.unlink()
    assert run("import", file) == (0, f"1 entry read, 1 of them for this machine, into {path}\n")
    assert [entry.parameters for entry in Wisdom.load()] == [{"block_k": 9}]


def test_forget(path):
    wisdom = made(block_k=9)
    record(wisdom, {"block_q": 9}, operation="attention", sizes=(1, 1, 1, 1, 1, 1, 1))
    wisdom.save()
    assert run("forget", "matmul-t", "--dtype", "float64") == (0, "0 entries forgotten\n")
    assert run("forget", "matmul-t") == (0, "1 entry forgotten\n")
    assert [entry.operation for entry in Wisdom.load()] == ["attention"]
    assert run("forget", "--all") == (0, "1 entry forgotten\n")
    assert len(Wisdom.load()) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("forget",), "expected an operation"),
        (("forget", "attention", "--all"), "expected an operation"),
        (("forget", "softmax"), "operation: expected matmul-t or attention, got 'softmax'"),
        (("forget", "--dtype=float99"), "dtype: expected one of float32, .*, got 'float99'"),
        (("forget", "--isa=sse"), "isa: expected one of scalar, .*, got 'sse'"),
        (("export", "/dev/null"), "not a regular file"),
        (("import", "missing.json"), "missing.json"),
        (("import", "/dev/null"), "not a regular file"),
        (("export", "/proc/transfuse/w.json"), "/proc/transfuse/w.json"),
        (("show", "more"), "more"),
        (("remember",), "remember"),
    ],
    ids=str,
)
def test_errors(path, arguments, message):
    code, output = run(*arguments)
    assert code == 2
    assert re.search(message, output)
    assert not path.exists()


def test_switched_off(path, monkeypatch, tmp_path):
    file = tmp_path / "exported.json"
    made(block_k=9).export(file)
    monkeypatch.setenv("TRANSFUSE_WISDOM", "off")
    assert run("show") == (0, "wisdom is switched off by TRANSFUSE_WISDOM\n")
    contents = file.read_text()
    for command in ("import", "export"):
        code, output = run(command, file)
        assert code == 2
        assert "TRANSFUSE_WISDOM" in output
    assert file.read_text() == contents


def test_a_file_with_faults(path):
    path.write_text(text(*made(block_k=9), threads=0))
    code, output = run("show")
    assert code == 0
    assert f"warning: wisdom: of {path} are ignored: entry 0: threads" in output


@pytest.mark.parametrize(
    ("value", "state"), [("off", "off (by TRANSFUSE_WISDOM)"), ("", "on, 1 entry for this machine")]
)
def test_info(path, monkeypatch, value, state):
    made(block_k=9).save()
    monkeypatch.setenv("TRANSFUSE_WISDOM", value or str(path))
    result = typer.testing.CliRunner().invoke(app, ["info"])
    assert state in result.output


@pytest.mark.parametrize("arguments", [("show",), ("path",), ("show", "--json")])
def test_plain_text_when_piped(path, arguments):
    made(block_k=9).save()
    done = run_module("wisdom", *arguments, environment={"TERM": "xterm-256color"})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
