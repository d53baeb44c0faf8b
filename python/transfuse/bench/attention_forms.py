"""Every way in which transfuse, NumPy, PyTorch and the others can compute attention.

What a library can prepare once for many calls is prepared beforehand and not timed: a filled cache, masks and biases
that it wants as a matrix, repeated heads, its own layout. No peer writes its result into a given array, so results are
allocated on both sides.
"""

import math

from transfuse.bench.attention_case import INT8_STEP, SOFTCAP, Attention, folded_shape
from transfuse.bench.dtypes import HALF, PLAIN, QUANTISED
from transfuse.bench.operation import Form

_ARRAYS = (*PLAIN, *HALF)
_CACHES = ("float32", *HALF, QUANTISED)


def _lines(*lines: str) -> str:
    return "\n".join(filter(None, lines))


def _attends_to_end(case: Attention) -> bool:
    """Its queries are the last positions of sequences whose keys are known, as with a cache."""
    one = case.option == "" and case.queries == 1
    return case.queries < case.keys and (one or case.option in ("causal", "ragged"))


def transfuse(case: Attention) -> list[Form]:
    """Of arrays, and of a cache that was filled before."""
    options = {
        "causal": ", causal='lower_right'",
        "ragged": ", causal='lower_right', kv_lengths=lengths",
        "window": f", causal='lower_right', window=({case.window - 1}, 0)",
        "padding": ", kv_lengths=lengths",
        "bias": ", bias=bias",
        "alibi": ", alibi_slopes=slopes",
        "softcap": f", softcap={SOFTCAP}",
    }
    setup = {
        "ragged": f"lengths = {case.lengths}",
        "padding": f"lengths = {case.lengths}",
        "alibi": f"from transfuse.bench import attention_case\nslopes = attention_case.slopes({case.heads}, q.dtype)",
    }
    forms = [
        Form(f"transfuse.attention(q, k, v{options.get(case.option, '')})", False, setup.get(case.option, ""), _ARRAYS)
    ]
    if case.option in ("", "causal", "ragged"):
        causal = ", causal=True" if _attends_to_end(case) or case.option == "causal" else ""
        fill = _lines(
            f"cache = transfuse.KVCache({case.batch}, {case.kv_heads}, {case.keys}, {case.depth}, dtype=dtype)",
            f"cache.append(k, v, lengths={case.lengths})" if case.option == "ragged" else "cache.append(k, v)",
        )
        kinds = _CACHES if _attends_to_end(case) else (QUANTISED,)
        forms.append(Form(f"transfuse.attention(q, cache=cache{causal})", False, fill, kinds))
    return forms


def _matrix(case: Attention, *, boolean: bool = False, fold: bool = False) -> str:
    """A setup that names the bias, or the mask, that a library without the case's option needs."""
    if case.option == "bias":
        return f"matrix = bias.reshape(1, {case.kv_heads}, -1, {case.keys})" if fold else "matrix = bias"
    build = f"attention_case.dense_bias(attention_case.{case!r}, dtype, fold={fold})"
    return _lines(
        "from transfuse.bench import attention_case",
        f"boolean = own({build} == 0)" if boolean else f"matrix = own({build})",
    )


def numpy(case: Attention) -> list[Form]:
    """The formula, with the queries of heads that share keys as rows of one matrix."""
    lines = ["scores = np.matmul(q, k_t)", f"scores *= {1 / math.sqrt(case.depth)!r}"]
    if case.option == "softcap":
        lines += [f"scores /= {SOFTCAP}", "np.tanh(scores, out=scores)", f"scores *= {SOFTCAP}"]
    elif case.option:
        lines += ["scores += matrix"]
    lines += [
        "scores -= scores.max(axis=-1, keepdims=True)",
        "np.exp(scores, out=scores)",
        "result = np.matmul(scores, v)",
        "result /= scores.sum(axis=-1, keepdims=True)",
        f"return result.reshape({case.batch}, {case.heads}, {case.queries}, {case.depth})",
    ]
    setup = _lines(
        _matrix(case, fold=True) if case.option not in ("", "softcap") else "",
        f"q = q.reshape{folded_shape(case)}",
        "k_t = k.swapaxes(-1, -2)",
        "def f():",
        *(f"    {line}" for line in lines),
    )
    return [Form("f()", False, setup)]


def torch(case: Attention) -> list[Form]:
    """Grouped heads by `enable_gqa`, repeated beforehand, and with the queries of a group as rows of one head."""
    if case.option == "softcap":
        return [_torch_formula(case, f".tanh_().mul_({SOFTCAP})", shrink=SOFTCAP)]
    masks = [(", attn_mask=matrix", _matrix(case))]
    if case.option == "":
        masks = [("", "")]
    elif case.option == "causal" and case.queries == case.keys:
        masks = [(", is_causal=True", "")]
    elif case.option != "bias" and case.option != "alibi":
        masks.append((", attn_mask=boolean", _matrix(case, boolean=True)))
    sdpa = "torch.nn.functional.scaled_dot_product_attention"
    forms = []
    for mask, setup in masks:
        if case.group == 1:
            forms.append(Form(f"{sdpa}(q, k, v{mask})", False, setup, _ARRAYS))
            continue
        repeat = f"k_repeated, v_repeated = (x.repeat_interleave({case.group}, 1) for x in (k, v))"
        forms += [
            Form(f"{sdpa}(q, k, v{mask}, enable_gqa=True)", False, setup, _ARRAYS),
            Form(f"{sdpa}(q, k_repeated, v_repeated{mask})", False, _lines(setup, repeat), _ARRAYS),
        ]
    if masks[0][0] != ", is_causal=True" and (case.group > 1 or case.queries < case.keys):
        matrix, setup = (".add_(matrix)", _matrix(case, fold=True)) if case.option else ("", "")
        mask = ", attn_mask=matrix" if matrix else ""
        if case.group > 1:
            folded = f"{sdpa}(q.view{folded_shape(case)}, k, v{mask}).reshape(q.shape)"
            forms.append(Form(folded, False, setup, _ARRAYS))
        forms.append(_torch_formula(case, matrix, setup))
    return forms


def _torch_formula(case: Attention, change: str, setup: str = "", shrink: float = 1.0) -> Form:
    """The formula, with queries as in :func:`folded_shape`, and some change to the scores (over `shrink`)."""
    scores = f"torch.matmul(rows * {1 / math.sqrt(case.depth) / shrink:.17g}, k_t){change}"
    return Form(
        f"torch.matmul(torch.softmax({scores}, -1), v).reshape(q.shape)",
        False,
        _lines(setup, f"rows, k_t = q.view{folded_shape(case)}, k.transpose(-1, -2)"),
        _ARRAYS,
    )


def _stacks(case: Attention, function: str, imports: str = "") -> list[Form]:
    """A compiled kernel for stacks of heads, without options but the causal one."""
    if case.option not in ("", "causal") or (case.option and case.queries != case.keys):
        return []
    causal = case.option == "causal"
    setup = _lines(
        imports,
        "q3, k3, v3 = (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v))",
        f"f = lambda: np.asarray({function}(q3, k3, v3, {causal}, np.empty_like(q3))).reshape(q.shape)",
        "f()",
    )
    return [Form("f()", False, setup)]


def numba(case: Attention) -> list[Form]:
    """The kernel of transfuse.bench.peers."""
    return _stacks(case, "numba_attention.attention", "from transfuse.bench.peers import numba_attention")


def cython(case: Attention) -> list[Form]:
    """The same."""
    return _stacks(case, "kernels.attention_blocked")


def onnxruntime(case: Attention) -> list[Form]:
    """MultiHeadAttention, or GroupQueryAttention for grouped heads and with a cache."""
    forms = []
    takes_group = case.option in ("", "causal") and case.queries == case.keys
    takes_arrays = takes_group if case.group > 1 else case.option != "softcap"
    if takes_arrays:
        causal = case.option == "causal" and case.queries == case.keys
        bias = case.option != "" and not causal
        setup = _lines(
            _matrix(case) if bias else "",
            f"attention = onnx_attention.attention(q, k, v, {'matrix' if bias else 'None'}, "
            f"causal={causal}, threads=threads)",
        )
        forms.append(Form("attention()", False, setup, ("float32", "float16") if case.group > 1 else ("float32",)))
    if _attends_to_end(case) and (case.batch == 1 or case.queries == 1):  # it takes no more
        setup = (
            f"step = {INT8_STEP!r} if dtype == 'int8' else None\n"
            f"with_cache = onnx_attention.with_cache(q, k, v, {case.lengths}, step=step, threads=threads)"
        )
        forms.append(Form("with_cache()", False, setup, ("float32", "float16", QUANTISED)))
    return forms


def jax(case: Attention) -> list[Form]:
    """Its dot_product_attention, compiled."""
    options = {
        "": "",
        "causal": "is_causal=True",
        "window": f"is_causal=True, local_window_size=({case.window - 1}, 0)",
        "padding": "key_value_seq_lengths=lengths",
        "ragged": "key_value_seq_lengths=lengths" if case.queries == 1 else "bias=matrix",
        "bias": "bias=bias",
        "alibi": "bias=matrix",
    }
    if case.option not in options or (case.queries != case.keys and case.option == "window"):
        return []
    option = options[case.option]
    if case.queries != case.keys and case.option == "causal":
        option = "bias=matrix"
    setup = _lines(
        "import numpy as np",
        _matrix(case) if "matrix" in option else "",
        f"lengths = jnp.asarray({case.lengths}, jnp.int32)" if "lengths" in option else "",
        "qt, kt, vt = (jax.block_until_ready(jnp.swapaxes(x, 1, 2)) for x in (q, k, v))",
        f"f = jax.jit(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, {option}))",
        "g = lambda: np.asarray(f(qt, kt, vt)).swapaxes(1, 2)",
        "g()",
    )
    return [Form("g()", False, setup, (*PLAIN, "bfloat16"))]  # on CPUs it refuses float16


FORMS = {
    "transfuse": transfuse,
    "numpy": numpy,
    "torch": torch,
    "numba": numba,
    "onnxruntime": onnxruntime,
    "jax": jax,
    "cython": cython,
}
