"""(A·B)ᵀ as the benchmark sees it: every way in which NumPy, PyTorch and the others can compute it.

No library but transfuse has a kernel with a transposed output, but (A·B)ᵀ = Bᵀ·Aᵀ, and a transposed view costs nothing:
so the fair peer is the product with the operands swapped, not the product followed by a copy. The views are made
beforehand.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfuse.bench import dtypes
from transfuse.bench.goals import Goal
from transfuse.bench.operation import Form, Operation

LAYOUTS = {
    "": "",
    "a": "A transposed",
    "b": "B transposed",
    "ab": "both transposed",
    "heads": "head slices",
}
HEADS = 8
"""Of the tensor that a head slice is one of."""


@dataclass(frozen=True)
class MatmulT:
    """A product of `batch` pairs of matrices: a (*batch, m, k), b (*batch, k, n) -> (*batch, n, m).

    Attributes
    ----------
    m, k, n : int
    batch : tuple of int
    name : str
    layout : {"", "a", "b", "ab", "heads"}
        Which operands are transposed views; "heads": a and the transpose of b are slices [:, h] of a (rows, heads, k)
        tensor, as in attention.
    shared : {"", "a", "b"}
        The operand that has no batch and serves all matrices of the other.
    activation : {"", "gelu", "silu"}
        A bias is added and the activation applied.
    """

    m: int
    k: int
    n: int
    batch: tuple[int, ...] = ()
    name: str = ""
    layout: str = ""
    shared: str = ""
    activation: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch", tuple(self.batch))  # JSON gives a list

    @property
    def label(self) -> str:
        """The sizes in words: "64³", "128×1×1024", "96×(64×64×64)"; and the options."""
        if self.batch:
            sizes = "×".join(map(str, self.batch)) + f"×({self.m}×{self.k}×{self.n})"
        else:
            sizes = f"{self.m}³" if self.m == self.k == self.n else f"{self.m}×{self.k}×{self.n}"
        options = [LAYOUTS[self.layout], f"one {self.shared.upper()}" if self.shared else ""]
        options.append(f"bias, {self.activation}" if self.activation else "")
        return ", ".join([sizes, *filter(None, options)])

    @property
    def sizes(self) -> tuple[int, ...]:
        """(*batch, m, k, n)."""
        return (*self.batch, self.m, self.k, self.n)

    @property
    def flops(self) -> float:
        """A multiplication and an addition for each term."""
        return 2.0 * math.prod(self.sizes)

    @property
    def scores(self) -> float:
        """There is no softmax in it."""
        return 0.0

    def batch_of(self, operand: str) -> tuple[int, ...]:
        """The batch dimensions of "a" or "b"."""
        return () if operand == self.shared else self.batch

    def traffic(self, dtype: str) -> tuple[int, int]:
        """Read a and b, write the result."""
        itemsize = dtypes.stored_bytes(dtype)
        read = math.prod(self.batch_of("a")) * self.m * self.k + math.prod(self.batch_of("b")) * self.k * self.n
        return read * itemsize, math.prod(self.batch) * self.m * self.n * itemsize


def parse(text: str) -> MatmulT:
    """A case from "64", "128x1x1024" (M×K×N) or "96x64x64x64" (batch first).

    Raises
    ------
    ValueError
    """
    expected = "sizes: expected N, MxKxN or BxMxKxN, each at least 1"
    if not re.fullmatch(r"\d+([x×]\d+)*", text):
        raise ValueError(f"{expected}, got {text!r}")
    numbers = [int(number) for number in re.split("[x×]", text)]
    if min(numbers) < 1 or len(numbers) == 2:
        raise ValueError(f"{expected}, got {text!r}")
    if len(numbers) == 1:
        numbers *= 3
    *batch, m, k, n = numbers
    return MatmulT(m, k, n, tuple(batch))


def _inputs(case: MatmulT, dtype: str, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    def matrix(operand: str, rows: int, columns: int) -> NDArray[Any]:
        shape = (*case.batch_of(operand), rows, columns)
        if case.layout == "heads":  # a is (m, k); b is the transpose of (n, k)
            outer = rows if operand == "a" else columns
            head = rng.standard_normal((*shape[:-2], outer, HEADS, case.k)).astype(dtype)[..., HEADS // 2, :]
            return head if operand == "a" else head.swapaxes(-1, -2)
        if operand in case.layout:
            return rng.standard_normal((*shape[:-2], columns, rows)).astype(dtype).swapaxes(-1, -2)
        return rng.standard_normal(shape).astype(dtype)

    inputs = {"a": matrix("a", case.m, case.k), "b": matrix("b", case.k, case.n)}
    if case.activation:
        inputs["bias"] = rng.standard_normal(case.n).astype(dtype)
    return inputs


def _output_shape(case: MatmulT) -> tuple[int, ...]:
    return (*case.batch, case.n, case.m)


def _activate(x: NDArray[np.float64], activation: str) -> NDArray[np.float64]:
    if activation == "gelu":
        erf: NDArray[np.float64] = np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))
        return x * 0.5 * (1 + erf)
    return x / (1 + np.exp(-x)) if activation == "silu" else x


def _reference(case: MatmulT, inputs: dict[str, NDArray[Any]], dtype: str) -> tuple[NDArray[np.float64], float]:
    """The product in float64, and √k roundings of the root sum of squares: what a sum in any order may cost."""
    a, b = inputs["a"], inputs["b"]
    scale = math.sqrt(float(np.matmul(np.square(a), np.square(b)).max()))
    tolerance = 2 * max(4.0, math.sqrt(case.k)) * dtypes.epsilon(dtype) * scale
    result = np.ascontiguousarray(np.matmul(a, b).swapaxes(-1, -2))
    if case.activation:
        result = _activate(result + inputs["bias"][:, None], case.activation)
        tolerance *= 2  # the slopes of both activations are below 1.2
    return result, tolerance


_VIEWS = "a_t, b_t = a.swapaxes(-1, -2), b.swapaxes(-1, -2)"


def _transfuse(case: MatmulT) -> list[Form]:
    options = f", bias=bias, activation={case.activation!r}" if case.activation else ""
    return [
        Form(f"transfuse.matmul_t(a, b, out=out{options})", True),
        Form(f"transfuse.matmul_t(a, b{options})", False),
    ]


def _function(body: str, *setup: str) -> str:
    """A setup that defines f() with a body."""
    return "\n".join([_VIEWS, *setup, "def f():", *(f"    {line}" for line in body.splitlines())])


def _numpy(case: MatmulT) -> list[Form]:
    if case.activation:
        return _numpy_activated(case)
    forms = [
        Form("np.matmul(b_t, a_t, out=out)", True, _VIEWS),
        Form("np.matmul(a, b, out=out_t)", True, "out_t = out.swapaxes(-1, -2)"),
        Form("np.matmul(b_t, a_t)", False, _VIEWS),
        Form("np.matmul(a, b).swapaxes(-1, -2).copy()", False),
    ]
    if not case.batch:
        forms += [Form("np.dot(b_t, a_t, out=out)", True, _VIEWS), Form("np.dot(b_t, a_t)", False, _VIEWS)]
    if case.k == 1:
        forms += [Form("np.multiply(b_t, a_t, out=out)", True, _VIEWS), Form("np.multiply(b_t, a_t)", False, _VIEWS)]
    return forms


def _numpy_activated(case: MatmulT) -> list[Form]:
    """NumPy has no error function."""
    if case.activation != "silu":
        return []
    body = "np.matmul(b_t, a_t, out=out)\nnp.add(out, column, out=out)\nnp.divide(out, 1 + np.exp(-out), out=out)"
    return [Form("f()", True, _function(body, "column = bias[:, None]"))]


def _torch(case: MatmulT) -> list[Form]:
    if case.activation:
        return _torch_activated(case)
    forms = [
        Form("torch.matmul(b_t, a_t, out=out)", True, _VIEWS),
        Form("torch.matmul(b_t, a_t)", False, _VIEWS),
        Form("torch.matmul(a, b).swapaxes(-1, -2).contiguous()", False),
    ]
    if not case.batch:
        forms += [
            Form("torch.mm(b_t, a_t, out=out)", True, _VIEWS),
            Form("torch.mm(a, b, out=out_t)", True, "out_t = out.t()"),
            Form("torch.mm(b_t, a_t)", False, _VIEWS),
            Form("torch.nn.functional.linear(b_t, a)", False, _VIEWS),
        ]
    if len(case.batch) == 1 and not case.shared:
        forms += [
            Form("torch.bmm(b_t, a_t, out=out)", True, _VIEWS),
            Form("torch.bmm(b_t, a_t)", False, _VIEWS),
        ]
    if case.k == 1:
        forms += [Form("torch.mul(b_t, a_t, out=out)", True, _VIEWS), Form("torch.mul(b_t, a_t)", False, _VIEWS)]
    if not case.batch and case.m == 1:
        forms.append(Form("torch.mv(b_t, a_row, out=out_row)", True, f"{_VIEWS}; a_row, out_row = a[0], out[:, 0]"))
    if not case.batch and case.n == 1:
        forms.append(Form("torch.mv(a, b_col, out=out_col)", True, "b_col, out_col = b[:, 0], out[0]"))
    return forms


def _torch_activated(case: MatmulT) -> list[Form]:
    """The bias goes into the product (addmm), and the activation works in place."""
    name = f"torch.nn.functional.{case.activation}"
    in_place = "torch.ops.aten.gelu_.default(out)" if case.activation == "gelu" else f"{name}(out, inplace=True)"
    column = "column = bias[:, None]"
    return [
        Form("f()", True, _function(f"torch.addmm(column, b_t, a_t, out=out)\n{in_place}", column)),
        Form(f"{name}(torch.addmm(column, b_t, a_t))", False, f"{_VIEWS}\n{column}"),
        Form(f"{name}(torch.nn.functional.linear(a, b_t, bias)).t().contiguous()", False, _VIEWS),
    ]


# The kernels of Numba and Cython take stacks of matrices: (batch, rows, columns).
_STACKS = "a3, b3 = (x.reshape(-1, *x.shape[-2:]) for x in (a, b))"
_OUT3 = "out3 = out.reshape(-1, *out.shape[-2:])"


def _compiled(case: MatmulT, function: str, setup: str = "") -> list[Form]:
    if case.shared or case.activation or case.layout:  # they take contiguous stacks, and know no epilogue
        return []
    return [
        Form(f"{function}(a3, b3, out3)", True, "\n".join([_STACKS, _OUT3, setup])),
        Form(
            f"{function}(a3, b3, np.empty(shape, a.dtype)).reshape(out_shape)",
            False,
            "\n".join(
                [
                    _STACKS,
                    "out_shape = (*a.shape[:-2], b.shape[-1], a.shape[-2])",
                    "shape = (a3.shape[0], *out_shape[-2:])",
                    "out3 = np.empty(shape, a.dtype)",
                    setup,
                ]
            ),
        ),
    ]


def _numba(case: MatmulT) -> list[Form]:
    setup = "kernel = kernels.kernel(a3, b3)\nkernel.compile(tuple(numba.typeof(x) for x in (a3, b3, out3)))"
    return _compiled(case, "kernel", setup)


def _cython(case: MatmulT) -> list[Form]:
    return _compiled(case, "kernels.matmul_t_blocked")


def _cython_loops(case: MatmulT) -> list[Form]:
    return _compiled(case, "kernels.matmul_t_loops")


def _tensorflow(case: MatmulT) -> list[Form]:
    if case.activation:
        return []
    call = "tf.linalg.matmul(b, a, transpose_a=True, transpose_b=True)"
    return [Form(call, False), Form("f(a, b)", False, f"f = tf.function(lambda a, b: {call})\nf(a, b)")]


def _jax(case: MatmulT) -> list[Form]:
    if case.activation:
        fused = f"jax.nn.{case.activation}(jnp.matmul(b.swapaxes(-1, -2), a.swapaxes(-1, -2)) + bias[:, None]"
        exact = ", approximate=False)" if case.activation == "gelu" else ")"
        return [
            Form(
                "f().block_until_ready()",
                False,
                f"g = jax.jit(lambda a, b, bias: {fused}{exact})\nf = lambda: g(a, b, bias)\nf()",
            )
        ]
    swapped = "f = jax.jit(lambda a, b: jnp.matmul(b.swapaxes(-1, -2), a.swapaxes(-1, -2)))\nf(a, b)"
    plain = "g = jax.jit(lambda a, b: jnp.matmul(a, b).swapaxes(-1, -2))\ng(a, b)"
    return [Form("f(a, b).block_until_ready()", False, swapped), Form("g(a, b).block_until_ready()", False, plain)]


_SQUARES = tuple(MatmulT(size, size, size) for size in (1 << power for power in range(13)))

NODE = MatmulT(128, 1, 1024, (1,), "Llama-2 rotary node")
"""The MatMul and Transpose of Llama-2 7B's rotary embedding, with the ranks of the ONNX graph."""

_RECTANGLES = (
    NODE,
    MatmulT(1, 4096, 4096, (), "Llama-2 7B, one token"),
    MatmulT(32, 4096, 4096, (), "Llama-2 7B, 32 tokens"),
    MatmulT(512, 4096, 4096, (), "Llama-2 7B, 512 tokens"),
    MatmulT(128, 4096, 11008, (), "Llama-2 7B, feed-forward"),
    MatmulT(384, 1024, 4096, (), "BERT large, feed-forward"),
    MatmulT(2048, 64, 64, (), "skinny"),
    MatmulT(16, 16384, 16, (), "long sums"),
    MatmulT(128, 64, 128, (96,), "heads"),
)


def _squares(*sizes: int) -> tuple[MatmulT, ...]:
    return tuple(MatmulT(size, size, size) for size in sizes)


_HEAD = MatmulT(512, 64, 512, layout="b")
"""What head slices are compared with: the same product of tensors of their own."""

_OUTER = (MatmulT(128, 1, 1024), MatmulT(64, 1, 2048), MatmulT(1024, 1, 128))
"""Outer products that fit the second-level cache."""

GOALS: tuple[Goal[MatmulT], ...] = (
    Goal("tiny", _squares(1, 2, 4, 8, 16), each=3),
    Goal("call", _squares(4), call=0.2e-6, threads="one"),
    Goal(
        "small",
        _squares(17, 32, 33, 48, 64, 65, 100, 127, 128, 129, 200, 256),
        each=1,
        mean=1.3,
        share=0.75,
        share_from=2.0 * 96**3,
    ),
    Goal(
        "large",
        _squares(300, 400, 512, 768, 1000, 1024, 1536, 2048, 4096),
        each=1,
        share=0.9,
        share_from=2.0 * 512**3,
    ),
    Goal("outer", _OUTER, each=1, limit="memory", share=0.85, threads="one"),
    Goal("outer", _OUTER, each=1.3, limit="memory", share=0.85, threads="many"),
    Goal("outer", (MatmulT(4096, 1, 4096),), each=1, limit="memory", share=0.85),
    Goal(
        "vectors",
        (MatmulT(1, 4096, 4096), MatmulT(4096, 4096, 1), MatmulT(1, 576, 1536)),
        each=1,
        limit="memory",
        share=0.9,
    ),
    Goal(
        "skinny",
        (MatmulT(8, 4096, 1024), MatmulT(4096, 64, 4096), MatmulT(16, 16384, 16), MatmulT(2048, 64, 64)),
        each=1,
        mean=1.2,
    ),
    Goal(
        "models",
        (
            *(MatmulT(tokens, 4096, n) for n in (4096, 11008) for tokens in (32, 128, 512)),
            MatmulT(384, 1024, 4096),
        ),
        each=1,
        share=0.88,
    ),
    Goal(
        "batches",
        (
            MatmulT(128, 64, 128, (96,)),
            MatmulT(64, 64, 64, (768,)),
            MatmulT(16, 1, 2017, (24,)),
            MatmulT(128, 64, 128, (96,), shared="a"),
            MatmulT(128, 64, 128, (96,), shared="b"),
        ),
        mean=1.3,
    ),
    Goal(
        "strides",
        tuple(MatmulT(1024, 1024, 1024, layout=layout) for layout in ("a", "b", "ab")),
        like=_squares(1024)[0],
    ),
    Goal("strides", (MatmulT(512, 64, 512, layout="heads"),), like=_HEAD),
    Goal(
        "epilogue",
        tuple(
            MatmulT(m, k, n, activation=activation)
            for m, k, n in ((128, 768, 3072), (384, 1024, 4096), (512, 512, 512))
            for activation in ("gelu", "silu")
        ),
        mean=1.3,
    ),
)
"""What the suite "full" should reach."""

OPERATION = Operation(
    name="matmul-t",
    title="(A·B)ᵀ",
    sizes="M×K×N",
    path=f"{__name__}:OPERATION",
    case=MatmulT,
    parse=parse,
    suites={
        "default": (*_SQUARES, *_RECTANGLES),
        "squares": _SQUARES,
        "rectangles": _RECTANGLES,
        "full": tuple(dict.fromkeys([case for goal in GOALS for case in goal.cases] + [_HEAD])),
        "demo": (
            NODE,
            *(MatmulT(size, size, size) for size in (16, 64, 256, 1024)),
            MatmulT(1, 4096, 4096, (), "Llama-2 7B, one token"),
            MatmulT(32, 4096, 4096, (), "Llama-2 7B, 32 tokens"),
        ),
    },
    goals={"full": GOALS},
    inputs=_inputs,
    output_shape=_output_shape,
    reference=_reference,
    forms={
        "transfuse": _transfuse,
        "numpy": _numpy,
        "torch": _torch,
        "numba": _numba,
        "tensorflow": _tensorflow,
        "jax": _jax,
        "cython": _cython,
        "cython-loops": _cython_loops,
    },
)
