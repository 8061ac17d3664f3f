"""Phrases: sequences of tokens that texts must not have, or must have."""

import collections
import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.decoding.texts import Texts, mark, without


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phrases:
  """Keeps phrases out of generated texts, or brings them in.

  Attributes:
    banned: phrases that are never completed, of one or several token ids; one
      may begin in the prompt of a decoder-only model (`bad_words_ids` in
      `transformers`).
    forced: phrases that every text has, in any order, of one or several token
      ids (`force_words_ids` in `transformers`, moved to community code); for
      `Beam` alone (forced.py).

  Raises:
    ValueError: an empty phrase or a negative id.
  """

  banned: Sequence[Sequence[checks.Whole]] = ()
  forced: Sequence[Sequence[checks.Whole]] = ()

  def __post_init__(self):
    checks.fields(self)
    for name in ("banned", "forced"):
      given = getattr(self, name)
      if not all(given):
        raise ValueError(
          f"Phrases.{name} ({given!r}) has a phrase without tokens: remove it"
        )
      # Hashable: a static argument of the compiled loop.
      phrases = tuple(tuple(map(int, phrase)) for phrase in given)
      object.__setattr__(self, name, tuple(dict.fromkeys(phrases)))

  def ban(self, logits_BV: jax.Array, texts: Texts) -> jax.Array:
    """Returns the logits with -inf for tokens that complete a banned phrase.

    Args:
      logits_BV: of the next token.
      texts: the tokens so far.
    """
    by_length = collections.defaultdict(list)
    for phrase in self.banned:
      by_length[len(phrase)].append(phrase)
    removed_BV = jnp.zeros(logits_BV.shape, bool)
    for length, phrases in by_length.items():
      phrases_PN = jnp.array(phrases)
      suffix_B1N = texts.suffix(length - 1)[:, None]
      ends_BP = jnp.all(suffix_B1N == phrases_PN[:, :-1], axis=-1)
      last_BP = jnp.broadcast_to(phrases_PN[:, -1], ends_BP.shape)
      removed_BV = mark(removed_BV, last_BP, ends_BP)
    return without(logits_BV, removed_BV)
