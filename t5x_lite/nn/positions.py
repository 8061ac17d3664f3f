"""Position encodings, one small class each.

An encoding may act in three places, and each class overrides those it uses:
`embed` adds to the embeddings once, `rotate` rotates queries and keys in every
layer, `bias` adds to the attention logits of every layer.
"""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import checks
from t5x_lite.nn.attention_rules import TokenInfo
from t5x_lite.nn.kernels import partition
from t5x_lite.nn.kernels.bias import Bias, Buckets, Slopes
from t5x_lite.nn.parameters import parameter
from t5x_lite.nn.rope_scaling import RopeScaling


class PositionEncoding(nn.Module):
  """Base of all encodings; does nothing by itself.

  Attributes:
    token_features: the names in TokenInfo.features that it reads.
    bias_type: the type of its bias, if not an array.
  """

  token_features: ClassVar[tuple[str, ...]] = ()
  bias_type: ClassVar[type | None] = None

  def check(self, num_heads: int, head_dim: int):
    """Refuses attention heads that the encoding does not fit."""
    del num_heads, head_dim

  @property
  def bias_kind(self) -> str | None:
    """The kind of its bias, as the table of kernels names it; None for none."""
    if type(self).bias is PositionEncoding.bias:
      return None
    return self.bias_type.__name__.lower() if self.bias_type else "array"

  @property
  def embeds(self) -> bool:
    """Whether the encoding is added to the embeddings."""
    return type(self).embed is not PositionEncoding.embed

  def embed(self, x_BTD: jax.Array, tokens: TokenInfo) -> jax.Array:
    """Adds the encoding to the embeddings [B, T, D]."""
    del tokens
    return x_BTD

  def rotate(self, x_BNTH: jax.Array, tokens: TokenInfo) -> jax.Array:
    """Rotates queries or keys [B, N, T, H] by their positions."""
    del tokens
    return x_BNTH

  def bias(self, query: TokenInfo, key: TokenInfo) -> Bias:
    """Returns what is added to the logits.

    [B or 1, N or 1, T, S], a function of the distance, whose type is then
    `bias_type`, or None.
    """
    del query, key
    return None

  def following(
    self, tokens: TokenInfo, steps: jax.Array | int = 1
  ) -> TokenInfo:
    """Returns the info of the tokens generated `steps` after these."""
    return tokens._replace(
      index=tokens.index + steps, position=tokens.position + steps
    )


class NoPosition(PositionEncoding):
  """Encodes nothing: order shows in the attention rule alone (NoPE)."""


class T5Bias(PositionEncoding):
  """Adds one learned scalar per head and bucket of relative distance.

  Distances below half of the buckets have a bucket each; the others share
  buckets that widen logarithmically up to `max_distance`.
  Raffel et al. 2020, arXiv:1910.10683, section 2.1.

  Attributes:
    bidirectional: whether half of the buckets are for keys after the query
      (encoders).
  """

  bias_type = Buckets

  num_heads: checks.Count
  bidirectional: bool
  num_buckets: checks.Count = 32
  max_distance: checks.Count = 128

  def __post_init__(self):
    checks.fields(self)
    # Half of one direction's buckets are of one distance each.
    exact = self.num_buckets // (4 if self.bidirectional else 2)
    if exact < 1:
      least = 4 if self.bidirectional else 2
      raise ValueError(
        f"T5Bias.num_buckets ({self.num_buckets}) must be at least {least}"
      )
    if self.max_distance <= exact:
      raise ValueError(
        f"T5Bias.max_distance ({self.max_distance}) must be greater than the "
        f"{exact} buckets of one distance"
      )
    super().__post_init__()

  def check(self, num_heads: int, head_dim: int):
    del head_dim
    _same_heads(self, num_heads)

  @nn.compact
  def bias(self, query: TokenInfo, key: TokenInfo) -> Buckets:
    del query, key
    table = parameter(
      self, "relative_bias", ("buckets", "heads"),
      (self.num_buckets, self.num_heads),
      nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
    )  # fmt: skip
    return Buckets(table, self.bidirectional, self.max_distance)


class Alibi(PositionEncoding):
  """Lowers the logits of a head in proportion to the distance.

  The slopes are a geometric sequence over the heads, 2^-1 to 2^-8 for eight.
  Press et al. 2021, arXiv:2108.12409; other numbers than powers of two take
  every second slope of the next power for the rest (BLOOM's code).

  Attributes:
    num_heads: N.
  """

  bias_type = Slopes

  num_heads: checks.Count

  def __post_init__(self):
    checks.fields(self)
    super().__post_init__()

  def check(self, num_heads: int, head_dim: int):
    del head_dim
    _same_heads(self, num_heads)

  def bias(self, query: TokenInfo, key: TokenInfo) -> Slopes:
    del query, key
    return Slopes(jnp.array(self.slopes(), jnp.float32))

  def slopes(self) -> list[float]:
    """Returns a slope per head."""
    power = 2 ** math.floor(math.log2(self.num_heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    rest = self.num_heads - power
    between = [2 ** (-4 * (2 * i + 1) / power) for i in range(rest)]
    return slopes + between


class Rope(PositionEncoding):
  """Rotates pairs of query and key features by angles that grow with position.

  Eq. 34, Su et al. 2021, arXiv:2104.09864.

  Attributes:
    base: of the geometric sequence of wavelengths.
    fraction: share of a head's features, the first ones, that is rotated.
    interleaved: whether feature 2i is paired with 2i + 1 (the paper, GPT-J,
      GLM), or feature i with i + half (GPT-NeoX, LLaMA).
    scaling: changes the frequencies for longer texts, or None.
  """

  base: checks.Positive = 10_000.0
  fraction: float = 1.0
  interleaved: bool = False
  scaling: RopeScaling | None = None

  def __post_init__(self):
    checks.fields(self)
    if not 0 < self.fraction <= 1:
      raise ValueError(f"Rope.fraction ({self.fraction}) must be in (0, 1]")
    super().__post_init__()

  def check(self, num_heads: int, head_dim: int):
    del num_heads
    if self._rotated(head_dim) % 2:
      part = "" if self.fraction == 1 else f" times fraction ({self.fraction})"
      raise ValueError(
        f"Rope rotates pairs: head_dim ({head_dim}){part} must be even"
      )

  def _rotated(self, head_dim: int) -> int:
    return int(head_dim * self.fraction + 1e-6)

  def rotate(self, x_BNTH: jax.Array, tokens: TokenInfo) -> jax.Array:
    dims = self._rotated(x_BNTH.shape[-1])
    half = dims // 2
    frequency = self.base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    amplitude = 1.0
    if self.scaling is not None:
      frequency = self.scaling.frequencies(frequency, self.base)
      amplitude = self.scaling.amplitude
    # float32: positions past 256 are not exact in bfloat16.
    angle_B1Th = (tokens.position[:, None, :, None] * frequency).astype(
      jnp.float32
    )
    sin, cos = amplitude * jnp.sin(angle_B1Th), amplitude * jnp.cos(angle_B1Th)
    if partition.platform() == "tpu":
      return _turned_by_matmul(x_BNTH, sin, cos, self.interleaved)
    x32 = x_BNTH[..., :dims].astype(jnp.float32)
    if self.interleaved:
      first, second = x32[..., ::2], x32[..., 1::2]
    else:
      first, second = jnp.split(x32, 2, axis=-1)
    pair = [first * cos - second * sin, second * cos + first * sin]
    if self.interleaved:
      turned = jnp.stack(pair, axis=-1).reshape(x32.shape)
    else:
      turned = jnp.concatenate(pair, axis=-1)
    turned = turned.astype(x_BNTH.dtype)
    if dims == x_BNTH.shape[-1]:
      return turned
    return jnp.concatenate([turned, x_BNTH[..., dims:]], axis=-1)


def _turned_by_matmul(x_BNTH, sin_B1Th, cos_B1Th, interleaved):
  """Rotates the first 2h features; a matrix swaps those of each pair.

  For TPUs, to which cutting a head's features means to move them between the
  lanes of a register: beside that, a product with [H, H] is cheap. It is exact,
  as only one of its terms is not zero.
  """
  half, width = sin_B1Th.shape[-1], x_BNTH.shape[-1]
  features = np.arange(2 * half)
  first, second = (
    features.reshape(-1, 2).T if interleaved else features.reshape(2, -1)
  )
  swap_HH = np.zeros((width, width), np.float32)
  swap_HH[second, first], swap_HH[first, second] = -1, 1

  def spread(x_B1Th, rest):
    pair = [x_B1Th, x_B1Th]
    axis = -1 if interleaved else -2
    x_B1TH = jnp.stack(pair, axis).reshape(*x_B1Th.shape[:-1], 2 * half)
    widths = [(0, 0)] * (x_B1TH.ndim - 1) + [(0, width - 2 * half)]
    return jnp.pad(x_B1TH, widths, constant_values=rest)

  exact = x_BNTH.dtype == jnp.float32
  swapped_BNTH = jnp.einsum(
    "BNTH,HI->BNTI", x_BNTH, swap_HH.astype(x_BNTH.dtype),
    precision=jax.lax.Precision.HIGHEST if exact else None,
  )  # fmt: skip
  turned_BNTH = x_BNTH.astype(jnp.float32) * spread(cos_B1Th, 1)
  turned_BNTH += swapped_BNTH.astype(jnp.float32) * spread(sin_B1Th, 0)
  return turned_BNTH.astype(x_BNTH.dtype)


class Sinusoidal(PositionEncoding):
  """Adds sines and cosines of geometric wavelengths, sin at even features.

  Section 3.5, Vaswani et al. 2017, arXiv:1706.03762.
  """

  base: checks.Positive = 10_000.0

  def __post_init__(self):
    checks.fields(self)
    super().__post_init__()

  def embed(self, x_BTD: jax.Array, tokens: TokenInfo) -> jax.Array:
    waves_BTD = waves(tokens.position, x_BTD.shape[-1], self.base)
    return x_BTD + waves_BTD.astype(x_BTD.dtype)


def waves(position: jax.Array, width: int, base: float) -> jax.Array:
  """Returns sines and cosines of positions, float32 [..., width]."""
  even = jnp.arange(0, width, 2, dtype=jnp.float32)
  angle = position[..., None] * base ** (-even / width)
  pairs = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
  return pairs.reshape(*angle.shape[:-1], -1)[..., :width]


class Learned(PositionEncoding):
  """Adds one learned vector per position (GPT, BERT).

  Attributes:
    max_length: number of positions; decoding beyond them gives NaN.
    stddev: of the initial values.
    offset: rows of the table before that of position 0 (2 in RoBERTa, BART
      and OPT, whose positions start after their padding id).
  """

  max_length: checks.Count
  stddev: checks.NotNegative = 0.02
  offset: checks.Whole = 0

  def __post_init__(self):
    checks.fields(self)
    super().__post_init__()

  @nn.compact
  def embed(self, x_BTD: jax.Array, tokens: TokenInfo) -> jax.Array:
    _check_length(self, tokens)
    rows = self.max_length + self.offset
    table = _table(self, "position_embedding", rows, x_BTD.shape[-1])
    return x_BTD + _rows(table, tokens.position + self.offset, x_BTD.dtype)


class Learned2D(PositionEncoding):
  """Adds two learned vectors: of the position in the text, and in the blank.

  Tokens that fill a blank all have the blank's position in the text, and count
  from 1 within it; tokens of the text itself have 0 there. Du et al. 2021
  (GLM), arXiv:2103.10360, section 2.1.

  Attributes:
    max_length: positions in the text.
    max_blank: positions in a blank.
    stddev: of the initial values.
  """

  token_features = ("block_positions",)

  max_length: checks.Count
  max_blank: checks.Count
  stddev: checks.NotNegative = 0.02

  def __post_init__(self):
    checks.fields(self)
    super().__post_init__()

  @nn.compact
  def embed(self, x_BTD: jax.Array, tokens: TokenInfo) -> jax.Array:
    if "block_positions" not in tokens.features:
      raise ValueError(
        "Learned2D needs positions within blanks, decoder_block_positions: "
        "use a GLM objective"
      )
    width, dtype = x_BTD.shape[-1], x_BTD.dtype
    text = _table(self, "position_embedding", self.max_length, width)
    blank = _table(self, "block_embedding", self.max_blank + 1, width)
    x_BTD += _rows(text, tokens.position, dtype)
    return x_BTD + _rows(blank, tokens.features["block_positions"], dtype)

  def following(
    self, tokens: TokenInfo, steps: jax.Array | int = 1
  ) -> TokenInfo:
    # What fills a blank keeps the blank's position in the text.
    in_block = tokens.features["block_positions"] + steps
    features = {**tokens.features, "block_positions": in_block}
    return tokens._replace(index=tokens.index + steps, features=features)


def _table(module, name, rows, width):
  init = nn.initializers.normal(module.stddev)
  return parameter(module, name, ("positions", "embed"), (rows, width), init)


def _rows(table, positions, dtype):
  # Not table[...], which repeats the last row for positions beyond it.
  return jnp.take(table, positions, 0).astype(dtype)


def _check_length(module, tokens):
  length = tokens.position.shape[1]
  if length > module.max_length:
    raise ValueError(
      f"rows of {length} tokens are longer than {type(module).__name__}"
      f".max_length ({module.max_length})"
    )


def _same_heads(module, num_heads):
  if num_heads != module.num_heads:
    raise ValueError(
      f"{type(module).__name__}.num_heads ({module.num_heads}) must equal "
      f"Attention.num_heads ({num_heads})"
    )
