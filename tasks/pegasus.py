"""Implements PEGASUS's gap sentences (Zhang et al. 2020, arXiv:1912.08777).

  window    [A b . C d e f . G h .]
  inputs    [A b . M G h . $]
  targets   [C d e f . $]

Some sentences of a text are each replaced by a mask; the targets are these
sentences in order, like a summary. M is <extra_id_0>, $ is EOS. Section 3.1.
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite import checks
from t5x_lite.data import sentinels as text_lib
from tasks import metrics, sentences, spans, vocabularies, windows

_CHOICES = ("random", "lead", "principal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PEGASUS(windows.Objective):
  """Masks sentences of a window; the targets are these sentences.

  If a window has only one sentence, it is both inputs and targets.

  Attributes:
    sentence_density: the fraction of sentences that are masked, at least one.
    choose: "random", the first sentences ("lead"), or those most similar to the
      rest of the window ("principal": by the ROUGE-1 F1 of each sentence's
      tokens; the paper's Ind-Orig).
  """

  name = "pegasus"
  encode = staticmethod(sentences.encode)
  takes_targets_length = True
  metric_fns = (metrics.continuation,)

  sentence_density: checks.Inside = 0.3
  choose: str = "principal"

  def __post_init__(self):
    checks.fields(self)
    if self.choose not in _CHOICES:
      raise ValueError(
        f"choose ({self.choose!r}) must be one of "
        f"{', '.join(map(repr, _CHOICES))}"
      )

  def window_tokens(self, lengths, vocabulary: seqio.Vocabulary) -> int:
    inputs, targets = lengths
    if min(inputs, targets) < 3:
      raise ValueError(
        f"pegasus of {inputs} inputs and {targets} targets has no room for two "
        "tokens and EOS: set each to 3 or more"
      )
    vocabularies.check_sentinels(vocabulary, 1, what="pegasus's mask")
    return inputs - 1

  def corrupt(
    self,
    tokens: tf.Tensor,
    seed: tf.Tensor,
    vocabulary: seqio.Vocabulary,
    starts: tf.Tensor,
    *,
    targets_length: int,
  ) -> dict[str, tf.Tensor]:
    """Makes an example from a window; targets are truncated before EOS."""
    first, lengths = sentences.spans(starts)
    number = tf.size(first)
    if self.choose == "random":
      rank = tf.random.stateless_uniform([number], seed)
    elif self.choose == "lead":
      rank = tf.range(number)
    else:
      sentence = tf.repeat(tf.range(number), lengths)
      rank = -rouge_1(tokens, sentence, number)
    count = spans.fraction_of(number, self.sentence_density)
    chosen = tf.sort(tf.argsort(rank, stable=True)[:count])
    found = spans.Spans(tf.gather(first, chosen), tf.gather(lengths, chosen))
    masks = tf.fill([count], text_lib.sentinel_ids(vocabulary)[0])
    inputs = tf.cond(
      number > 1,
      lambda: spans.replace(tokens, found, masks),
      lambda: tokens,
    )
    targets = spans.take(tokens, found).values[: targets_length - 1]
    return windows.end(vocabulary, inputs=inputs, targets=targets)


def rouge_1(
  tokens: tf.Tensor, sentence: tf.Tensor, number: tf.Tensor
) -> tf.Tensor:
  """Returns the ROUGE-1 F1 of each sentence with the rest of the window.

  Args:
    tokens: int32 [n].
    sentence: int32 [n], the index of each token's sentence.
    number: int32 scalar, the number of sentences.

  Returns:
    float32 [number], ROUGE-1 F1 of tokens (Lin 2004).
  """
  distinct, kind = tf.unique(tokens)
  places = tf.stack([sentence, kind], axis=1)
  counts = tf.scatter_nd(
    places, tf.ones_like(kind), [number, tf.size(distinct)]
  )
  rest = tf.reduce_sum(counts, axis=0) - counts
  overlap = tf.reduce_sum(tf.minimum(counts, rest), axis=1)
  # F1 of overlap / sentence and overlap / rest; sentence + rest = tokens.
  return 2 * tf.cast(overlap, tf.float32) / tf.cast(tf.size(tokens), tf.float32)
