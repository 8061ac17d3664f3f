"""Replaced token detection, without a generator (Clark et al. 2020).

  window    [a b c d e f $ g]     replaced  . x . . x . . x
  inputs    [a r c d s f $ t]     r, s, t random tokens
  targets   [O R O O R O O R]
  weights   [1 1 1 1 1 1 0 1]

ELECTRA's discriminator tells for each token of a text whether it is the
original (O, <extra_id_0>) or was replaced (R, <extra_id_1>); a random token
that happens to be the original counts as such. ELECTRA draws the tokens from a
small masked language model that is trained beside it; here they are uniform.
arXiv:2003.10555, section 2.
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite.data import sentinels as text_lib
from tasks import mlm, windows


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplacedTokens(mlm.Aligned):
  """Replaces round(noise_density * eligible) tokens of each window.

  Attributes:
    noise_density: the share of the eligible tokens that is replaced.
  """

  name = "replaced_tokens"
  sentinels = 2

  noise_density: float = 0.15

  def __post_init__(self):
    windows.check_density(self.noise_density)

  def corrupt(
    self, tokens: tf.Tensor, seed: tf.Tensor, vocabulary: seqio.Vocabulary
  ) -> dict[str, tf.Tensor]:
    """Makes an example of a window."""
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
