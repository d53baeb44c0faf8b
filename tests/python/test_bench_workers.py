"""The worker protocol, with libraries that misbehave; see fake_peers."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_peers
import pytest
from fake_peers import path

from transfuse import bench
from transfuse.bench import Entry, libraries, measure, pool
from transfuse.bench.pool import NotQuiet, Pool, RequestFailed, TooSlow, Worker, WorkerDied

QUICK = bench.Settings(seconds=0.3, rounds=6, repetitions=1)


@pytest.fixture
def compare(monkeypatch):
    """Compare doubling with fake libraries."""
    monkeypatch.setitem(libraries.PATHS, "transfuse", path(fake_peers.Ours))

    def compare(*peers, sizes=("100",), settings=QUICK, **options):
        chosen = {peer.name: path(peer) for peer in peers}
        return bench.run(
            fake_peers.OPERATION, sizes, peers=chosen, threads=options.pop("threads", [1]), settings=settings, **options
        )

    return compare


def entries(line, library):
    """A library's entries."""
    return [entry for entry in line.entries if entry.library == library]


def children():
    """The worker processes that this one has started and not yet waited for."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"transfuse.bench.worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return found


def test_an_honest_peer(compare):
    report = compare(fake_peers.Honest, sizes=("100", "1000"))
    assert [line.label for line in report.lines] == ["100 numbers", "1000 numbers"]
    for line in report.lines:
        assert [entry.state for entry in line.entries] == ["measured"] * 4
        assert all(0 < entry.seconds < 0.01 and entry.error == 0 for entry in line.entries)
        assert line.fastest_peer("out").library == "honest"
        assert line.ratio("out").low <= line.ratio("out").value <= line.ratio("out").high
        assert line.ratio("allocated") is not None
        assert len(line.clean) == len(line.groups) == len(line.peak_flops) == len(line.peak_bytes) >= 5
        assert min(line.peak_flops) > 0
    assert report.absent == {}
    assert not report.interrupted
    assert children() == []


def test_a_spinning_peer_is_quiet_while_another_is_timed():
    with Pool({"spinner": path(fake_peers.Spinner), "honest": path(fake_peers.Honest)}, 1, {}) as pool:
        for name in ("spinner", "honest"):
            pool.start(name)
            pool.ask(name, "start", seconds=30)
            request = {"path": fake_peers.OPERATION.path, "case": {"size": 10}, "dtype": "float32", "seed": 0}
            pool.ask(name, "load", seconds=30, **request)
            pool.ask(name, "prepare", seconds=30, form=0)
        with pool.alone("spinner") as spinner:
            spinner.ask("call", seconds=30, form=0)
            before = spinner.cpu_seconds()
            time.sleep(0.1)
            assert spinner.cpu_seconds() > before + 0.02, "the fake does not spin"
        with pool.alone("honest") as honest:
            before, own = spinner.cpu_seconds(), honest.cpu_seconds()
            answer = honest.ask("sample", seconds=30, form=0, calls=50_000, warm=True)
            assert spinner.cpu_seconds() == before
            assert honest.cpu_seconds() > own + 0.5 * 50_000 * answer["seconds"]


def test_a_worker_that_cannot_be_stopped_is_named(monkeypatch):
    monkeypatch.setattr(pool, "QUIET_SECONDS", 0.2)
    with Pool({"spinner": path(fake_peers.Spinner), "honest": path(fake_peers.Honest)}, 1, {}) as started:
        started.start("spinner")
        started.start("honest")
        ticks = itertools.count()
        monkeypatch.setattr(started._workers["spinner"], "cpu_seconds", lambda: next(ticks))
        with pytest.raises(NotQuiet, match="spinner goes on computing"):
            started.ask("honest", "start", seconds=30)


def test_a_spinning_peer_takes_part(compare):
    report = compare(fake_peers.Spinner, fake_peers.Honest)
    (line,) = report.lines
    assert {entry.state for entry in entries(line, "honest")} == {"measured"}
    assert len(entries(line, "spinner")) == 2


def test_a_crashing_peer_is_named_on_every_line(compare):
    report = compare(fake_peers.Crasher, fake_peers.Honest, sizes=("10", "20"))
    for line in report.lines:
        first, second = entries(line, "crasher")
        assert first.state == second.state == "failed"
        assert "SIGSEGV" in first.note
        assert line.fastest_peer("out").library == "honest"
        assert line.ratio("out") is not None
    assert children() == []


def test_a_peer_that_crashes_in_a_round(compare):
    report = compare(fake_peers.LateCrasher, fake_peers.Honest)
    (line,) = report.lines
    assert {entry.state for entry in entries(line, "late-crasher")} == {"failed"}
    assert line.fastest_peer("out").library == "honest"
    assert all(entry.state == "measured" for entry in entries(line, "transfuse"))


def test_a_form_that_fails_in_a_round_leaves_the_others(compare):
    report = compare(fake_peers.LateRaiser)
    (line,) = report.lines
    given, allocated = entries(line, "late-raiser")
    assert given.state == "failed"
    assert given.note == "ValueError: enough"
    assert allocated.state in ("measured", "left")


def test_wrong_numbers_of_ours_are_no_result(compare, monkeypatch):
    monkeypatch.setitem(libraries.PATHS, "transfuse", path(fake_peers.OursWrong))
    (line,) = compare(fake_peers.Honest).lines
    assert line.ratio("out") is None
    assert line.verdict.startswith("transfuse failed: its result is off by 1")


def test_ours_must_start(compare, monkeypatch):
    monkeypatch.setitem(libraries.PATHS, "transfuse", path(fake_peers.OursBroken))
    with pytest.raises(RuntimeError, match="transfuse cannot be started: ImportError: libours"):
        compare(fake_peers.Honest)
    assert children() == []


def test_a_case_too_large_for_the_machine_is_a_note(compare):
    report = compare(fake_peers.Honest, sizes=("10", str(10**15), "20"))
    assert report.lines[1].verdict.startswith("not measured: MemoryError: Unable to allocate")
    assert [line.ratio("out") is None for line in report.lines] == [False, True, False]


def test_the_worker_of_the_limits_may_die(compare, monkeypatch):
    class Dying(measure.Bench):
        def _make_reference(self, line, request):
            if line.label == "10 numbers":
                os.kill(self._pool._workers[measure.LIMITS].pid, signal.SIGKILL)
            super()._make_reference(line, request)

    monkeypatch.setattr(bench.compare, "Bench", Dying)
    first, second = compare(fake_peers.Honest, sizes=("10", "20")).lines
    assert first.verdict == "not measured: its process ended (SIGKILL)"
    assert second.ratio("out") is not None


def test_wrong_numbers_do_not_count(compare):
    report = compare(fake_peers.Liar, fake_peers.Honest)
    (line,) = report.lines
    assert [entry.state for entry in entries(line, "liar")] == ["wrong", "wrong"]
    assert entries(line, "liar")[0].error == pytest.approx(1)
    assert entries(line, "liar")[0].note.startswith("its result is off by 1")
    assert line.fastest_peer("out").library == "honest"


def test_only_wrong_peers_leave_nothing_to_compare_with(compare):
    (line,) = compare(fake_peers.Liar).lines
    assert line.ratio("out") is None
    assert line.verdict == "no peer to compare with"


def test_a_slow_peer_is_stopped_and_not_tried_on_more(compare, monkeypatch):
    monkeypatch.setattr(measure, "CALL_SECONDS", 0.3)
    start = time.monotonic()
    report = compare(fake_peers.Sleeper, fake_peers.Honest, sizes=("10", "20", "5"))
    assert time.monotonic() - start < 25
    states = [[entry.state for entry in entries(line, "sleeper")] for line in report.lines]
    assert states == [["stopped"] * 2] * 3
    notes = [entries(line, "sleeper")[0].note for line in report.lines]
    assert notes[0] == notes[2] == "a call takes more than 0.3 s"
    assert notes[1] == "a smaller case took more than 0.3 s a call"
    assert all(line.ratio("out") is not None for line in report.lines)


def test_what_a_peer_prints_is_no_answer(compare):
    (line,) = compare(fake_peers.Chatterbox, fake_peers.Honest).lines
    assert len(entries(line, "chatterbox")) == 2
    assert {entry.state for entry in entries(line, "chatterbox")} <= {"measured", "left"}


def test_an_exception_is_a_note(compare):
    (line,) = compare(fake_peers.Raiser, fake_peers.Honest).lines
    assert entries(line, "raiser")[0].state == "failed"
    assert entries(line, "raiser")[0].note == "NotImplementedError: doubling is not supported"


def test_absent_and_broken_peers_are_named(compare):
    report = compare(fake_peers.Broken, fake_peers.Absent, fake_peers.Honest)
    assert report.absent["absent"] == "not installed (pip install surely_not_installed)"
    assert report.absent["broken"] == "ImportError: libbroken.so.1: cannot open shared object file"
    assert report.lines[0].ratio("out") is not None


def test_no_peer_starts(compare):
    with pytest.raises(RuntimeError, match=r"peers: none could be started .*libbroken"):
        compare(fake_peers.Broken)
    assert children() == []


def test_no_peer_left(compare):
    with pytest.raises(ValueError, match=r"peers: none left to compare with \(absent: not installed"):
        compare(fake_peers.Absent)
    with pytest.raises(ValueError, match="none was named"):
        compare()


def test_ctrl_c_in_the_middle_of_a_line(compare):
    def interrupt(text):
        if text.startswith("20 numbers") and "round 2" in text:
            raise KeyboardInterrupt

    report = compare(fake_peers.Honest, sizes=("10", "20", "30"), progress=interrupt)
    assert report.interrupted
    assert [line.label for line in report.lines] == ["10 numbers", "20 numbers"]
    assert [line.complete for line in report.lines] == [True, False]
    assert report.lines[1].verdict == "undecided: too few rounds"
    assert children() == []


def test_ctrl_c_before_anything_is_measured(compare):
    def interrupt(text):
        raise KeyboardInterrupt

    report = compare(fake_peers.Honest, progress=interrupt)
    assert report.interrupted
    assert report.lines == []
    assert children() == []


def test_an_error_leaves_no_process(compare):
    def fail(text):
        raise RuntimeError("the terminal is gone")

    with pytest.raises(RuntimeError, match="the terminal is gone"):
        compare(fake_peers.Honest, progress=fail)
    assert children() == []


@pytest.mark.parametrize(("close", "groups"), [(True, {0, 1, 2}), (False, {0})])
def test_close_lines_are_repeated(compare, monkeypatch, close, groups):
    asked = []
    monkeypatch.setattr(measure, "is_close", lambda line: asked.append(line) or close)
    (line,) = compare(fake_peers.Honest, settings=bench.Settings(seconds=0.3, rounds=5, repetitions=3)).lines
    assert set(line.groups) == groups
    assert line.groups == sorted(line.groups)
    assert all(len(entry.samples) <= len(line.clean) for entry in line.entries)
    assert len(line.entries) == 4
    assert len(asked) == 1, "asking again after each repetition would stop at the first lucky one"


def runner(library, seconds, *, out=True):
    """An entry that takes so long."""
    return measure._Runner(Entry(library, f"{library}({seconds}, {out})", out), 0, seconds)


def test_what_is_affordable():
    ours, ours_allocated = runner("transfuse", 1.0), runner("transfuse", 1.0, out=False)
    first, second = runner("numpy", 1.1), runner("numpy", 1.2)
    other, slow, allocated = runner("torch", 1.3), runner("numba", 4.0), runner("numpy", 1.0, out=False)
    everyone = [ours, ours_allocated, first, second, other, slow, allocated]
    assert measure.affordable(everyone, 100) == everyone
    assert measure.affordable(everyone, 8.7) == [ours, first, second, other, slow]
    assert (allocated.entry.state, slow.entry.state) == ("left", "measured")
    assert measure.affordable(everyone, 7.5) == [ours, first, other, slow]
    assert measure.affordable(everyone, 1.0) == [ours, first, other], "peers that could be the fastest stay"
    assert slow.entry.state == "left"
    only = [runner("transfuse", 1.0, out=False), runner("jax", 1.0, out=False)]
    assert measure.affordable(only, 0.1) == only


def test_hopeless_forms_leave():
    ours, fast, near, slow = runner("transfuse", 1), runner("numpy", 1), runner("torch", 1), runner("numba", 1)
    for one, seconds in ((ours, 9.0), (fast, 1.0), (near, 1.4), (slow, 1.6)):
        one.entry.samples = [seconds] * 3
    assert measure.without_hopeless([ours, fast, near, slow]) == [ours, fast, near]
    assert slow.entry.state == "left"


def test_workers_are_pinned(compare):
    allowed = sorted(os.sched_getaffinity(0))
    assert libraries.pin_to(len(allowed)) is None
    if len(allowed) > 1:
        assert libraries.pin_to(1) == {allowed[-1]}


def test_worker_errors():
    worker = Worker(path(fake_peers.Honest), 1)
    try:
        with pytest.raises(RequestFailed, match="AttributeError"):
            worker.ask("dance", seconds=30)
        worker.pause()
        with pytest.raises(TooSlow, match=r"no answer within 0\.01 s"):
            worker.ask("start", seconds=0.01)
        worker.resume()
        assert worker.receive(seconds=30) == {}  # the answer that came late
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"its process ended \(SIGKILL\)"):
            worker.ask("start", seconds=30)
        assert worker.cpu_seconds() >= 0
    finally:
        worker.close()


def test_workers_end_with_their_parent():
    program = """
        import sys, time
        from transfuse.bench.pool import Pool
        with Pool({"numpy": "transfuse.bench.libraries:Library"}, 1, {}) as pool:
            pool.start("numpy")  # and it stands still from now on
            print(pool._workers["numpy"].pid, flush=True)
            time.sleep(60)
    """
    text = "\n".join(line[8:] for line in program.splitlines())
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":  # ended, and nobody has waited for it
            return
        time.sleep(0.05)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")
