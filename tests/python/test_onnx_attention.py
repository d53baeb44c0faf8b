"""The Attention node tests of ONNX, as many as attention can express."""

import importlib

import numpy as np
import pytest

import transfuse

onnx = pytest.importorskip("onnx")

HALF = "16-bit inputs"
NOT_EXPRESSIBLE = {
    "test_attention_4d_fp16": HALF,
    "test_attention_4d_gqa_with_past_and_present_fp16": HALF,
    "test_attention_4d_causal_bf16": HALF,
    "test_attention_4d_causal_fp16": HALF,
    "test_attention_4d_padded_kv_bf16": HALF,
    "test_attention_4d_causal_padded_kv_bf16": HALF,
    "test_attention_4d_attn_mask_causal_bf16": HALF,
    "test_attention_3d_causal_bf16": HALF,
    "test_attention_4d_gqa_causal_nonpad_decode_fp16": HALF,
    "test_attention_24_qk_matmul_output_mode3_softmax_precision": HALF,
    "test_attention_local_window_ext_cache_float16_mask": HALF,
}
"""Cases of the suite that cannot be said with attention, and why.

Of those with an output "qk_matmul_output", the matrix of scores, which attention never has, the others are checked.
"""
EXPECTED_COUNT = 82


def load_cases():
    importlib.import_module("onnx.backend.test.case.node.attention")
    from onnx.backend.test.case.node import _NodeTestCases

    return {
        case.name: case
        for case in _NodeTestCases
        if [node.op_type for node in case.model.graph.node] == ["Attention"] and not case.name.endswith("_expanded")
    }


CASES = load_cases()
EXPRESSIBLE = [case for name, case in CASES.items() if name not in NOT_EXPRESSIBLE]


def to_heads(x, heads):
    """(B, S, H·D), as the 3-D form has it, seen as (B, H, S, D)."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) if x.ndim == 3 else x


def padded(mask, keys):
    """A mask that is shorter than the keys hides the rest."""
    missing = keys - mask.shape[-1]
    if missing <= 0 or mask.shape[-1] == 1:
        return mask
    fill = False if mask.dtype == bool else -np.inf
    return np.concatenate([mask, np.full((*mask.shape[:-1], missing), fill, mask.dtype)], axis=-1)


def evaluate(case, config):
    """The outputs of a node, by name."""
    node = case.model.graph.node[0]
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    values = iter(case.data_sets[0][0])
    given = {name: np.asarray(next(values)) for name in node.input if name}
    q = to_heads(given["Q"], attributes.get("q_num_heads"))
    k, v = (to_heads(given[name], attributes.get("kv_num_heads")) for name in "KV")
    past = 0
    if "past_key" in given:
        past = given["past_key"].shape[-2]
        k = np.concatenate([given["past_key"], k], axis=-2)
        v = np.concatenate([given["past_value"], v], axis=-2)
    options = {"scale": attributes.get("scale"), "config": config}
    if attributes.get("softcap"):
        options["softcap"] = attributes["softcap"]
    if "attn_mask" in given:
        mask = padded(given["attn_mask"], k.shape[-2])
        options["mask" if mask.dtype == bool else "bias"] = mask
    lengths = given.get("nonpad_kv_seqlen")
    options["kv_lengths"] = lengths
    options["causal"] = bool(attributes.get("is_causal"))
    window = [
        None if size < 0 else size for size in (attributes.get(f"{s}_window_size", -1) for s in ("left", "right"))
    ]
    if window != [None, None]:
        options["window"] = tuple(window)
    # ONNX: queries follow the past, or end with the valid keys, or start with the keys.
    options["query_offset"] = past if lengths is None else lengths - q.shape[-2]
    result = transfuse.attention(q, k, v, **options)
    if given["Q"].ndim == 3:
        result = result.swapaxes(1, 2).reshape(*given["Q"].shape[:2], -1)
    return {"Y": result, "present_key": k, "present_value": v}


def check(case, config=None):
    found = evaluate(case, config)
    values = iter(case.data_sets[0][1])
    expected = {name: np.asarray(next(values)) for name in case.model.graph.node[0].output if name}
    for name in expected.keys() & found.keys():
        np.testing.assert_allclose(found[name], expected[name], rtol=case.rtol, atol=max(case.atol, 1e-7), strict=True)


@pytest.mark.parametrize("case", EXPRESSIBLE, ids=lambda case: case.name)
def test_node(case):
    check(case)


@pytest.mark.parametrize("block", [1, 2, 3, 5])
@pytest.mark.parametrize("case", EXPRESSIBLE, ids=lambda case: case.name)
def test_with_small_blocks(case, block):
    for config in ({"block_kv": block}, {"block_q": block}, {"block_q": block, "block_kv": block}):
        check(case, config)


def test_none_is_forgotten():
    # A release of ONNX with more cases fails here: count them, or say why they cannot be expressed.
    assert len(EXPRESSIBLE) == EXPECTED_COUNT
    assert NOT_EXPRESSIBLE.keys() <= CASES.keys()


@pytest.mark.parametrize("name", NOT_EXPRESSIBLE)
def test_the_others_are_refused(name):
    operands = [np.asarray(value) for value in CASES[name].data_sets[0][0]]
    assert any(x.dtype.kind != "b" and x.dtype.itemsize == 2 for x in operands)
    with pytest.raises(TypeError, match="expected dtype"):
        evaluate(CASES[name], None)
