"""Entries for the tests of wisdom."""

import json

import transfuse
from transfuse.tune import Wisdom
from transfuse.tune.wisdom import document

SIZES = (1, 60, 400, 50)


def current_tier():
    return transfuse.info()["isa"]["current"]


def record(wisdom, parameters, *, sizes=SIZES, **other):
    """An entry of matmul_t for this machine."""
    return wisdom.record(
        **{
            "operation": "matmul_t",
            "isa": current_tier(),
            "dtype": "float32",
            "sizes": sizes,
            "threads": 2,
            "parameters": parameters,
            **other,
        }
    )


def made(**parameters):
    """Wisdom of one entry."""
    wisdom = Wisdom()
    record(wisdom, parameters)
    return wisdom


def text(*entries, **replaced):
    """The text of a file; `replaced` replaces fields of every entry, or with None removes them."""
    contents = document(list(entries))
    for entry in contents["entries"]:
        entry |= replaced
    return json.dumps(contents)
