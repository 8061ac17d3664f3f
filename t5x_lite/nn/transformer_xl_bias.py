"""Transformer-XL's relative position bias, with weights of each layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.nn.attention_rules import TokenInfo
from t5x_lite.nn.linear import Dense, FanIn, Init
from t5x_lite.nn.parameters import parameter
from t5x_lite.nn.positions import waves


class TransformerXLBias(nn.Module):
  """Adds a product of query and relative distance to the attention logits.

    logit(t, s) = (q_t + u) k_s + (q_t + v) W r_(t - s)

  r are the sinusoids of the distance; W, and u and v of each head, are learned.
  Dai et al. 2019 (Transformer-XL), arXiv:1901.02860, section 3.3; so do Gopher
  and Chinchilla.

  Attributes:
    base: of the geometric sequence of wavelengths.
    kernel_init: initialises W; u and v start at zero.
  """

  base: checks.Positive = 10_000.0
  kernel_init: Init = FanIn()

  def __post_init__(self):
    checks.fields(self)
    super().__post_init__()

  @nn.compact
  def __call__(
    self, q_BNTH: jax.Array, query: TokenInfo, key: TokenInfo, width: int
  ) -> tuple[jax.Array, jax.Array]:
    """Returns queries with u added, and the bias on the logits [B, N, T, S].

    Args:
      q_BNTH: queries.
      query, key: where the tokens stand; indices below the number of keys.
      width: D, of the sinusoids.
    """
    _, heads, _, head_dim = q_BNTH.shape
    # All distances there can be: -(S - 1) to S - 1.
    last = key.index.shape[1] - 1
    distance_Z = jnp.arange(-last, last + 1)
    r_ZNH = Dense(
      (width,), (heads, head_dim), ("embed", "heads", "head_dim"),
      kernel_init=self.kernel_init, name="distance",
    )(waves(distance_Z, width, self.base).astype(q_BNTH.dtype))  # fmt: skip
    u_N1H, v_N1H = (
      self._vector(name, heads, head_dim).astype(q_BNTH.dtype)
      for name in ("key_bias", "distance_bias")
    )
    logits_BNTZ = jnp.einsum(
      "BNTH,ZNH->BNTZ", q_BNTH + v_N1H, r_ZNH,
      preferred_element_type=jnp.float32,
    )  # fmt: skip
    distance_BTS = query.index[:, :, None] - key.index[:, None, :]
    logits_BNTS = jnp.take_along_axis(
      logits_BNTZ, (distance_BTS + last)[:, None], axis=-1
    )
    return q_BNTH + u_N1H, logits_BNTS

  def _vector(self, name, heads, head_dim):
    axes, zeros = ("heads", "head_dim"), nn.initializers.zeros
    return parameter(self, name, axes, (heads, head_dim), zeros)[:, None]
