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

from transfuse.bench.operation import Form, Operation


@dataclass(frozen=True)
class MatmulT:
    """A product of `batch` pairs of matrices: a (*batch, m, k), b (*batch, k, n) -> (*batch, n, m)."""

    m: int
    k: int
    n: int
    batch: tuple[int, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch", tuple(self.batch))  # JSON gives a list

    @property
    def label(self) -> str:
        """The sizes in words: "64³", "128×1×1024", "96×(64×64×64)"."""
        if self.batch:
            return "×".join(map(str, self.batch)) + f"×({self.m}×{self.k}×{self.n})"
        return f"{self.m}³" if self.m == self.k == self.n else f"{self.m}×{self.k}×{self.n}"

    @property
    def sizes(self) -> tuple[int, ...]:
        """(*batch, m, k, n)."""
        return (*self.batch, self.m, self.k, self.n)

    @property
    def flops(self) -> float:
        """A multiplication and an addition for each term."""
        return 2.0 * math.prod(self.sizes)

    def traffic(self, itemsize: int) -> tuple[int, int]:
        """Read a and b, write the result."""
        each = math.prod(self.batch) * itemsize
        return each * (self.m * self.k + self.k * self.n), each * self.m * self.n


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


def _inputs(case: MatmulT, dtype: np.dtype[Any], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    return {
        "a": rng.standard_normal((*case.batch, case.m, case.k)).astype(dtype),
        "b": rng.standard_normal((*case.batch, case.k, case.n)).astype(dtype),
    }


def _output_shape(case: MatmulT) -> tuple[int, ...]:
    return (*case.batch, case.n, case.m)


def _reference(
    case: MatmulT, inputs: dict[str, NDArray[Any]], dtype: np.dtype[Any]
) -> tuple[NDArray[np.float64], float]:
    """The product in float64, and √k roundings of the root sum of squares: what a sum in any order may cost."""
    a, b = inputs["a"], inputs["b"]
    scale = math.sqrt(float(np.matmul(np.square(a), np.square(b)).max()))
    tolerance = 2 * max(4.0, math.sqrt(case.k)) * float(np.finfo(dtype).eps) * scale
    return np.ascontiguousarray(np.matmul(a, b).swapaxes(-1, -2)), tolerance


_VIEWS = "a_t, b_t = a.swapaxes(-1, -2), b.swapaxes(-1, -2)"


def _transfuse(case: MatmulT) -> list[Form]:
    return [Form("transfuse.matmul_t(a, b, out=out)", True), Form("transfuse.matmul_t(a, b)", False)]


def _numpy(case: MatmulT) -> list[Form]:
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


def _torch(case: MatmulT) -> list[Form]:
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
    if len(case.batch) == 1:
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


# The kernels of Numba and Cython take stacks of matrices: (batch, rows, columns).
_STACKS = "a3, b3 = (x.reshape(-1, *x.shape[-2:]) for x in (a, b))"
_OUT3 = "out3 = out.reshape(-1, *out.shape[-2:])"


def _compiled(function: str, setup: str) -> list[Form]:
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
    return _compiled("kernel", setup)


def _cython(case: MatmulT) -> list[Form]:
    return _compiled("kernels.matmul_t_blocked", "")


def _cython_loops(case: MatmulT) -> list[Form]:
    return _compiled("kernels.matmul_t_loops", "")


def _tensorflow(case: MatmulT) -> list[Form]:
    call = "tf.linalg.matmul(b, a, transpose_a=True, transpose_b=True)"
    return [Form(call, False), Form("f(a, b)", False, f"f = tf.function(lambda a, b: {call})\nf(a, b)")]


def _jax(case: MatmulT) -> list[Form]:
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

OPERATION = Operation(
    name="matmul-t",
    title="(A·B)ᵀ",
    path=f"{__name__}:OPERATION",
    case=MatmulT,
    parse=parse,
    suites={
        "default": (*_SQUARES, *_RECTANGLES),
        "squares": _SQUARES,
        "rectangles": _RECTANGLES,
        "demo": (
            NODE,
            *(MatmulT(size, size, size) for size in (16, 64, 256, 1024)),
            MatmulT(1, 4096, 4096, (), "Llama-2 7B, one token"),
            MatmulT(32, 4096, 4096, (), "Llama-2 7B, 32 tokens"),
        ),
    },
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
