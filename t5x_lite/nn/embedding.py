"""Embedding: vectors of tokens and of their types."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.nn.attention_rules import TokenInfo
from t5x_lite.nn.parameters import parameter


class Tables(NamedTuple):
  """The vectors of all tokens and of all their types, float32.

  Attributes:
    token_VD: of tokens.
    type_UD: of the types, U of them, or None.
  """

  token_VD: jax.Array
  type_UD: jax.Array | None


class Embedding(nn.Module):
  """Looks up a vector for each token, and adds one of its type.

  Attributes:
    width: of the vectors, if not the Transformer's: a projection follows them
      (Lan et al. 2019, arXiv:1909.11942, section 3.1).
    scale: whether the vectors of tokens are multiplied by the square root of
      their width (Vaswani et al. 2017, section 3.4; Gemma).
    num_token_types: vectors added by the type of a token (BERT's sentence A or
      B); 0 for none.
    stddev: of the initial values.
  """

  width: checks.Count | None = None
  scale: bool = False
  num_token_types: checks.Whole = 0
  stddev: checks.NotNegative = 1.0

  def __post_init__(self):
    checks.fields(self)
    super().__post_init__()

  @nn.compact
  def tables(self, vocab_size: int, width: int) -> Tables:
    """Returns the tables, of the Transformer's width if there is no other."""
    width = self.width or width

    def table(name, axis, size):
      init = nn.initializers.normal(self.stddev)
      return parameter(self, name, (axis, "embed"), (size, width), init)

    token_VD = table("token_embedding", "vocab", vocab_size)
    if not self.num_token_types:
      return Tables(token_VD, None)
    return Tables(
      token_VD, table("type_embedding", "types", self.num_token_types)
    )

  def look_up(
    self, tables: Tables, ids_BT: jax.Array, tokens: TokenInfo, dtype
  ) -> jax.Array:
    """Returns vectors [B, T, D] of this dtype.

    Tokens without the feature "token_types" are of type 0.
    """
    x_BTD = jnp.take(tables.token_VD, ids_BT, axis=0).astype(dtype)
    if self.scale:
      x_BTD *= jnp.asarray(math.sqrt(x_BTD.shape[-1]), dtype)
    if tables.type_UD is not None:
      types_BT = tokens.features.get("token_types", jnp.zeros_like(ids_BT))
      x_BTD += jnp.take(tables.type_UD, types_BT, axis=0).astype(dtype)
    return x_BTD
