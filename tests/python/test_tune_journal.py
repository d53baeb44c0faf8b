"""Searches that end early and go on: the journal, a killed process, Ctrl-C, budgets."""

import fcntl
import json

import pytest
from processes import run_python
from tuning_machine import Machine

from transfuse import tune

SPACE = tune.Space({"a": [1, 2, 3, 4], "b": [1, 2, 3]})


def seconds(a, b):
    if (a, b) == (4, 3):
        raise RuntimeError("does not work")
    return 0.01 * (1 + abs(a - 3) + 0.3 * abs(b - 2))


def search(journal=None, *, machine=None, **options):
    machine = machine or Machine(seconds)
    options = {"seed": 5, "strategy": "race"} | options
    return tune.search(machine, SPACE, journal=journal, clock=machine.clock, **options)


def test_a_search_goes_on(tmp_path):
    whole = search(tmp_path / "whole")
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    measurements = [line for line in lines[1:] if json.loads(line)["seconds"] is not None]
    assert len(measurements) == whole.measurements
    for kept in (1, 2, 7, len(lines) - 1, len(lines)):
        path = tmp_path / f"{kept}"
        path.write_text("".join(lines[:kept]))
        again = search(path, machine=Machine(seconds, seed=1))
        count = sum(json.loads(line)["seconds"] is not None for line in lines[1:kept])
        assert again.observations[:count] == whole.observations[:count]
        assert path.read_text().startswith("".join(lines[:kept]))
    assert again.best == whole.best
    assert again.observations == whole.observations
    assert again.seconds == whole.seconds
    assert [c.reason for c in again.candidates] == [c.reason for c in whole.candidates]


def test_a_finished_search_measures_nothing_more(tmp_path):
    first = search(tmp_path / "journal")
    machine = Machine(seconds)
    assert search(tmp_path / "journal", machine=machine).best == first.best
    assert machine.calls == 0


def test_the_seed_is_that_of_the_journal(tmp_path):
    first = search(tmp_path / "journal", seed=None, strategy="grid", max_measurements=10)
    again = search(tmp_path / "journal", seed=None, strategy="grid", max_measurements=100)
    assert again.seed == first.seed
    assert again.observations[: first.measurements] == first.observations
    assert again.measurements > 10


def test_a_damaged_last_line_is_dropped(tmp_path):
    whole = search(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    last = content.rstrip().rfind(b"\n") + 1
    for end in (last + 1, len(content) - 5, len(content) - 1):
        path = tmp_path / str(end)
        path.write_bytes(content[:end])
        assert search(path).observations[:-1] == whole.observations[:-1]
        assert all(map(json.loads, path.read_text().splitlines()))


def test_a_journal_that_was_killed_in_its_header_begins_anew(tmp_path):
    path = tmp_path / "journal"
    search(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    search(path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "grid"}, "another search: expected strategy 'Grid"),
        ({"seed": 6}, "another search: expected seed 6, got 5"),
        ({"confidence": 0.9}, "another search: expected confidence 0.9, got 0.95"),
        ({"cache": "cold"}, "another search: expected cache 'cold', got 'warm'"),
        ({"default": {"a": 2}}, "another search: expected configurations"),
    ],
)
def test_a_journal_of_another_search_is_refused(tmp_path, options, message):
    path = tmp_path / "journal"
    search(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"journal: {path} is that of {message}"):
        search(path, **options)
    assert path.read_bytes() == before


def test_a_journal_of_another_target_is_refused(tmp_path):
    search(tmp_path / "journal")
    machine = Machine(seconds)
    with pytest.raises(ValueError, match="expected target 'other', got 'Machine'"):
        tune.search(tune.Function(machine, name="other"), SPACE, journal=tmp_path / "journal", seed=5)


@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b"hello\nworld\n",
        b'{"schema": 1}\nx\n{"index": 1}\n',
        b"\xff\xfe\n\n",
        b"3\n",
        b'{"$schema": "https://json-schema.org/schema"}',
        b'{"schema": {"type": "object"}}',
        b'{"a": 1}\n{"b": 2}',
        b'{"seed": null}\n',
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"journal: (line \\d of )?{path} is"):
        search(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("change", [{"index": "0"}, {"elapsed": None}, {"reference": None}, {"seconds": None}])
def test_a_damaged_line_is_refused(tmp_path, change):
    path = tmp_path / "journal"
    search(path)
    lines = path.read_text().splitlines()
    lines[3] = json.dumps(json.loads(lines[3]) | change)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=f"journal: line 4 of {path} is none that a search has written"):
        search(path)


def test_two_searches_do_not_share_a_journal(tmp_path):
    path = tmp_path / "journal"
    search(path)
    before = path.read_bytes()
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=f"journal: another search writes to {path}"):
            search(path)
    assert path.read_bytes() == before


def test_an_anonymous_function_has_no_journal(tmp_path):
    with pytest.raises(ValueError, match=r"target: expected a name where there is a journal, got .*<lambda>"):
        tune.search(lambda a: 0, tune.Space({"a": [1, 2]}), journal=tmp_path / "journal")
    assert not (tmp_path / "journal").exists()


def test_another_budget_goes_on_from_where_it_makes_a_difference(tmp_path):
    path = tmp_path / "journal"
    short = search(path, max_measurements=15)
    assert {observation.phase for observation in short.observations} == {"search", "validation"}
    long = search(path)
    searched = [observation for observation in short.observations if observation.phase == "search"]
    assert long.observations[: len(searched)] == searched
    assert search(path, machine=Machine(seconds, seed=9)).observations == long.observations


def test_a_killed_process_goes_on(tmp_path):
    program = """
        import os, signal, sys
        sys.path.insert(0, sys.argv[2])
        from test_tune_journal import Machine, search, seconds
        machine = Machine(seconds)
        def killing(progress):
            if progress.measurements == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
        print(search(sys.argv[1], machine=machine, progress=killing).best)
    """
    folder, path = str(__file__).rsplit("/", 1)[0], tmp_path / "journal"
    died = run_python(program, str(path), folder, "9", check=False)
    assert died.returncode == -9
    kept = path.read_text()
    assert kept.count('"seconds"') >= 9
    whole = search(tmp_path / "whole")
    assert (tmp_path / "whole").read_text().startswith(kept)
    assert search(path).observations[:9] == whole.observations[:9]
    assert path.read_text().startswith(kept)


@pytest.mark.parametrize("strategy", tune.STRATEGIES)
@pytest.mark.parametrize("at", [1, 5, 13])
def test_ctrl_c_returns_the_best_so_far(strategy, at):
    def interrupting(progress):
        if progress.measurements == at and progress.phase != "done":
            raise KeyboardInterrupt

    result = search(strategy=strategy, progress=interrupting)
    assert result.interrupted
    assert result.stopped == "interrupted"
    assert result.measurements == sum(iteration.measurements for iteration in result.history) == at
    assert result.best in [candidate.configuration for candidate in result.candidates]
    assert not result.validated


@pytest.mark.parametrize("strategy", tune.STRATEGIES)
@pytest.mark.parametrize("most", [1, 2, 11, 12, 13, 20])
def test_measurements_are_not_exceeded(strategy, most):
    result = search(strategy=strategy, max_measurements=most)
    assert result.measurements == sum(iteration.measurements for iteration in result.history) <= most
    if result.stopped != "budget":
        assert result.measurements <= most
    else:
        assert result.measurements >= 0.7 * most - 1


@pytest.mark.parametrize("strategy", tune.STRATEGIES)
def test_no_measurement_begins_after_the_budget(strategy):
    machine = Machine(seconds, outliers=0)
    longest = 4 * 0.045  # preparing a candidate takes a call to check it, one to estimate, one to warm up
    for budget in (0.05, 0.5, 1.0):
        start = machine.now
        result = search(machine=machine, strategy=strategy, budget=budget)
        assert machine.now - start < budget + 2 * longest
        assert result.seconds == pytest.approx(machine.now - start)


def test_the_budget_counts_what_was_used_before(tmp_path):
    path = tmp_path / "journal"
    assert search(path, budget=0.6).stopped == "budget"
    machine = Machine(seconds)
    again = search(path, machine=machine, budget=0.6)
    assert again.stopped == "budget"
    assert machine.now < 0.2
