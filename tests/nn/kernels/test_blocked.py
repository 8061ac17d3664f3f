"""The blocks of queries that a CPU attends by, and the keys that each reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.nn.kernels import blocked
from t5x_lite.nn.kernels.visibility import Pattern, Visibility

CAUSAL = Pattern(causal=True)


@pytest.mark.parametrize(
  "pattern",
  [
    Pattern(), CAUSAL, Pattern(causal=True, window=30), Pattern(radius=200),
    Pattern(causal=True, prefix=True),
  ],
  ids=lambda pattern: pattern.name,
)  # fmt: skip
@pytest.mark.parametrize("length", [128, 300, 512, 2047])
def test_blocks_hold_every_pair_that_the_pattern_allows(pattern, length):
  distance = np.arange(length) - np.arange(length)[:, None]
  allowed = pattern.within(distance, distance)
  hidden = np.ones((length, length), bool)
  blocks = blocked.blocks(pattern, length, length)
  for queries, keys in blocks:
    hidden[queries, keys] = False
  assert len(blocks) <= 8
  missed = hidden if allowed is None or pattern.prefix else hidden & allowed
  assert not missed.any()


def products(pattern, length):
  """Returns the share of all pairs whose logits are computed."""
  blocks = blocked.blocks(pattern, length, length)
  sizes = [(q.stop - q.start) * (k.stop - k.start) for q, k in blocks]
  return sum(sizes) / length**2


def test_hidden_pairs_are_left_out():
  assert products(CAUSAL, 1024) == products(CAUSAL, 4096) == 9 / 16
  assert products(CAUSAL, 512) == 10 / 16
  assert products(Pattern(causal=True, window=64), 1024) < 0.19
  assert products(Pattern(), 1024) == 1


def test_no_array_has_all_pairs():
  length, tokens = 512, jnp.ones((2, 512), jnp.int32)
  index = jnp.arange(length)[None]
  visibility = Visibility(tokens, tokens, index, index, pattern=CAUSAL)

  def total(q):
    out = blocked.attend(q, q, q, visibility=visibility, scale=1.0)
    return jnp.sum(out)

  q = jnp.ones((2, 1, length, 8))
  jaxpr = jax.make_jaxpr(jax.grad(total))(q)
  shapes = str(jaxpr)
  assert f"{length // 4},{length}]" in shapes
  assert f"{length},{length}]" not in shapes
