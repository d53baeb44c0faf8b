"""The scope that forces an instruction-set tier."""

import contextlib
import threading

from transfuse import _core


class _Entered(threading.local):
    """The tiers that a thread had before it entered a scope: several threads may be inside the same one."""

    def __init__(self) -> None:
        self.previous: list[str | None] = []


class _IsaScope(contextlib.ContextDecorator):
    def __init__(self, name: str) -> None:
        self._name = name
        self._entered = _Entered()

    def __enter__(self) -> None:
        self._entered.previous.append(_core.set_thread_isa(self._name))

    def __exit__(self, *exception: object) -> None:
        _core.set_thread_isa(self._entered.previous.pop())


def isa(name: str) -> _IsaScope:
    """Force a tier for the calls that this thread makes inside a ``with`` block (or a decorated function).

    Parameters
    ----------
    name : {"scalar", "avx2", "avx512"}

    Raises
    ------
    TypeError
        The name is no str.
    ValueError
        This machine cannot run the tier, or there is no such tier. The message lists those that exist.

    Examples
    --------
    >>> import transfuse
    >>> with transfuse.isa("scalar"):
    ...     transfuse.info()["isa"]["current"]
    'scalar'
    """
    if not isinstance(name, str):
        raise TypeError(f"isa: expected a str, got {type(name).__name__}")
    _core.require_isa(name)
    return _IsaScope(name)
