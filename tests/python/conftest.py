"""Fixtures of the whole suite."""

import os

import numpy as np
import pytest
from ml_dtypes import bfloat16

from transfuse import _core

os.environ["TRANSFUSE_WISDOM"] = "off"  # whoever runs the tests may have tuned; processes that they start inherit it


@pytest.fixture
def rng():
    """A generator that gives the same numbers on every run."""
    return np.random.default_rng(20240817)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both element types."""
    return np.dtype(request.param)


@pytest.fixture(params=[np.float16, bfloat16], ids=["float16", "bfloat16"])
def half(request):
    """Both element types of 16 bits, which attention stores and does not compute with."""
    return np.dtype(request.param)


@pytest.fixture(params=_core.available_isas())
def tier(request):
    """Every tier that this machine can run."""
    return request.param


@pytest.fixture
def tuned():
    """The registry of tuned configurations, empty before and after the test."""
    _core.clear_tuned()
    yield _core
    _core.clear_tuned()
