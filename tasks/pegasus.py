"""PEGASUS: gap sentences (Zhang et al. 2020, arXiv:1912.08777).

  window    [A b . C d e f . G h .]
  inputs    [A b . M G h . $]
  targets   [C d e f . $]

Some sentences of a text become a mask each, and the targets are these, in their
order: a summary, of a kind. M is <extra_id_0>, $ is EOS. Section 3.1.
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite.data import sentinels as text_lib
from tasks import metrics, sentences, spans, vocabularies, windows

_CHOICES = ("random", "lead", "principal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PEGASUS(windows.Objective):
  """Takes sentences out of a window; the targets are these.

  A window of one sentence has it as inputs and as targets.

  Attributes:
    sentence_density: the share of the sentences that is taken, one at least.
    choose: "random" ones, the first ("lead"), or those that say most of the
      rest ("principal": ROUGE-1 F1 of the tokens, each sentence for itself and
      each token counted; the paper's Ind-Orig).
  """

  name = "pegasus"
  encode = staticmethod(sentences.encode)
  takes_targets_length = True
  metric_fns = (metrics.continuation,)

  sentence_density: float = 0.3
  choose: str = "principal"

  def __post_init__(self):
    windows.check_density(self.sentence_density, "sentence_density")
    if self.choose not in _CHOICES:
      raise ValueError(
        f"choose ({self.choose!r}) must be one of "
        f"{', '.join(map(repr, _CHOICES))}"
      )

  def window_tokens(self, lengths, vocabulary: seqio.Vocabulary) -> int:
    inputs, targets = lengths
    if min(inputs, targets) < 3:
      raise ValueError(
        f"pegasus of {inputs} inputs and {targets} targets leaves no two "
        "tokens beside EOS: set 3 of each or more"
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
    """Makes an example of a window; targets are trimmed before EOS."""
    first, lengths = sentences.spans(starts)
    number = tf.size(first)
    if self.choose == "random":
      rank = tf.random.stateless_uniform([number], seed)
    elif self.choose == "lead":
      rank = tf.range(number)
    else:
      sentence = tf.repeat(tf.range(number), lengths)
      rank = -rouge_1(tokens, sentence, number)
    count = spans.share(number, self.sentence_density)
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
  """Compares each sentence with the others together.

  Args:
    tokens: int32 [n].
    sentence: int32 [n], which of `number` sentences a token belongs to.
    number: int32 scalar.

  Returns:
    float32 [number], ROUGE-1 F1 (Lin 2004) of tokens.
  """
  distinct, kind = tf.unique(tokens)
  places = tf.stack([sentence, kind], axis=1)
  counts = tf.scatter_nd(
    places, tf.ones_like(kind), [number, tf.size(distinct)]
  )
  rest = tf.reduce_sum(counts, axis=0) - counts
  overlap = tf.reduce_sum(tf.minimum(counts, rest), axis=1)
  # F1 of overlap / sentence and overlap / rest; both together are the text.
  return 2 * tf.cast(overlap, tf.float32) / tf.cast(tf.size(tokens), tf.float32)
