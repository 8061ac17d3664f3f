"""What compiled training steps hold: collectives, and precision and shapes."""

import re
from collections import Counter

import jax
import pytest

from t5x_lite.nn.kernels import einsum
from tests.training.programs import LAYERS, VOCAB, WIDTH, step

# Smaller arrays are vectors: of norms and biases.
SMALL = 8 * WIDTH
# Traced programs with fused attention alone, and where they are from.
FUSED = ["llama", "long t5", "bert", "mixtral"]
COMPILED = pytest.mark.parametrize(
  "name",
  [pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "t5")],
)
# Products in float32, by what is in their names, and why.
FLOAT32_PRODUCTS = {
  "router": "rounding would send tokens to other experts",
  "hsd,hsd->hs": "splash's sums of rows, no product of matrices",
  einsum.SUM: "a sum",
}
# Large float32 arrays that a step writes, and why.
FLOAT32_ARRAYS = {
  "splash_mha_fwd|shard_map": "log-sum-exps, over 128 lanes",
  "BKMH,BKSH->BKMS": "attention without a fused kernel: logits",
  r"position\.rotate|_heads/(query|key)/dot_general": "RoPE's angles",
  "BTD,DV->BTV": "the loss: logits",
  r"jvp\(vmap\(\)\)": "the loss: the head's gradient, a sum over all tokens",
  "final_norm": "once a step, not once a layer",
  "embedding.look_up": "the embedding's gradient, a sum over all tokens",
}


def kernels(name: str) -> Counter:
  """Counts the sizes of the kernels of a layer, by their elements."""
  return Counter(
    leaf.size // LAYERS
    for path, leaf in jax.tree.leaves_with_path(step(name).model.abstract())
    if "layers" in jax.tree_util.keystr(path) and leaf.size > LAYERS * SMALL
  )


def in_layers(name: str, kinds: str) -> Counter:
  """Counts the sizes of the large arrays of collectives in the layers."""
  return Counter(
    array.size
    for one in step(name).collectives
    for array in one.arrays
    if re.fullmatch(kinds, one.kind)
    and one.times == LAYERS
    and array.size > SMALL
  )


@pytest.mark.slow
@COMPILED
def test_a_pass_gathers_each_kernel_once_and_its_gradient_is_added_up_once(
  name,
):
  expected = kernels(name)
  assert len(expected) >= 2 and expected.total() >= 7
  gathered = {size: 2 * number for size, number in expected.items()}
  assert in_layers(name, "all-gather") == gathered
  assert in_layers(name, "reduce-scatter") == expected
  assert in_layers(name, "(?!all-gather|reduce-scatter).*") == {}


@COMPILED
def test_the_head_is_gathered_once_a_step_and_nothing_in_its_loop(name):
  found = step(name).collectives
  assert {one.times for one in found} == {1, LAYERS}
  head = [
    (one.kind, array.dtype)
    for one in found
    for array in one.arrays
    if array.shape == (WIDTH, VOCAB)
  ]
  assert sorted(head) == [("all-gather", "bf16"), ("reduce-scatter", "f32")]


@COMPILED
def test_layers_send_bfloat16(name):
  arrays = {
    array.dtype
    for one in step(name).collectives
    for array in one.arrays
    if one.times == LAYERS and array.size > SMALL
    and one.kind != "all-reduce"
  }  # fmt: skip
  assert arrays == {"bf16"}


@COMPILED
def test_large_arrays_of_float32_are_those_with_a_reason(name):
  lengths = step(name).lengths
  names = {
    f"{one.name} {one.op_name}"
    for one in step(name).executed()
    for array in one.outputs
    if array.dtype == "f32"
    and lengths.intersection(array.shape)
    and array.size >= 2 * min(lengths) * WIDTH
    and one.opcode in ("fusion", "convert", "custom-call")
  }
  reasons = "|".join(FLOAT32_ARRAYS)
  assert [name for name in names if not re.search(reasons, name)] == []


@pytest.mark.parametrize("name", [*FUSED, "t5"])
def test_products_are_of_bfloat16(name):
  products = [
    f"{names} {one.invars[0].aval}"
    for names, one in step(name).equations
    if one.primitive.name == "dot_general"
    and {str(x.aval.dtype) for x in one.invars} != {"bfloat16"}
  ]
  reasons = "|".join(FLOAT32_PRODUCTS)
  assert [name for name in products if not re.search(reasons, name)] == []
  assert len(step(name).equations) > 100


@pytest.mark.parametrize("name", FUSED)
def test_fused_attention_makes_no_array_of_queries_by_keys(name):
  lengths = step(name).lengths
  shapes = {
    x.aval.shape
    for _, one in step(name).equations
    for x in one.outvars
    if hasattr(x.aval, "shape")
  }
  assert [s for s in shapes if sum(n in lengths for n in s) > 1] == []
  names = {one.primitive.name for _, one in step(name).equations}
  assert "pallas_call" in names
