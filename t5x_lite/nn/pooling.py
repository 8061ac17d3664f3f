"""Mean pooling of neighbouring tokens.

Tay et al. 2021 (Charformer), arXiv:2106.12672, section 2.2.
"""

import jax
import jax.numpy as jnp

from t5x_lite.nn.attention_rules import TokenInfo


def pool(x_BTD: jax.Array, tokens: TokenInfo, size: int) -> jax.Array:
  """Averages every `size` neighbours, padding aside: [B, T / size, D]."""
  batch, length, _ = x_BTD.shape
  real_BT1 = (tokens.segment != 0)[..., None]
  real_BT1 = jnp.broadcast_to(real_BT1, (batch, length, 1))
  rest = ((0, 0), (0, -length % size), (0, 0))

  def sums(y):
    return jnp.pad(y, rest).reshape(batch, -1, size, y.shape[-1]).sum(axis=2)

  real_BT1 = real_BT1.astype(x_BTD.dtype)
  return sums(x_BTD * real_BT1) / jnp.maximum(sums(real_BT1), 1)


def pooled_tokens(tokens: TokenInfo, size: int) -> TokenInfo:
  """Returns where the pooled tokens stand."""
  first = jax.tree.map(lambda x: x[:, ::size], tokens)
  return first._replace(
    index=first.index // size, position=first.position // size
  )
