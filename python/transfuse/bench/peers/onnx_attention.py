"""ONNX Runtime's MultiHeadAttention."""

from collections.abc import Callable
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

    The operator wants (batch, length, heads · depth), into which the operands are copied here.
    """
    batch, heads, length, depth = q.shape
    names = ["q", "k", "v", *(["bias"] if bias is not None else [])]
    arrays = [np.ascontiguousarray(x.swapaxes(1, 2)).reshape(batch, x.shape[2], -1) for x in (q, k, v)]
    if bias is not None:
        arrays.append(np.ascontiguousarray(np.broadcast_to(bias, (*bias.shape[:2], length, k.shape[2]))))
    session = onnxruntime.InferenceSession(
        _model(names, arrays, heads, causal), _options(threads), providers=["CPUExecutionProvider"]
    )
    given = {name: onnxruntime.OrtValue.ortvalue_from_numpy(x) for name, x in zip(names, arrays, strict=True)}

    def call() -> NDArray[Any]:
        result: NDArray[Any] = session.run_with_ort_values(["out"], given)[0].numpy()
        return result.reshape(batch, length, heads, depth).swapaxes(1, 2)

    return call


def _model(names: list[str], arrays: list[NDArray[Any]], heads: int, causal: bool) -> bytes:
    kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    inputs = [helper.make_tensor_value_info(name, kind, x.shape) for name, x in zip(names, arrays, strict=True)]
    output = helper.make_tensor_value_info("out", kind, arrays[0].shape)
    used = ["q", "k", "v", *(["", "", "bias"] if "bias" in names else [])]
    node = helper.make_node(
        "MultiHeadAttention", used, ["out"], domain="com.microsoft", num_heads=heads, unidirectional=int(causal)
    )
    graph = helper.make_graph([node], "attention", inputs, [output])
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=versions, ir_version=8)
    return bytes(model.SerializeToString())


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options
