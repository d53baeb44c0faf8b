"""Recording landscapes, and the set that comes with the package."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import transfuse
from transfuse.bench import machine
from transfuse.tune.candidates import choose
from transfuse.tune.function import Function
from transfuse.tune.landscape import Landscape
from transfuse.tune.sampling import Clock, TargetSource
from transfuse.tune.searching import as_target
from transfuse.tune.space import Configuration, Space
from transfuse.tune.targets import Attention, MatmulT

Progress = Callable[[str], None]


def record(
    target: Any,
    space: Space | None = None,
    *,
    rounds: int = 100,
    name: str | None = None,
    default: Configuration | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
) -> Landscape:
    """Measure every configuration of a space, in rounds of random order, each between two measurements of the default.

    Parameters
    ----------
    target, space, default
        As for :func:`~transfuse.tune.search`.
    rounds : int
        How often each configuration is measured.
    name : str, optional
        Default: the target's.
    seed : int
        Of the order.
    progress : callable, optional
        Called with a text before each round.
    clock : callable
        Seconds.

    Returns
    -------
    Landscape
        Of the configurations that work and give the default's output.

    Raises
    ------
    DefaultFailed
    ValueError
        `rounds` is less than 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds: expected at least 1, got {rounds}")
    target, space, default = as_target(target, space, default)
    candidates = choose(space, default, target.effective)
    source = TargetSource(target, candidates.configurations, candidates.default, cache="warm", clock=clock)
    order, times = np.random.default_rng(seed), np.full((rounds, len(candidates)), np.nan)
    for number in range(rounds):
        if progress:
            progress(f"{name or target.name}: round {number + 1} of {rounds}, {source.elapsed():.0f} s")
        indices = order.permutation(len(candidates))
        times[number, indices] = list(source.times(indices.tolist()))
    works = [index for index in range(len(candidates)) if index not in source.failures]
    return Landscape(
        name or target.name,
        target.describe(),
        space.to_json(),
        [candidates.configurations[index] for index in works],
        works.index(candidates.default),
        times[:, works],
        machine.describe(),
    )


def _blocks_and_threads() -> tuple[Function, Space]:
    """The 32 points of the reports: 8 heads of 256 queries are at least 32 pieces, so 8 threads are really 8."""
    numbers = np.random.default_rng(0).standard_normal((3, 1, 8, 256, 64), np.float32)
    arrays = {dtype: numbers.astype(dtype) for dtype in ("float32", "float64")}

    def blocked_attention(block: int = 64, threads: int = 1, dtype: str = "float32") -> Any:
        config = {"block_q": block, "block_kv": block, "threads": threads}
        return transfuse.attention(*arrays[dtype], config=config)

    space = Space({"block": [8, 16, 32, 64], "threads": [1, 2, 4, 8], "dtype": list(arrays)})
    return Function(blocked_attention, name="attention 1×8×256×64"), space


def _many_blocks() -> tuple[MatmulT, Space]:
    """250 points."""
    blocks = {
        "block_m": [32, 64, 128, 256, 384],
        "block_n": [42, 84, 168, 336, 672],
        "block_k": [64, 128, 256, 512, 1024],
    }
    return MatmulT(384, 1024, 768), Space(blocks | {"threads": [1, 2]})


def _flat(rounds: int) -> Landscape:
    """32 configurations with the same times in other orders: 3 % of log-normal noise, 2 % are slow outliers."""
    rng = np.random.default_rng(8)
    space = Space({"block": [8, 16, 32, 64], "threads": [1, 2, 4, 8], "dtype": ["float32", "float64"]})
    logs = 0.03 * rng.standard_normal(rounds)
    logs += np.where(rng.random(rounds) < 0.02, np.log(rng.uniform(1.5, 10, rounds)), 0)
    times = 1e-3 * np.exp(rng.permuted(np.tile(logs, (32, 1)), axis=1).T)
    return Landscape("flat", {"synthetic": "flat"}, space.to_json(), space.configurations(), 0, times)


STANDARD: Mapping[str, Callable[[], tuple[Any, Space | None]]] = {
    "attention_prefill": lambda: (Attention(1, 8, 512, 64, causal=True), None),
    "attention_decode": lambda: (Attention(1, 32, 1, 128, keys=1024, kv_heads=8), None),
    "matmul_t_square": lambda: (MatmulT(512, 512, 512), None),
    "matmul_t_skinny": lambda: (MatmulT(2048, 64, 64), None),
    "matmul_t_blocks": _many_blocks,
    "blocks_and_threads": _blocks_and_threads,
}
"""What :func:`record_all` measures, besides the flat landscape, which is made."""


def record_all(
    directory: str | Path | None = None,
    rounds: int = 100,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Record the standard landscapes, one file each.

    Parameters
    ----------
    directory : path, optional
        Default: where the package keeps its own.
    rounds : int
    names : sequence of str, optional
        Of STANDARD, or "flat". Default: all.
    progress : callable, optional

    Returns
    -------
    list of Path

    Raises
    ------
    ValueError
        A name is unknown.
    """
    folder = Path(directory) if directory is not None else Path(__file__).with_name("landscapes")
    known = [*STANDARD, "flat"]
    for name in names or ():
        if name not in known:
            raise ValueError(f"names: expected some of {', '.join(known)}, got {name!r}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in names or known:
        paths.append(folder / f"{name}.json")
        if name == "flat":
            landscape = _flat(rounds)
        else:
            target, space = STANDARD[name]()
            landscape = record(target, space, rounds=rounds, name=name, progress=progress)
        landscape.save(paths[-1])
    return paths
