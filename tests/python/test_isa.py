"""Forcing an instruction-set tier: the scope, the environment variable, the result on each."""

import asyncio
import os
import threading

import numpy as np
import pytest
from layouts import place
from oracle import ACTIVATIONS, assert_accurate, normal
from processes import run_module, run_python

import transfuse


def current():
    return transfuse.info()["isa"]["current"]


@pytest.fixture
def outside():
    """The tier outside of every scope; a test must leave it as it was."""
    tier = current()
    yield tier
    assert current() == tier


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layout", ["c", "swapped", "record"])
def test_every_tier_is_accurate(rng, dtype, tier, layout, activation):
    with transfuse.isa(tier):
        for m, k, n in [(1, 1, 1), (4, 4, 4), (13, 40, 29), (65, 30, 33), (150, 260, 170)]:
            a, b = place(normal(rng, (m, k), dtype), layout), place(normal(rng, (k, n), dtype), layout)
            bias = normal(rng, n, dtype)
            assert_accurate(transfuse.matmul_t(a, b, bias=bias, activation=activation), a, b, bias, activation)


def test_tiers_differ_in_their_last_bits(rng):
    # Or else forcing them would not be seen to do anything: the scalar tier rounds differently from those with FMA.
    tiers = transfuse.info()["isa"]["available"]
    if len(tiers) == 1:
        pytest.skip("this machine has one tier")
    a, b = normal(rng, (50, 100), np.float32), normal(rng, (100, 50), np.float32)
    results = {transfuse.matmul_t(a, b, activation="gelu", config={"isa": tier}).tobytes() for tier in tiers}
    assert len(results) > 1


def test_attention_uses_the_tier(rng):
    tiers = transfuse.info()["isa"]["available"]
    if len(tiers) == 1:
        pytest.skip("this machine has one tier")
    q, k, v = (normal(rng, (50, 60), np.float32) for _ in range(3))
    forced = [transfuse.attention(q, k, v, config={"isa": tier}).tobytes() for tier in tiers]
    assert len(set(forced)) > 1
    for tier, expected in zip(tiers, forced, strict=True):
        with transfuse.isa(tier):
            assert transfuse.attention(q, k, v).tobytes() == expected
            assert transfuse.attention(q, k, v, config={"isa": tiers[0]}).tobytes() == forced[0]


def test_scope(outside, tier):
    with transfuse.isa(tier):
        assert current() == tier
        assert transfuse.info()["isa"]["source"] == "scope"
    assert transfuse.info()["isa"]["source"] != "scope"


def test_nested_scopes(outside):
    tiers = transfuse.info()["isa"]["available"]
    first, last = tiers[0], tiers[-1]
    with transfuse.isa(first):
        with transfuse.isa(last):
            assert current() == last
            with transfuse.isa(first):
                assert current() == first
            assert current() == last
        assert current() == first


def test_one_scope_used_again(outside):
    scope = transfuse.isa("scalar")
    for _ in range(2):
        with scope:
            assert current() == "scalar"
            with scope:
                assert current() == "scalar"
            assert current() == "scalar"
        assert current() == outside


def test_exceptions_leave_the_scope(outside):
    with pytest.raises(LookupError), transfuse.isa("scalar"):
        raise LookupError
    assert current() == outside


def test_decorator(outside):
    @transfuse.isa("scalar")
    def decorated(fail=False):
        """Says which tier."""
        if fail:
            raise LookupError
        return current()

    assert decorated() == "scalar"
    assert decorated.__doc__ == "Says which tier."
    with pytest.raises(LookupError):
        decorated(fail=True)
    assert current() == outside


def test_recursive_decorator(outside):
    @transfuse.isa("scalar")
    def countdown(n):
        return [current(), *(countdown(n - 1) if n else [])]

    assert countdown(3) == ["scalar"] * 4


def test_scope_is_for_this_thread(outside):
    seen = []
    with transfuse.isa("scalar"):
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()
    assert seen == [outside]


def test_threads_may_share_one_scope():
    # Two threads, each within a tier of its own, enter the same scope one after the other and leave in the same order.
    tiers = transfuse.info()["isa"]["available"]
    scope, turns, after = transfuse.isa("scalar"), [threading.Event() for _ in range(3)], {}

    def first():
        with transfuse.isa(tiers[-1]):
            with scope:
                turns[0].set()
                turns[1].wait(60)
            after["first"] = current()
        turns[2].set()

    def second():
        turns[0].wait(60)
        with transfuse.isa(tiers[0]):
            with scope:
                turns[1].set()
                turns[2].wait(60)
            after["second"] = current()

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert after == {"first": tiers[-1], "second": tiers[0]}


def test_scope_in_a_coroutine(outside):
    async def inside():
        with transfuse.isa("scalar"):
            return current()

    assert asyncio.run(inside()) == "scalar"


@pytest.mark.parametrize("name", ["sse2", "", "AVX2", "avx2 ", "scalar\0"])
def test_unknown_tiers(outside, name):
    listed = ", ".join(transfuse.info()["isa"]["available"])
    with pytest.raises(ValueError, match=rf"^isa: expected a tier that this machine can run \({listed}\), got '"):
        transfuse.isa(name)


@pytest.mark.parametrize("name", [None, 2, ["avx2"]])
def test_tiers_of_another_type(outside, name):
    with pytest.raises(TypeError):
        transfuse.isa(name)


ENVIRONMENT = "import transfuse; isa = transfuse.info()['isa']; print(isa['current'], isa['source'])"


def test_environment_variable(tier):
    done = run_python(ENVIRONMENT, environment={"TRANSFUSE_ISA": tier})
    assert done.stdout == f"{tier} TRANSFUSE_ISA\n"


@pytest.mark.parametrize("value", [None, ""])
def test_no_environment_variable(value):
    best = transfuse.info()["isa"]["available"][-1]
    assert run_python(ENVIRONMENT, environment={"TRANSFUSE_ISA": value}).stdout == f"{best} detected\n"


def test_scope_wins_over_the_environment(tier):
    program = f"""
        import transfuse
        with transfuse.isa("{tier}"):
            print(transfuse.info()["isa"]["current"])
    """
    assert run_python(program, environment={"TRANSFUSE_ISA": "scalar"}).stdout == f"{tier}\n"


def test_wrong_environment_variable():
    # It imports, so that the message can be read; then every call says what is wrong, until a scope overrides it.
    program = """
        import numpy as np, transfuse
        a = np.ones((2, 2), np.float32)
        out = np.full((2, 2), 7, np.float32)
        calls = (
            lambda: transfuse.matmul_t(a, a, out=out),
            transfuse.info,
            lambda: transfuse.matmul_t(a, a),
            lambda: transfuse.attention(a, a, a, out=out),
        )
        for call in calls:
            try:
                call()
            except ValueError as error:
                print(error)
        assert (out == 7).all()
        with transfuse.isa("scalar"):
            assert (transfuse.matmul_t(a, a) == 2).all()
    """
    lines = run_python(program, environment={"TRANSFUSE_ISA": "avx1024"}).stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert "TRANSFUSE_ISA: expected a tier that this machine can run (scalar" in line
        assert line.endswith("got 'avx1024'")


def test_wrong_environment_variable_on_the_command_line():
    done = run_module("info", environment={"TRANSFUSE_ISA": "avx1024"})
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: TRANSFUSE_ISA: expected a tier")
    assert "Traceback" not in done.stderr


def test_this_run_uses_the_tier_that_was_asked_for():
    if asked := os.environ.get("TRANSFUSE_ISA"):
        assert current() == asked
