"""Attention rules, and the masks that they give.

A rule says which keys a query may attend to. It need not know of padding and
packing: `mask` always keeps attention within a segment and away from padding.
With five tokens, of which two are the prefix (queries down, keys across, x =
attended to):

    Full         Causal       PrefixCausal   Window(2)
    x x x x x    x . . . .    x x . . .      x . . . .
    x x x x x    x x . . .    x x . . .      x x . . .
    x x x x x    x x x . .    x x x . .      . x x . .
    x x x x x    x x x x .    x x x x .      . . x x .
    x x x x x    x x x x x    x x x x x      . . . x x

Some rules also state themselves as a pattern (nn/kernels/visibility.py), from
which a kernel computes the mask block by block.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.nn.kernels.visibility import Pattern, Visibility


class TokenInfo(NamedTuple):
  """Where each token of a row stands; all [B, T] or [1, T].

  Attributes:
    index: position in the row, int32, for order and relative distance.
    position: position in its own document, int32, for position encodings.
    segment: number of the document in a packed row, int32; 0 is padding.
    prefix: whether the token belongs to the bidirectional prefix, bool.
    features: what else the task says of each token, by name, int32; only the
      modules that name a feature read it ("block_positions", "token_types").
  """

  index: jax.Array
  position: jax.Array
  segment: jax.Array
  prefix: jax.Array
  features: Mapping[str, jax.Array] = {}


class AttentionRule(Protocol):
  """Maps query and key tokens to a mask, bool [B or 1, T, S].

  True where the query may attend to the key. A rule may have a method
  `pattern`, without arguments, that returns the Pattern of its masks; only such
  rules are taken by fused kernels.
  """

  def __call__(self, query: TokenInfo, key: TokenInfo) -> jax.Array: ...


@dataclasses.dataclass(frozen=True)
class Full:
  """Lets every token attend to every token (encoders, cross-attention)."""

  def __call__(self, query: TokenInfo, key: TokenInfo) -> jax.Array:
    return jnp.ones((1, query.index.shape[1], key.index.shape[1]), bool)

  def pattern(self) -> Pattern:
    return Pattern()


@dataclasses.dataclass(frozen=True)
class Causal:
  """Lets a token attend to itself and to the tokens before it."""

  def __call__(self, query: TokenInfo, key: TokenInfo) -> jax.Array:
    return query.index[:, :, None] >= key.index[:, None, :]

  def pattern(self) -> Pattern:
    return Pattern(causal=True)


@dataclasses.dataclass(frozen=True)
class PrefixCausal:
  """Lets a token attend to the whole prefix, and causally to the rest.

  A prefix-LM, or non-causal decoder (Raffel et al. 2020, arXiv:1910.10683,
  section 3.2.1).
  """

  def __call__(self, query: TokenInfo, key: TokenInfo) -> jax.Array:
    return Causal()(query, key) | key.prefix[:, None, :]

  def pattern(self) -> Pattern:
    return Pattern(causal=True, prefix=True)


@dataclasses.dataclass(frozen=True)
class Window:
  """Lets a token attend to itself and the `size - 1` tokens before it.

  Sliding-window attention, causal (Beltagy et al. 2020, arXiv:2004.05150).
  """

  size: checks.Count

  def __post_init__(self):
    checks.fields(self)

  def __call__(self, query: TokenInfo, key: TokenInfo) -> jax.Array:
    distance = query.index[:, :, None] - key.index[:, None, :]
    return (distance >= 0) & (distance < self.size)

  def pattern(self) -> Pattern:
    return Pattern(causal=True, window=self.size)


@dataclasses.dataclass(frozen=True)
class LocalWindow:
  """Lets a token attend to those at most `radius` away, on both sides.

  Local attention for encoders (Beltagy et al. 2020, arXiv:2004.05150).
  """

  radius: checks.Whole

  def __post_init__(self):
    checks.fields(self)

  def __call__(self, query: TokenInfo, key: TokenInfo) -> jax.Array:
    distance = query.index[:, :, None] - key.index[:, None, :]
    return jnp.abs(distance) <= self.radius

  def pattern(self) -> Pattern:
    return Pattern(radius=self.radius)


@dataclasses.dataclass(frozen=True)
class Sinks:
  """Lets every token attend to the first `count` of its document.

  Attention sinks beside a window, `Or((Window(512), And((Causal(),
  Sinks(4)))))`: Xiao et al. 2023, arXiv:2309.17453.
  """

  count: checks.Whole

  def __post_init__(self):
    checks.fields(self)

  def __call__(self, query: TokenInfo, key: TokenInfo) -> jax.Array:
    rows, keys = key.position.shape
    first_B1S = (key.position < self.count)[:, None, :]
    return jnp.broadcast_to(first_B1S, (rows, query.index.shape[1], keys))


@dataclasses.dataclass(frozen=True)
class And:
  """Lets a token attend where all of its rules do."""

  rules: tuple[AttentionRule, ...]

  def __post_init__(self):
    checks.fields(self)
    object.__setattr__(self, "rules", tuple(self.rules))

  def __call__(self, query: TokenInfo, key: TokenInfo) -> jax.Array:
    return functools.reduce(
      jnp.logical_and, (rule(query, key) for rule in self.rules)
    )


@dataclasses.dataclass(frozen=True)
class Or:
  """Lets a token attend where at least one of its rules does."""

  rules: tuple[AttentionRule, ...]

  def __post_init__(self):
    checks.fields(self)
    object.__setattr__(self, "rules", tuple(self.rules))

  def __call__(self, query: TokenInfo, key: TokenInfo) -> jax.Array:
    return functools.reduce(
      jnp.logical_or, (rule(query, key) for rule in self.rules)
    )


def reads_prefix(rule: AttentionRule) -> bool:
  """Tells whether a rule, or one that it is made of, is PrefixCausal."""
  parts = getattr(rule, "rules", ())
  return isinstance(rule, PrefixCausal) or any(map(reads_prefix, parts))


def looks_ahead(rule: AttentionRule) -> bool:
  """Tells whether a token of a prompt may attend to one after it.

  Found by asking the rule for the mask of eight tokens of one prefix.
  """
  with jax.ensure_compile_time_eval():
    index_BT = jnp.arange(8, dtype=jnp.int32)[None]
    ones_BT = jnp.ones_like(index_BT)
    tokens = TokenInfo(index_BT, index_BT, ones_BT, ones_BT > 0)
    return bool(jnp.any(jnp.triu(mask(rule, tokens, tokens), k=1)))


def mask(rule: AttentionRule, query: TokenInfo, key: TokenInfo) -> jax.Array:
  """Returns a rule's mask, restricted to segments and without padding.

  Returns:
    bool [B, T, S], True where the query attends to the key.
  """
  same_segment = query.segment[:, :, None] == key.segment[:, None, :]
  return rule(query, key) & same_segment & (key.segment != 0)[:, None, :]


def pattern(rule: AttentionRule) -> Pattern | None:
  """Returns the pattern that a rule states, or None if it has only masks."""
  return rule.pattern() if hasattr(rule, "pattern") else None


def visibility(
  rule: AttentionRule, query: TokenInfo, key: TokenInfo, *, with_mask: bool
) -> Visibility:
  """Returns which keys the queries may attend to under a rule.

  Args:
    rule: the attention rule.
    query, key: where the tokens stand.
    with_mask: whether the mask is made as an array.
  """
  stated = pattern(rule)
  return Visibility(
    query.segment, key.segment, query.index, key.index, stated,
    prefix_BS=key.prefix if stated and stated.prefix else None,
    mask_BTS=mask(rule, query, key) if with_mask else None,
  )  # fmt: skip
