"""Graphs of real PyTorch modules: their operations measured on this machine."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from transfuse.plan.graph import Edge, Graph, Operation, unique_names
from transfuse.plan.settings import integer

Scaling = Callable[[float, float, int], float]
"""Seconds at a width, from the seconds at width 1, the bytes of the output and the width."""


def amdahl(serial: float = 0.05, *, bandwidth: float = 12.5e9, latency: float = 2e-5) -> Scaling:
    """Amdahl's law with a ring all-reduce of the output.

    t(q) = t(1)·(serial + (1 − serial)/q) + 2(q − 1)/q·bytes/bandwidth + 2(q − 1)·latency.

    Parameters
    ----------
    serial : float
        Share of an operation that more accelerators do not shorten, in [0, 1]; given, or measured by running the same
        module on one and on several threads.
    bandwidth, latency : float
        Of the link: bytes per second, seconds per message.

    Examples
    --------
    >>> round(amdahl(0.1, latency=0.0)(1.0, 0.0, 4), 3)
    0.325
    """
    if not 0 <= serial <= 1:
        raise ValueError(f"serial must be between 0 and 1, got {serial}")

    def seconds(alone: float, size: float, width: int) -> float:
        if width == 1:
            return alone
        ring = 2 * (width - 1) / width * size / bandwidth + 2 * (width - 1) * latency
        return alone * (serial + (1 - serial) / width) + ring

    return seconds


def ideal() -> Scaling:
    """t(q) = t(1)/q."""
    return lambda alone, size, width: alone / width


SCALINGS: dict[str, Callable[..., Scaling]] = {"amdahl": amdahl, "ideal": ideal}
"""The scaling models by name."""


def profile(
    module: Any,
    example_inputs: Sequence[Any],
    *,
    max_width: int = 8,
    scaling: str | Scaling = "amdahl",
    repetitions: int = 5,
) -> Graph:
    """Measure a module's operations, and fill in the wider widths from a model.

    The module is exported by ``torch.export``; each operation of its graph is then run by itself on this machine, on
    the tensors that it really gets, and the median of `repetitions` times counts as its time at width 1.

    Parameters
    ----------
    module : torch.nn.Module
    example_inputs : sequence of torch.Tensor
        One micro-batch, as the module takes it.
    max_width : int
        The widths are 1, 2, 4, … up to this.
    scaling : str or callable
        A name in `SCALINGS`, with its defaults, or a model such as ``amdahl(0.1, bandwidth=25e9)``.
    repetitions : int

    Returns
    -------
    Graph
        Operations that take no time to speak of, such as views, are kept with the time that was measured. `memory` is
        the size of the output, `parameters` that of the weights that the operation reads first.

    Raises
    ------
    ImportError
        Without PyTorch.
    TypeError
        `module` is no module, or `example_inputs` is no tuple.
    ValueError
        There is no such scaling model.
    """
    import torch

    if isinstance(scaling, str) and scaling not in SCALINGS:
        raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, or a function, got {scaling!r}")
    model = SCALINGS[scaling]() if isinstance(scaling, str) else scaling
    integer("max_width", max_width, 1)
    integer("repetitions", repetitions, 1)
    if not isinstance(example_inputs, (tuple, list)):
        raise TypeError(f"example_inputs must be a tuple of tensors, got {type(example_inputs).__name__}")
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    training = [part for part in module.modules() if part.training]
    try:
        exported = torch.export.export(module.eval(), tuple(example_inputs))
    finally:
        for part in training:
            part.training = True
    values = _inputs(exported, example_inputs)
    weights = {name: _size(value) for name, value in values.items() if name not in exported.graph_signature.user_inputs}
    nodes = [node for node in exported.graph.nodes if node.op == "call_function"]
    names = dict(zip([node.name for node in nodes], unique_names(node.name for node in nodes), strict=True))
    widths = [1 << k for k in range(max_width.bit_length())]
    operations, edges = [], []
    with torch.no_grad():
        for node in nodes:
            seconds, values[node.name] = _measure(node, values, repetitions)
            size = _size(values[node.name])
            read = sum(weights.pop(source.name, 0.0) for source in node.all_input_nodes)
            operations.append(
                Operation(
                    names[node.name],
                    {width: model(seconds, size, width) for width in widths},
                    str(getattr(node.target, "__name__", node.target)).partition(".")[0],
                    size,
                    read,
                )
            )
            edges += [
                Edge(names[source.name], names[node.name], _size(values[source.name]))
                for source in node.all_input_nodes
                if source.name in names
            ]
    return Graph(operations, edges)


def _inputs(exported: Any, example_inputs: Sequence[Any]) -> dict[str, Any]:
    """Values of the graph's placeholders: weights and inputs."""
    signature = exported.graph_signature
    state = {**dict(exported.named_parameters()), **dict(exported.named_buffers()), **exported.constants}
    given = iter(example_inputs)
    found = {}
    for spec in signature.input_specs:
        found[spec.arg.name] = next(given) if spec.target is None else state[spec.target]
    return found


def _measure(node: Any, values: dict[str, Any], repetitions: int) -> tuple[float, Any]:
    import torch

    def value(source: Any) -> Any:
        return values[source.name]

    arguments = torch.fx.node.map_arg(node.args, value)
    options = torch.fx.node.map_arg(node.kwargs, value)
    result = node.target(*arguments, **options)
    times = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        node.target(*arguments, **options)
        times.append(time.perf_counter() - begin)
    return statistics.median(times), result


def _size(value: Any) -> float:
    """Bytes of a tensor, or of the tensors of a tuple."""
    if isinstance(value, (tuple, list)):
        return sum(map(_size, value))
    return float(value.numel() * value.element_size()) if hasattr(value, "element_size") else 0.0
