"""Implements replaced token detection, without a generator (Clark et al. 2020).

  window    [a b c d e f $ g]     replaced  . x . . x . . x
  inputs    [a r c d s f $ t]     r, s, t random tokens
  targets   [O R O O R O O R]
  weights   [1 1 1 1 1 1 0 1]

As in ELECTRA's discriminator, each token is classified as original (O,
<extra_id_0>) or replaced (R, <extra_id_1>). A random token that happens to
equal the original counts as original. ELECTRA draws the replacements from a
small masked language model trained at the same time; here they are uniform.
arXiv:2003.10555, section 2.
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite import checks
from t5x_lite.data import sentinels as text_lib
from tasks import mlm


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplacedTokens(mlm.Aligned):
  """Replaces round(noise_density * eligible) tokens of each window.

  Attributes:
    noise_density: the fraction of eligible tokens that are replaced.
  """

  name = "replaced_tokens"
  sentinels = 2

  noise_density: checks.Inside = 0.15

  def __post_init__(self):
    checks.fields(self)

  def corrupt(
    self, tokens: tf.Tensor, seed: tf.Tensor, vocabulary: seqio.Vocabulary
  ) -> dict[str, tf.Tensor]:
    """Makes an example from a window."""
    masked = mlm.MLM(
      noise_density=self.noise_density, mask_fraction=0.0, random_fraction=1.0
    ).corrupt(tokens, seed, vocabulary)
    original, replaced = text_lib.sentinel_ids(vocabulary)[:2]
    is_same = masked["inputs"] == tokens
    return {
      "inputs": masked["inputs"],
      "targets": tf.where(is_same, original, replaced),
      "weights": tf.cast(mlm.eligible(tokens, vocabulary), tf.int32),
    }
