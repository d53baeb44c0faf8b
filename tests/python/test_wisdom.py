"""The class Wisdom: recording, merging, saving, forgetting."""

import errno
import os
import stat

import filelock
import numpy as np
import pytest
from wisdom_cases import SIZES, current_tier, made, record, text

import transfuse
from transfuse import _wisdom
from transfuse.tune import Wisdom
from transfuse.tune import wisdom as module


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The user's file."""
    path = tmp_path / "cache" / "wisdom.json"
    monkeypatch.setenv("TRANSFUSE_WISDOM", str(path))
    return path


def parameters(wisdom):
    return [entry.parameters for entry in wisdom]


def test_an_entry(path):
    wisdom = Wisdom()
    entry = record(wisdom, {"block_k": np.int64(7)}, seconds=1e-3, default_seconds=2.5e-3)
    assert (entry.operation, entry.isa, entry.dtype, entry.threads) == ("matmul_t", current_tier(), "float32", 2)
    assert entry.parameters == {"block_k": 7}
    assert entry.sizes == SIZES
    assert entry.bucket == (1, 32, 256, 32)
    assert entry.speedup == 2.5
    assert entry.applies()
    assert list(wisdom) == [entry]
    assert repr(wisdom) == "<Wisdom: 1 entries, 1 of this machine>"


@pytest.mark.parametrize(("size", "bucket"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 4), (2**62 + 1, 2**62)])
def test_buckets(size, bucket):
    entry = record(Wisdom(), {}, sizes=(1, 1, size, 1))
    assert entry.bucket == (1, 1, bucket, 1)


@pytest.mark.parametrize(
    ("error", "message", "given"),
    [
        (ValueError, "operation", {"operation": "softmax"}),
        (ValueError, "isa", {"isa": "sse"}),
        (ValueError, "dtype", {"dtype": "int8"}),
        (ValueError, "sizes", {"sizes": (1, 2, 3)}),
        (ValueError, "sizes", {"sizes": (1, 2, 3, -4)}),
        (ValueError, "threads", {"threads": 0}),
        (ValueError, "block_k", {"parameters": {"block_k": 0}}),
        (ValueError, "block_m", {"parameters": {"block_m": 10**30}}),
        (ValueError, "block_q", {"parameters": {"block_q": 8}}),
        (ValueError, "neither", {"parameters": {"threads": 8}}),
        (TypeError, "block_k", {"parameters": {"block_k": 7.5}}),
        (ValueError, "seconds", {"seconds": float("nan")}),
        (ValueError, "default_seconds", {"default_seconds": -1.0}),
    ],
)
def test_what_is_recorded_is_checked(error, message, given):
    wisdom = Wisdom()
    with pytest.raises(error, match=message):
        record(wisdom, **({"parameters": {}} | given))
    assert len(wisdom) == 0


def test_one_entry_for_each_bucket_and_number_of_threads():
    wisdom = made(block_k=1)
    record(wisdom, {"block_k": 2}, sizes=(1, 63, 300, 33))
    assert parameters(wisdom) == [{"block_k": 2}]
    for other in ({"threads": 3}, {"sizes": (1, 64, 400, 50)}, {"dtype": "float64"}):
        record(wisdom, {"block_k": 3}, **other)
    assert len(wisdom) == 4


def test_round_trip(path):
    wisdom = made(block_k=7, block_m=30)
    record(
        wisdom, {"block_q": 8}, operation="attention", dtype="bfloat16", sizes=(1, 8, 2, 512, 512, 64, 1), seconds=2.0
    )
    assert wisdom.save() == path
    assert list(Wisdom.load()) == list(wisdom) == list(Wisdom.load(path))
    assert sorted(os.listdir(path.parent)) in (["wisdom.json"], ["wisdom.json", "wisdom.json.lock"])


def test_no_file_is_empty(path):
    assert len(Wisdom.load()) == len(Wisdom.load(path.parent / "other" / "file.json")) == 0


def test_the_newer_one_stays(path):
    older, newer = made(block_k=1), made(block_k=2)
    for first, second in ((older, newer), (newer, older)):
        both = Wisdom()
        both.merge(first)
        both.merge(second)
        assert parameters(both) == [{"block_k": 2}]
    newer.save()
    older.save()
    assert parameters(Wisdom.load()) == [{"block_k": 2}]


def test_an_entry_from_the_future_does_not_stay_for_ever(path):
    wisdom = made(block_k=1)
    (entry,) = wisdom
    wisdom.put(entry._replace(when=entry.when + 1e6))
    wisdom.save()
    made(block_k=2).save()
    assert parameters(Wisdom.load()) == [{"block_k": 2}]


def test_what_decides_nothing_stands_behind_all_others(path):
    nothing, proven = made(), made(block_k=2)
    (entry,) = nothing
    nothing.put(entry._replace(when=0.0))
    proven.save()
    nothing.save()
    assert parameters(Wisdom.load()) == [{"block_k": 2}]


def test_saving_adds_to_what_is_there(path):
    made(block_k=1).save()
    other = Wisdom()
    record(other, {"block_k": 2}, threads=5)
    other.save()
    assert parameters(Wisdom.load()) == [{"block_k": 1}, {"block_k": 2}]


def test_forgetting(path):
    def full():
        wisdom = made(block_k=1)
        record(wisdom, {"block_k": 2}, dtype="float64")
        record(wisdom, {"block_k": 3}, isa="scalar", threads=7)
        record(wisdom, {"block_q": 4}, operation="attention", sizes=(1, 1, 1, 1, 1, 1, 0))
        return wisdom

    assert [full().forget(*names) for names in ((), ("matmul_t",), ("attention",), ("softmax",))] == [4, 3, 1, 0]
    assert full().forget(dtype="float64") == full().forget("matmul_t", dtype="float64") == 1
    assert full().forget("attention", dtype="float64") == 0
    assert full().forget(isa="scalar", operation="matmul_t") in (1, 3)
    full().save()
    wisdom = Wisdom.load()
    assert wisdom.forget("matmul_t") == 3
    assert len(wisdom) == 1
    assert len(Wisdom.load()) == 4
    wisdom.save()
    assert parameters(Wisdom.load()) == [{"block_q": 4}]


def test_forgetting_leaves_what_another_process_has_found_since(path):
    made(block_k=1).save()
    wisdom = Wisdom.load()
    wisdom.forget()
    made(block_k=2).save()
    wisdom.save()
    assert parameters(Wisdom.load()) == [{"block_k": 2}]


def test_what_is_recorded_after_forgetting_stays(path):
    wisdom = made(block_k=1)
    wisdom.save()
    wisdom.forget()
    record(wisdom, {"block_k": 2})
    wisdom.save()
    assert parameters(Wisdom.load()) == [{"block_k": 2}]


def test_exporting_and_importing(path, tmp_path):
    file = tmp_path / "exported.json"
    made(block_k=1).export(file)
    made(block_k=2).export(file)  # replaces, does not merge
    wisdom = made(block_m=3)
    assert wisdom.import_file(file) == 1
    assert parameters(wisdom) == [{"block_m": 3}]
    assert Wisdom().import_file(file) == 1
    assert not path.exists()


def test_importing_what_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        Wisdom().import_file(tmp_path / "missing.json")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match=r"other\.json is ignored: not a file of wisdom"):
        Wisdom().import_file(tmp_path / "other.json")
    (tmp_path / "part.json").write_text(text(*made(block_k=1), threads=0))
    with pytest.warns(RuntimeWarning, match="threads"):
        assert Wisdom().import_file(tmp_path / "part.json") == 0


def test_applying(path, tuned, rng):
    a, b = rng.standard_normal((60, 400), np.float32), rng.standard_normal((400, 50), np.float32)
    default, expected = transfuse.matmul_t(a, b), transfuse.matmul_t(a, b, config={"block_k": 9})
    assert (default != expected).any()
    wisdom = made(block_k=9)
    np.testing.assert_array_equal(transfuse.matmul_t(a, b), default)
    assert wisdom.apply() == 1
    np.testing.assert_array_equal(transfuse.matmul_t(a, b), expected)


def test_the_newest_decides_what_affects_rounding(tuned):
    wisdom = Wisdom()
    record(wisdom, {"block_k": 5, "block_m": 1}, threads=2)
    record(wisdom, {"block_k": 6, "block_m": 2}, threads=1)
    wisdom.put(wisdom._entries.pop(next(iter(wisdom._entries))))  # in another order
    wisdom.apply()
    found = [tuned.find_tuned("matmul_t", current_tier(), "float32", SIZES, threads) for threads in (1, 2)]
    assert found == [{"block_k": 6, "block_m": 2}, {"block_k": 6, "block_m": 1}]


def test_entries_of_other_machines_are_kept_but_not_used(path, tuned):
    [entry] = made(block_k=9)
    for changed in ({"cpu": "Z80"}, {"cores": 10**6}, {"l2": 12345}):
        foreign = entry._replace(machine=entry.machine._replace(**changed))
        path.parent.mkdir(exist_ok=True)
        path.write_text(text(foreign))
        wisdom = Wisdom.load()
        assert list(wisdom) == [foreign]
        assert wisdom.apply() == 0
        made(block_k=8).save()
        assert len(Wisdom.load()) == 2


def test_switched_off(monkeypatch, tmp_path):
    monkeypatch.setenv("TRANSFUSE_WISDOM", "off")
    assert len(Wisdom.load()) == 0
    assert _wisdom.paths() == []
    with pytest.raises(ValueError, match="TRANSFUSE_WISDOM=off"):
        made(block_k=1).save()
    made(block_k=1).save(tmp_path / "named.json")
    assert len(Wisdom.load(tmp_path / "named.json")) == 1


def test_nobody_else_may_write(path):
    before = os.umask(0)
    try:
        made(block_k=1).save()
    finally:
        os.umask(before)
    for file in (path, *path.parent.iterdir(), path.parent):
        assert not stat.S_IMODE(file.stat().st_mode) & (stat.S_IWGRP | stat.S_IWOTH), file


def test_symbolic_links_stay(path, tmp_path):
    target = tmp_path / "target.json"
    path.parent.mkdir()
    path.symlink_to(target)
    with pytest.warns(RuntimeWarning, match="a symbolic link to nothing"):
        assert len(Wisdom.load()) == 0
    made(block_k=1).save()
    assert path.is_symlink()
    assert not target.is_symlink()
    assert len(Wisdom.load()) == 1


@pytest.mark.parametrize("contents", ["{", '{"schema": 99, "entries": []}'])
def test_what_cannot_be_read_is_kept_beside_it(path, contents):
    path.parent.mkdir()
    path.write_text(contents)
    with pytest.warns(RuntimeWarning, match=r"wisdom\.json is ignored"):
        made(block_k=1).save()
    assert len(Wisdom.load()) == 1
    assert (path.parent / "wisdom.json.old").read_text() == contents


def test_a_directory_in_its_place(path):
    path.mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match="cannot be written"):
        made(block_k=1).save()
    assert list(path.iterdir()) == []


def test_what_is_no_file_is_not_replaced_by_one(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    for write in (made(block_k=1).save, lambda: made(block_k=1).export(path)):
        with pytest.raises(OSError, match="cannot be written: not a regular file"):
            write()
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(path.parent.iterdir()) == [path]


def test_no_unreadable_file_is_lost(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    for contents in ("one", "two", "three"):
        path.write_text(contents)
        with pytest.warns(RuntimeWarning, match="not JSON"):
            made(block_k=1).save()
    olds = [path.with_name(f"{path.name}.old{number}").read_text() for number in ("", 2, 3)]
    assert olds == ["one", "two", "three"]


def test_what_is_undecided_replaces_nothing():
    wisdom = made(block_k=9)
    [known] = wisdom
    record(wisdom, {}, decided=False)
    assert list(wisdom) == [known]
    wisdom = Wisdom()
    record(wisdom, {}, decided=False)
    assert [entry.decided for entry in wisdom] == [False]
    record(wisdom, {"block_k": 7})
    assert [entry.parameters for entry in wisdom] == [{"block_k": 7}]


@pytest.mark.parametrize("file", ["/proc/transfuse/wisdom.json", "/dev/null/wisdom.json"])
def test_no_room_for_a_file(file):
    with pytest.raises(OSError, match=f"wisdom cannot be written: .*{file}"):
        made(block_k=1).save(file)
    with pytest.raises(OSError, match=f"wisdom cannot be written: .*{file}"):
        made(block_k=1).export(file)


def test_a_full_disk(path, monkeypatch):
    made(block_k=1).save()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        made(block_k=2).save()
    assert caught.value.errno == errno.ENOSPC
    assert parameters(Wisdom.load()) == [{"block_k": 1}]
    assert not [name for name in os.listdir(path.parent) if name.startswith(".")]


def test_a_lock_that_is_never_given_up(path, monkeypatch):
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.01)
    path.parent.mkdir()
    with filelock.FileLock(f"{path}.lock"), pytest.raises(TimeoutError, match="cannot be written"):
        made(block_k=1).save()


def test_too_many_entries(path, monkeypatch):
    monkeypatch.setattr(_wisdom, "LARGEST_FILE", 300)
    with pytest.raises(OSError, match="too large"):
        made(block_k=1).save()
    assert not path.exists()
