"""The scope that forces an instruction-set tier."""

import contextlib

from transfuse import _core


class _IsaScope(contextlib.ContextDecorator):
    def __init__(self, name: str) -> None:
        self._name = name
        self._previous: list[str | None] = []

    def __enter__(self) -> None:
        self._previous.append(_core.set_thread_isa(self._name))

    def __exit__(self, *exception: object) -> None:
        _core.set_thread_isa(self._previous.pop())


def isa(name: str) -> contextlib.ContextDecorator:
    """Force a tier for the calls that this thread makes inside a ``with`` block (or a decorated function).

    Parameters
    ----------
    name : {"scalar", "avx2", "avx512"}

    Raises
    ------
    ValueError
        This machine cannot run the tier, or there is no such tier. The message lists those that exist.

    Examples
    --------
    >>> import transfuse
    >>> with transfuse.isa("scalar"):
    ...     transfuse.info()["isa"]["current"]
    'scalar'
    """
    _core.require_isa(name)
    return _IsaScope(name)
