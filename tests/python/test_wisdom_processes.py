"""Wisdom across processes: the first call loads it, and nothing that is wrong with it disturbs a call."""

import concurrent.futures
import sys

import numpy as np
import pytest
from processes import run_python
from wisdom_cases import made, record, text

import transfuse
from transfuse.tune import Wisdom

CALL = """
import sys
import numpy as np, transfuse
a, b = (np.random.default_rng(i).standard_normal(s, np.float32) for i, s in enumerate([(60, 400), (400, 50)]))
q, k = (np.random.default_rng(i).standard_normal(s, np.float32) for i, s in enumerate([(4, 90, 32), (4, 500, 32)]))
def bits(**options):
    result = transfuse.matmul_t(a, b, **options).tobytes() + transfuse.attention(q, k, k, **options).tobytes()
    return hash_of(result)
def hash_of(result):
    import hashlib
    return hashlib.sha256(result).hexdigest()
"""
PRODUCT, ATTENTION = (1, 60, 400, 50), (1, 4, 4, 90, 500, 32, 0)


def wisdom_of_both(**other):
    wisdom = Wisdom()
    record(wisdom, {"block_k": 9, "block_m": 16}, sizes=PRODUCT, **other)
    record(wisdom, {"block_kv": 24, "block_q": 16}, operation="attention", sizes=ATTENTION, **other)
    return wisdom


def run(program, path, **options):
    environment = {"TRANSFUSE_WISDOM": str(path)} | options.pop("environment", {})
    return run_python(CALL + program, environment=environment, **options).stdout.split()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "wisdom.json"


@pytest.fixture
def default(path):
    """The bits without any wisdom."""
    return run("print(bits())", "off")


def test_another_process_uses_it(path, default):
    wisdom_of_both().save(path)
    product = 'transfuse.matmul_t(a, b, config={"block_k": 9})'
    attended = 'transfuse.attention(q, k, k, config={"block_kv": 24})'
    explicit = run(f"print(hash_of({product}.tobytes() + {attended}.tobytes()))", "off")
    assert explicit != default
    assert run("print(bits())", path) == explicit
    assert run("print(bits())", "off") == default
    found = f"""
from transfuse import _core
tier = transfuse.info()["isa"]["current"]
print(_core.find_tuned("matmul_t", tier, "float32", {PRODUCT})["block_k"])
print(_core.find_tuned("attention", tier, "float32", {ATTENTION})["block_q"])
"""
    assert run(found, path) == ["9", "16"]


def test_the_same_bits_for_every_number_of_threads(path, default):
    wisdom = wisdom_of_both(threads=1)
    record(wisdom, {"block_k": 11, "block_m": 30}, sizes=PRODUCT, threads=2)
    record(wisdom, {"block_kv": 40, "block_q": 20}, operation="attention", sizes=ATTENTION, threads=3)
    wisdom.save(path)
    bits = run("print(*(bits(num_threads=n) for n in (None, 1, 2, 3, 8)))", path)
    assert len(bits) == 5
    assert len(set(bits)) == 1
    assert bits[:1] != default


def test_what_one_user_could_not_decide_leaves_that_of_all(tmp_path):
    places = {"TRANSFUSE_WISDOM": None, "XDG_CACHE_HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "etc")}
    known, unknown = Wisdom(), Wisdom()
    record(known, {"block_k": 77}, sizes=PRODUCT, threads=1)
    record(unknown, {}, sizes=PRODUCT, threads=2, decided=False)
    known.save(tmp_path / "etc" / "transfuse" / "wisdom.json")
    unknown.save(tmp_path / "transfuse" / "wisdom.json")
    tier = transfuse.info()["isa"]["current"]
    found = f'from transfuse import _core\nprint(_core.find_tuned("matmul_t", "{tier}", "float32", {PRODUCT}, 1))'
    assert run(found, None, environment=places) == ["{'block_k':", "77}"]


def test_the_usual_places(tmp_path, default):
    environment = {
        "TRANSFUSE_WISDOM": None,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "XDG_CONFIG_DIRS": str(tmp_path / "etc"),
    }
    assert run("print(bits())", None, environment=environment) == default
    assert list(tmp_path.iterdir()) == []
    for_all = tmp_path / "etc" / "transfuse" / "wisdom.json"
    wisdom_of_both().save(for_all)
    for_all_users = run("print(bits())", None, environment=environment)
    assert for_all_users != default
    own = tmp_path / "cache" / "transfuse" / "wisdom.json"
    [path] = run('print(transfuse.info()["wisdom"])', None, environment=environment)
    assert path == str(own)
    wisdom = Wisdom()
    record(wisdom, {"block_k": 13}, sizes=PRODUCT, threads=7)
    wisdom._entries = {key: entry._replace(when=1.0) for key, entry in wisdom._entries.items()}
    wisdom.save(own)  # it is older, and for other threads, but the user's
    found = f'from transfuse import _core\nprint(_core.find_tuned("matmul_t", "{transfuse.info()["isa"]["current"]}", '
    found += f'"float32", {PRODUCT}, 2))'
    assert run(found, None, environment=environment) == ["{'block_m':", "16,", "'block_k':", "13}"]


def test_the_first_call_reads_and_nothing_else(path):
    made(block_k=9).save(path)
    program = """
import sys
opened = []
sys.addaudithook(lambda event, arguments: event == "open" and opened.append(str(arguments[0])))
import numpy as np, transfuse
count = lambda: sum("wisdom.json" in name for name in opened)
print(count(), "platformdirs" in sys.modules)
a = np.ones((4, 4), np.float32)
for _ in range(3):
    transfuse.matmul_t(a, a)
    transfuse.attention(a, a, a)
    print(count())
"""
    done = run_python(program, environment={"TRANSFUSE_WISDOM": str(path)})
    assert done.stdout.splitlines() == ["0 False", "1", "1", "1"]
    assert done.stderr == ""


FAULTS = {
    "truncated": lambda path: path.write_text(text(*made(block_k=9))[:-9]),
    "another schema": lambda path: path.write_text('{"schema": 7}'),
    "out of range": lambda path: path.write_text(text(*made(block_k=9), parameters={"block_k": 10**6})),
    "deep": lambda path: path.write_text("[" * 10**5),
    "directory": lambda path: path.mkdir(),
    "broken link": lambda path: path.symlink_to("nothing"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_faults_are_one_warning_and_no_exception(path, default, fault):
    fault(path)
    program = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(bits())
    bits()
assert [w.category for w in caught] == [RuntimeWarning], caught
assert caught[0].filename == "<string>"
print(str(caught[0].message).replace(" ", "_"))
"""
    bits, message = run(program, path)
    assert [bits] == default
    assert str(path) in message


def test_warnings_that_are_errors_do_not_make_a_call_fail(path, default):
    path.write_text("{")
    done = run_python(CALL + "print(bits(), bits())", environment={"TRANSFUSE_WISDOM": str(path)})
    assert done.stdout.split() == default * 2
    assert done.stderr.count(f"RuntimeWarning: wisdom: {path} is ignored") == 1


def test_no_home(default):
    environment = {"TRANSFUSE_WISDOM": None, "HOME": "/dev/null", "XDG_CACHE_HOME": None}
    assert run("print(bits())", None, environment=environment) == default


def test_a_home_that_cannot_be_written(path, default):
    environment = {"TRANSFUSE_WISDOM": None, "XDG_CACHE_HOME": "/proc", "XDG_CONFIG_DIRS": str(path.parent)}
    program = """
from transfuse.tune import Wisdom
try:
    Wisdom().save()
except OSError as error:
    assert "/proc/transfuse" in str(error)
    print(bits())
"""
    assert run(program, None, environment=environment) == default


def test_processes_that_save_at_once(path):
    program = f"""
import sys
sys.path.insert(0, {sys.path[0]!r})
from transfuse.tune import Wisdom
from wisdom_cases import record
for threads in range(int(sys.argv[1]), int(sys.argv[1]) + 10):
    wisdom = Wisdom()
    record(wisdom, {{"block_k": 9}}, threads=threads)
    wisdom.save({str(path)!r})
"""
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda first: run_python(program, str(first)), (1, 101, 201)))
    threads = sorted(entry.threads for entry in Wisdom.load(path))
    assert threads == [*range(1, 11), *range(101, 111), *range(201, 211)]


def test_threads_that_call_first_together(path, default):
    wisdom_of_both().save(path)
    program = """
import concurrent.futures, threading
start = threading.Barrier(8)
def work(_):
    start.wait()
    return bits(num_threads=1)
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    print(*set(pool.map(work, range(8))))
"""
    for _ in range(3):
        together = run(program, path)
        assert len(together) == 1, "some threads did not wait for wisdom"
    assert together != default


def test_calls_while_wisdom_is_set_and_cleared(tuned):
    a, b = np.ones((60, 400), np.float32), np.ones((400, 50), np.float32)
    q = np.ones((4, 64, 32), np.float32)  # the means of 64 ones are exact
    wisdom = wisdom_of_both()

    def change():
        for _ in range(150):
            wisdom.apply()
            tuned.clear_tuned()
        return True

    def call():
        return all(
            (transfuse.matmul_t(a, b, num_threads=n) == 400).all() and (transfuse.attention(q, q, q) == 1).all()
            for n in (1, 2)
            for _ in range(100)
        )

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = [pool.submit(function) for function in (change, change, call, call)]
        assert all(done.result(timeout=60) for done in running)


@pytest.mark.parametrize("before", ["", "bits()"], ids=["before the first call", "after it"])
def test_fork(path, before):
    wisdom_of_both().save(path)
    program = f"""
import os, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
{before}
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    os.write(write, bits().encode())
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(os.read(read, 100).decode(), bits())
"""
    child, parent = run(program, path)
    assert child == parent
    assert [parent] != run("print(bits())", "off")


def test_fork_waits_for_a_thread_that_loads(path):
    wisdom_of_both().save(path)
    program = """
import os, signal, threading, time, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from transfuse import _wisdom
reading = threading.Event()
original = _wisdom._load
def slow():
    reading.set()
    time.sleep(0.3)
    return original()
_wisdom._load = slow
thread = threading.Thread(target=bits)
thread.start()
reading.wait()
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    signal.alarm(30)
    assert _wisdom._state == "read"
    os.write(write, bits().encode())
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
thread.join()
print(os.read(read, 100).decode(), bits())
"""
    child, parent = run(program, path)
    assert child == parent
