"""Constraints: which tokens may come where in generated text, and its end."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraints:
  """What holds for a model's generated text, whatever the sampler.

  The fields are those of `transformers`' generation_config.json and mean the
  same. Lengths without `new` count the prompt, start token included.

  Attributes:
    ends: ids that end a text; none is the vocabulary's EOS.
    first: the id that comes first, where the start token stands alone before
      it, as in an encoder-decoder (forced_bos_token_id).
    last: the id that comes last in a text that reaches its greatest length
      (forced_eos_token_id).
    suppressed: ids that never come (suppress_tokens, and bad_words_ids of one
      token).
    suppressed_first: ids that do not come first, or after `first`
      (begin_suppress_tokens).
    min_length, min_new_tokens: no text ends before.
    max_length, max_new_tokens: where texts end unless a caller says; the latter
      wins.

  Raises:
    ValueError: a negative id, a length that leaves no token, or an id that is
      both forced and suppressed.
  """

  ends: Sequence[int] = ()
  first: int | None = None
  last: int | None = None
  suppressed: Sequence[int] = ()
  suppressed_first: Sequence[int] = ()
  min_length: int = 0
  min_new_tokens: int = 0
  max_length: int | None = None
  max_new_tokens: int | None = None

  def __post_init__(self):
    for name in ("ends", "suppressed", "suppressed_first"):
      # Hashable: a static argument of the compiled loop.
      object.__setattr__(self, name, tuple(getattr(self, name)))
    for name, ids in self.ids().items():
      for token in ids:
        if type(token) is not int or token < 0:
          raise ValueError(f"{name} ({token!r}) must be a token id, from 0")
    for name, least in (
      ("min_length", 0), ("min_new_tokens", 0), ("max_length", 2),
      ("max_new_tokens", 1),
    ):  # fmt: skip
      value, unsaid = getattr(self, name), type(self).__dict__[name]
      if value != unsaid and (type(value) is not int or value < least):
        raise ValueError(
          f"{name} ({value!r}) must be a whole number, at least {least}"
        )
    for name, token in (("first", self.first), ("last", self.last)):
      if token in self.suppressed:
        raise ValueError(
          f"{name} ({token}) is among suppressed, which never come: take it "
          "out of one of them"
        )

  def ids(self) -> dict[str, tuple[int, ...]]:
    """Returns field -> the token ids in it."""
    return {
      "ends": self.ends,
      "first": () if self.first is None else (self.first,),
      "last": () if self.last is None else (self.last,),
      "suppressed": self.suppressed,
      "suppressed_first": self.suppressed_first,
    }

  def end_ids(self, eos_id: int | None) -> tuple[int, ...]:
    """Returns the ids that end a text: `ends` or, without any, the EOS."""
    return self.ends or (() if eos_id is None else (eos_id,))

  def check(self, known_V: np.ndarray, ends: Sequence[int]) -> None:
    """Refuses what some step could not follow.

    Args:
      known_V: which ids may come at all, bool [V].
      ends: as of `end_ids`.

    Raises:
      ValueError: a forced id is not known, or no id is left to come.
    """
    for name, token in (("first", self.first), ("last", self.last)):
      if token is not None and not known_V[token : token + 1].any():
        raise ValueError(
          f"{name} ({token}) is forced, but there is no such token among the "
          f"{known_V.sum()} that may come: correct {name} of the constraints"
        )
    barred = {"suppressed": self.suppressed}
    barred["suppressed_first"] = self.suppressed_first
    if self.min_length > 1 or self.min_new_tokens:
      barred["ends before the least length"] = ends
    among = {i for ids in barred.values() for i in ids if i < len(known_V)}
    if known_V.sum() <= known_V[list(among)].sum():
      raise ValueError(
        f"none of {known_V.sum()} tokens may come: constraints bar all, by "
        f"{', '.join(name for name, ids in barred.items() if ids)}"
      )

  def unbounded(self) -> "Constraints":
    """Returns the same for a caller that says itself how long texts may get."""
    return dataclasses.replace(self, max_length=None, max_new_tokens=None)

  def allow(
    self,
    logits_BV: jax.Array,
    *,
    step: jax.Array,
    prompt_length_B: jax.Array,
    limit_B: jax.Array,
    end_ids: jax.Array,
  ) -> jax.Array:
    """Returns the logits of the tokens that may come, -inf for the others.

    Args:
      logits_BV: of the next token.
      step: how many tokens came before it, int32 scalar.
      prompt_length_B: tokens of the prompt.
      limit_B: tokens that may come in all.
      end_ids: int32 [N], of tokens that end a text.
    """
    ids_V = jnp.arange(logits_BV.shape[-1])
    alone_B = prompt_length_B == 1
    if self.min_length or self.min_new_tokens:
      early_B = (prompt_length_B + step < self.min_length) | (
        step < self.min_new_tokens
      )
      logits_BV = _without(logits_BV, early_B, jnp.isin(ids_V, end_ids))
    if self.suppressed:
      always_B = jnp.ones_like(alone_B)
      removed_V = jnp.isin(ids_V, jnp.array(self.suppressed))
      logits_BV = _without(logits_BV, always_B, removed_V)
    if self.suppressed_first:
      first_free_B = jnp.where(alone_B & (self.first is not None), 1, 0)
      removed_V = jnp.isin(ids_V, jnp.array(self.suppressed_first))
      logits_BV = _without(logits_BV, step == first_free_B, removed_V)
    if self.first is not None:
      only_V = jnp.where(ids_V == self.first, 0.0, -jnp.inf)
      here_B = alone_B & (step == 0)
      logits_BV = jnp.where(here_B[:, None], only_V, logits_BV)
    if self.last is not None:
      only_V = jnp.where(ids_V == self.last, 0.0, -jnp.inf)
      here_B = step == limit_B - 1
      logits_BV = jnp.where(here_B[:, None], only_V, logits_BV)
    return logits_BV


def _without(logits_BV, here_B, removed_V):
  return jnp.where(here_B[:, None] & removed_V, -jnp.inf, logits_BV)
