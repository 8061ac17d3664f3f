"""Repetition: penalties on tokens that a text has, and no n-gram twice."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.decoding.texts import Texts, mark, without


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repetition:
  """Makes repeated tokens less probable, or impossible.

  A decoder-only model's prompt, and an encoder-decoder's start token, are part
  of the text; an encoder's inputs are not. Beam search penalises log
  probabilities, other strategies logits, as `transformers` does.

  Attributes:
    penalty: divides a positive logit, and multiplies a negative one, of each
      token of the text; above 1 discourages (Keskar et al. 2019,
      arXiv:1909.05858, section 4.1; `repetition_penalty` in `transformers`).
    presence_penalty: subtracted from the logit of each token that was
      generated, however often (as in OpenAI's and vLLM's interface).
    no_repeat_ngram_size: no sequence of this many tokens occurs twice in a text
      (Paulus et al. 2018, arXiv:1705.04304, section 2.5); 0 for any.

  Raises:
    ValueError: a setting is out of range.
  """

  penalty: checks.Positive = 1.0
  presence_penalty: Annotated[float, checks.Range(-1e4, 1e4)] = 0.0
  no_repeat_ngram_size: checks.Whole = 0

  def __post_init__(self):
    checks.fields(self)

  def apply(
    self, logits_BV: jax.Array, texts: Texts, prompt_length_B: jax.Array
  ) -> jax.Array:
    """Returns the logits after penalties; those of removed tokens are -inf.

    Args:
      logits_BV: logits, or log probabilities.
      texts: the prompts and what was generated so far.
      prompt_length_B: the lengths of the prompts.
    """
    none_BV = jnp.zeros(logits_BV.shape, bool)
    is_text_BS = texts.is_text_BS()
    if self.penalty != 1:
      seen_BV = mark(none_BV, texts.tokens_BS, is_text_BS)
      worse_BV = jnp.where(
        logits_BV < 0, logits_BV * self.penalty, logits_BV / self.penalty
      )
      logits_BV = jnp.where(seen_BV, worse_BV, logits_BV)
    if self.presence_penalty:
      columns_S = jnp.arange(texts.tokens_BS.shape[1])
      is_new_BS = is_text_BS & (columns_S >= prompt_length_B[:, None])
      new_BV = mark(none_BV, texts.tokens_BS, is_new_BS)
      logits_BV = logits_BV - self.presence_penalty * new_BV
    size = self.no_repeat_ngram_size
    if size and size <= texts.tokens_BS.shape[1]:
      ends, here = _ngram_ends(texts, size)
      logits_BV = without(logits_BV, mark(none_BV, ends, here))
    return logits_BV


def _ngram_ends(texts, size):
  """Returns the last tokens of all n-grams, and which follow the suffix."""
  starts = texts.tokens_BS.shape[1] - size + 1
  suffix_BN = texts.suffix(size - 1)
  here_BW = jnp.arange(starts) + size <= texts.length_B[:, None]
  for place in range(size - 1):
    window_BW = texts.tokens_BS[:, place : place + starts]
    here_BW &= window_BW == suffix_BN[:, place : place + 1]
  return texts.tokens_BS[:, size - 1 :], here_BW
