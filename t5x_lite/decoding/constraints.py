"""Constrains generated text: forced and excluded tokens, and lengths."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import checks
from t5x_lite.decoding.automata import Automaton
from t5x_lite.decoding.phrases import Phrases
from t5x_lite.decoding.repetition import Repetition
from t5x_lite.decoding.texts import Texts, without


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraints:
  """Holds a model's constraints on generation, whatever the sampler.

  The fields have the meaning of `transformers`' generation_config.json.
  Lengths without `new` count the prompt, start token included.

  Attributes:
    ends: ids that end a text; empty for the vocabulary's EOS.
    first: the id forced as the first token if the prompt is a start token only,
      as in an encoder-decoder (forced_bos_token_id).
    last: the id forced as the last token of a text that reaches the maximum
      length (forced_eos_token_id).
    suppressed: ids that are never generated (suppress_tokens, and bad_words_ids
      of one token).
    suppressed_first: ids that are not generated as the first token, or as the
      one after `first` (begin_suppress_tokens).
    min_length, min_new_tokens: no text ends before this length.
    max_length, max_new_tokens: the default maximum length, if a caller gives
      none; the latter takes precedence.
    repetition: what becomes of tokens that a text already has.
    phrases: sequences of tokens that no text may have, or that all must have.
    among: the texts of which one must be generated, a Trie or a Regex; what
      `first` forces comes before it.

  Raises:
    ValueError: a negative id, a length that leaves no token, or an id that is
      both forced and suppressed.
  """

  ends: Sequence[checks.Whole] = ()
  first: checks.Whole | None = None
  last: checks.Whole | None = None
  suppressed: Sequence[checks.Whole] = ()
  suppressed_first: Sequence[checks.Whole] = ()
  min_length: checks.Whole = 0
  min_new_tokens: checks.Whole = 0
  max_length: Annotated[int, checks.Range(2, 2**31 - 1)] | None = None
  max_new_tokens: checks.Count | None = None
  repetition: Repetition | None = None
  phrases: Phrases | None = None
  among: Automaton | None = None

  def __post_init__(self):
    checks.fields(self)
    for name in ("ends", "suppressed", "suppressed_first"):
      # Hashable: a static argument of the compiled loop.
      object.__setattr__(self, name, tuple(getattr(self, name)))
    for name, token in (("first", self.first), ("last", self.last)):
      if token in self.suppressed:
        raise ValueError(
          f"{name} ({token}) is also in suppressed, so it can never be "
          "generated: remove it from one of them"
        )

  def ids(self) -> dict[str, tuple[int, ...]]:
    """Returns {field: the token ids in it}."""
    return {
      "ends": self.ends,
      "first": () if self.first is None else (self.first,),
      "last": () if self.last is None else (self.last,),
      "suppressed": self.suppressed,
      "suppressed_first": self.suppressed_first,
    }

  def end_ids(self, eos_id: int | None) -> tuple[int, ...]:
    """Returns the ids that end a text: `ends` or, if empty, the EOS."""
    return self.ends or (() if eos_id is None else (eos_id,))

  def check(self, known_V: np.ndarray, ends: Sequence[int]) -> None:
    """Refuses constraints that leave no token at some step.

    Args:
      known_V: marks the ids that may be generated at all, bool [V].
      ends: the result of `end_ids`.

    Raises:
      ValueError: a forced id is not in `known_V`, or no id is left.
    """
    for name, token in (("first", self.first), ("last", self.last)):
      if token is not None and not known_V[token : token + 1].any():
        raise ValueError(
          f"{name} ({token}) is forced, but it is not one of the "
          f"{known_V.sum()} tokens of the vocabulary: correct {name} of the "
          "constraints"
        )
    self._check_among(known_V)
    self._check_forced(known_V, ends)
    barred = {"suppressed": self.suppressed}
    barred["suppressed_first"] = self.suppressed_first
    if self.min_length > 1 or self.min_new_tokens:
      barred["ends before the minimum length"] = ends
    among = {i for ids in barred.values() for i in ids if i < len(known_V)}
    if known_V.sum() <= known_V[list(among)].sum():
      raise ValueError(
        f"the constraints exclude all {known_V.sum()} tokens, by "
        f"{', '.join(name for name, ids in barred.items() if ids)}"
      )

  def _check_among(self, known_V):
    """Refuses texts that the vocabulary does not have."""
    if self.among is None:
      return
    unknown = sorted(
      i for i in self.among.ids() if not known_V[i : i + 1].any()
    )
    if unknown:
      raise ValueError(
        f"among has the id {unknown[0]}, which is not one of the "
        f"{known_V.sum()} tokens of the vocabulary: correct among of the "
        "constraints"
      )

  def _check_forced(self, known_V, ends):
    """Refuses a phrase that no text can have."""
    for phrase in self.forced:
      for token in phrase:
        if token in ends or not known_V[token : token + 1].any():
          raise ValueError(
            f"the forced phrase {phrase} has the id {token}, which is not one "
            f"of the {known_V.sum()} tokens of the vocabulary, or ends a text: "
            "correct forced of the phrases"
          )

  @property
  def forced(self) -> tuple[tuple[int, ...], ...]:
    """Returns the phrases that all texts must have."""
    return () if self.phrases is None else self.phrases.forced

  def check_length(self, max_new_tokens: int) -> None:
    """Refuses a maximum length in which what must come has no room.

    Raises:
      ValueError: says how many tokens are needed.
    """
    needed = sum(map(len, self.forced))
    if needed > max_new_tokens:
      raise ValueError(
        f"max_new_tokens={max_new_tokens} is less than the {needed} tokens of "
        "the forced phrases: raise it"
      )
    if self.among is None:
      return
    shortest = self.among.shortest + (self.last is not None)
    if shortest > max_new_tokens:
      raise ValueError(
        f"max_new_tokens={max_new_tokens} is less than the {shortest} tokens "
        f"of the shortest text that {type(self.among).__name__} allows: raise "
        "it"
      )

  def unbounded(self) -> "Constraints":
    """Returns a copy without maximum lengths, for callers that give one."""
    return dataclasses.replace(self, max_length=None, max_new_tokens=None)

  def allow(
    self,
    logits_BV: jax.Array,
    *,
    prompts: Texts,
    tokens_BT: jax.Array,
    step: jax.Array,
    limit_B: jax.Array,
    end_ids: jax.Array,
  ) -> jax.Array:
    """Returns the logits with -inf for the tokens that are not allowed.

    Args:
      logits_BV: the logits of the next token, or its log probabilities.
      prompts: the tokens before the first generated one.
      tokens_BT: what was generated; from column `step` on anything.
      step: the number of tokens generated so far, int32 scalar.
      limit_B: the maximum number of tokens to generate.
      end_ids: int32 [N], the ids that end a text.
    """
    ids_V = jnp.arange(logits_BV.shape[-1])
    prompt_length_B = prompts.length_B
    alone_B = prompt_length_B == 1
    texts = prompts.continued(tokens_BT, step)
    if self.repetition is not None:
      logits_BV = self.repetition.apply(logits_BV, texts, prompt_length_B)
    if self.phrases is not None:
      logits_BV = self.phrases.ban(logits_BV, texts)
    if self.min_length or self.min_new_tokens:
      early_B = (prompt_length_B + step < self.min_length) | (
        step < self.min_new_tokens
      )
      ends_V = jnp.isin(ids_V, end_ids)
      logits_BV = without(logits_BV, early_B[:, None] & ends_V)
    forced_B = alone_B & (self.first is not None)
    if self.among is not None:
      allowed_BV = self.among.allowed(
        tokens_BT,
        forced_B.astype(jnp.int32),
        step,
        limit_B - step - (self.last is not None),
        end_ids,
        len(ids_V),
      )
      logits_BV = without(logits_BV, ~allowed_BV)
    if self.suppressed:
      removed_V = jnp.isin(ids_V, jnp.array(self.suppressed))
      logits_BV = without(logits_BV, removed_V)
    if self.suppressed_first:
      removed_V = jnp.isin(ids_V, jnp.array(self.suppressed_first))
      here_B = step == jnp.where(forced_B, 1, 0)
      logits_BV = without(logits_BV, here_B[:, None] & removed_V)
    if self.first is not None:
      only_V = jnp.where(ids_V == self.first, 0.0, -jnp.inf)
      here_B = forced_B & (step == 0)
      logits_BV = jnp.where(here_B[:, None], only_V, logits_BV)
    if self.last is not None:
      only_V = jnp.where(ids_V == self.last, 0.0, -jnp.inf)
      here_B = step == limit_B - 1
      logits_BV = jnp.where(here_B[:, None], only_V, logits_BV)
    return logits_BV
