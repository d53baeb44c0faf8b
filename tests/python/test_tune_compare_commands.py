"""``transfuse tune compare`` and ``transfuse tune record``."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from tuning_commands import run

from transfuse import tune
from transfuse.tune import Landscape, commands


@pytest.fixture
def landscape(tmp_path):
    """A file with four configurations, of which the last is the best by 20 %."""
    rng = np.random.default_rng(0)
    times = np.array([1.0, 1.1, 1.3, 0.8]) * np.exp(0.02 * rng.standard_normal((50, 4))) * 1e-3
    parameters = {"block": [1, 2, 3, 4]}
    file = tmp_path / "slope.json"
    Landscape("slope", {}, parameters, [{"block": i} for i in parameters["block"]], 0, times).save(file)
    return file


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
    assert [(strategy.name, landscape.name) for [strategy], [landscape] in seen] == [
        (name, "slope") for name in ("default", *tune.STRATEGIES)
    ]
    seen.clear()
    run("compare", "--flat", "--strategies=grid,default")
    assert [(strategy.name, landscape.name) for [strategy], [landscape] in seen] == [
        (strategy, landscape) for landscape in ("slope", "flat") for strategy in ("grid", "default")
    ]


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
