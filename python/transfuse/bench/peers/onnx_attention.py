"""ONNX Runtime's MultiHeadAttention, and GroupQueryAttention with its cache."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper


def attention(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    bias: NDArray[Any] | None,
    *,
    causal: bool,
    threads: int,
) -> Callable[[], NDArray[Any]]:
    """A function that computes attention of (batch, heads, length, depth) operands.

    The operator wants (batch, length, heads · depth), into which the operands are copied here. Grouped heads are
    GroupQueryAttention's; as many queries as keys, and no bias then.
    """
    batch, heads, length, depth = q.shape
    names = ["q", "k", "v", *(["bias"] if bias is not None else [])]
    arrays = [np.ascontiguousarray(x.swapaxes(1, 2)).reshape(batch, x.shape[2], -1) for x in (q, k, v)]
    if bias is not None:
        arrays.append(np.ascontiguousarray(np.broadcast_to(bias, (*bias.shape[:2], length, k.shape[2]))))
    inputs: dict[str, NDArray[Any]] = dict(zip(names, arrays, strict=True))
    if k.shape[1] == heads:
        used = ["q", "k", "v", *(["", "", "bias"] if bias is not None else [])]
        model = _model("MultiHeadAttention", used, inputs, num_heads=heads, unidirectional=int(causal))
    else:
        inputs |= {"last": np.full(batch, length - 1, np.int32), "longest": np.array([length], np.int32)}
        used = ["q", "k", "v", "", "", "last", "longest"]
        attributes = {"num_heads": heads, "kv_num_heads": k.shape[1], "causal": int(causal)}
        model = _model("GroupQueryAttention", used, inputs, **attributes)
    session = onnxruntime.InferenceSession(model, _options(threads), providers=["CPUExecutionProvider"])
    given = {name: onnxruntime.OrtValue.ortvalue_from_numpy(x) for name, x in inputs.items()}

    def call() -> NDArray[Any]:
        result: NDArray[Any] = session.run_with_ort_values(["out"], given)[0].numpy()
        return result.reshape(batch, length, heads, depth).swapaxes(1, 2)

    return call


def with_cache(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    lengths: Sequence[int],
    *,
    step: float | None,
    threads: int,
) -> Callable[[], NDArray[Any]]:
    """A function that computes causal attention of the last positions of sequences to a cache.

    Past and present are the same buffers, which hold all but the last tokens. Those come with each call, and it writes
    them where it did before: nothing else of the cache is copied. With a `step` the cache is of 8 bits.
    """
    batch, heads, length, depth = q.shape
    kv_heads = k.shape[1]
    ends = np.array(lengths)

    def last(x: NDArray[Any]) -> NDArray[Any]:
        parts = [x[i, :, end - length : end] for i, end in enumerate(ends)]
        return np.stack(parts).swapaxes(1, 2).reshape(batch, length, -1)

    def stored(x: NDArray[Any]) -> NDArray[Any]:
        return x.copy() if step is None else np.rint(x / step).astype(np.int8)

    arrays = {
        "q": np.ascontiguousarray(q.swapaxes(1, 2)).reshape(batch, length, -1),
        "new_k": last(k),
        "new_v": last(v),
        "k": stored(k),
        "v": stored(v),
        "last": (ends - 1).astype(np.int32),
        "longest": np.array([ends.max()], np.int32),
    }
    attributes: dict[str, Any] = {"num_heads": heads, "kv_num_heads": kv_heads}
    used = ["q", "new_k", "new_v", "k", "v", "last", "longest"]
    if step is not None:
        arrays["step"] = np.array([step], np.float32)
        used += ["", "", "", "", "", "step", "step"]
        attributes |= {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": 8}
    model = _model("GroupQueryAttention", used, arrays, present={"present_k": "k", "present_v": "v"}, **attributes)
    session = onnxruntime.InferenceSession(model, _options(threads), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(x) for name, x in arrays.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("out", "cpu")
    binding.bind_ortvalue_output("present_k", values["k"])
    binding.bind_ortvalue_output("present_v", values["v"])

    def call() -> NDArray[Any]:
        session.run_with_iobinding(binding)
        result: NDArray[Any] = binding.get_outputs()[0].numpy()
        return result.reshape(batch, length, heads, depth).swapaxes(1, 2)

    return call


def _model(
    operator: str,
    used: Sequence[str],
    arrays: dict[str, NDArray[Any]],
    present: dict[str, str] | None = None,
    **attributes: Any,
) -> bytes:
    """A model of one operator. Its result is like q; other outputs are like the inputs that `present` names."""
    outputs = {"out": "q"} | (present or {})
    values = {
        name: helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in (arrays | {output: arrays[like] for output, like in outputs.items()}).items()
    }
    node = helper.make_node(operator, used, list(outputs), domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node], "attention", [values[name] for name in arrays], [values[name] for name in outputs]
    )
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=versions, ir_version=8)
    return bytes(model.SerializeToString())


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options
