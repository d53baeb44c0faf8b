"""The examples in docstrings and in the README work."""

import doctest
import importlib
import pathlib
import re

import pytest

import transfuse

README = pathlib.Path(__file__).parents[2] / "README.md"


def run_examples(test):
    runner = doctest.DocTestRunner()
    runner.run(test)
    assert runner.failures == 0
    return runner.tries


MODULES = [
    ("transfuse", 3),
    ("transfuse._info", 0),
    ("transfuse._isa", 2),
    ("transfuse.plan", 4),
    ("transfuse.plan.generators", 3),
    ("transfuse.plan.graph", 4),
    ("transfuse.plan.ideals", 1),
    ("transfuse.plan.profiling", 1),
    ("transfuse.plan.result", 4),
    ("transfuse.plan.solver", 4),
    ("transfuse.plan.tradeoff", 3),
    ("transfuse.tune", 1),
    ("transfuse.tune.searching", 4),
    ("transfuse.tune.space", 2),
    ("transfuse.tune.wisdom", 5),
]


@pytest.mark.parametrize(("module", "examples"), MODULES)
def test_modules(module, examples):
    results = doctest.testmod(importlib.import_module(module))
    assert results.failed == 0
    assert results.attempted >= examples


@pytest.mark.parametrize("name", ["matmul_t", "attention", "KVCache"])
def test_compiled_ones(name):
    # doctest does not look into them by itself.
    text = getattr(transfuse, name).__doc__
    assert run_examples(doctest.DocTestParser().get_doctest(text, {}, name, None, 0)) >= 3


def test_every_public_function_has_an_example_or_explains_itself():
    for name in transfuse.__all__:
        if name != "__version__":
            text = getattr(transfuse, name).__doc__
            assert "Returns\n" in text or "Examples\n" in text, name


def test_readme():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
