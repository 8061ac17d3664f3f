"""Implements GLM's blank infilling (Du et al. 2022, arXiv:2103.10360).

  window      [a b c d e f]      spans [c] and [e f], shuffled
  inputs      [a b M d M]        part A
  targets     [e f $ c $]        part B, each span with EOS
  positions   [4 4 4 2 2]        the places in part A of the spans' masks

Attention is bidirectional over part A and causal over part B, so this is for
prefix models. In part B the decoder inputs of each span begin with the start
token, and each token has two positions: that of its span's mask, and its
position in the span, 1, 2, ... (section 2.1, figure 2; the row is drawn in
feature_converters.py). M is <extra_id_0>, <extra_id_1> for sentences and
<extra_id_2> for the end of a document; $ is EOS.
"""

from __future__ import annotations

import dataclasses

import seqio
import tensorflow as tf

from t5x_lite import checks
from t5x_lite.data import sentinels as text_lib
from tasks import filled, sentences, spans, vocabularies, windows

# Mode -> N of the mask's <extra_id_N>.
MODES = {"token": 0, "sentence": 1, "document": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GLM(windows.Objective):
  """Masks spans of a window; the targets are the spans in random order.

  Attributes:
    mode: what is masked: "token", spans of tokens; "sentence", complete
      sentences; or "document", the end of the window, between half and all of
      it (section 2.2).
    noise_density: the fraction of tokens that are masked; the minimum in mode
      "sentence", and unused in mode "document".
    mean_span: the mean of the Poisson distribution of span lengths, in mode
      "token".
  """

  name = "glm"
  texts = {"inputs": False, "targets": True}
  numbers = {"positions": 2**31 - 1}
  takes_targets_length = True
  metric_objs = (filled.BLANKS,)

  mode: str = "token"
  noise_density: checks.Inside = 0.15
  mean_span: windows.MeanSpan = 3.0

  def __post_init__(self):
    checks.fields(self)
    if self.mode not in MODES:
      raise ValueError(
        f"mode ({self.mode!r}) must be one of {', '.join(map(repr, MODES))}"
      )

  @property
  def encode(self):
    by_sentence = self.mode == "sentence"
    return sentences.encode if by_sentence else windows.encode

  def window_tokens(self, lengths, vocabulary: seqio.Vocabulary) -> int:
    what = f"glm's mask of mode {self.mode!r}"
    vocabularies.check_sentinels(vocabulary, 1 + MODES[self.mode], what=what)
    return self.window_length(*lengths)

  def window_length(self, inputs_length: int, targets_length: int) -> int:
    """Returns the longest window whose examples always fit the lengths.

    Raises:
      ValueError: no window fits.
    """
    return windows.longest(
      inputs_length + targets_length,
      lambda window: self.fits(window, inputs_length, targets_length),
      f"glm of {inputs_length} inputs and {targets_length} targets at "
      f"noise_density {self.noise_density} leaves nothing to mask: set more",
    )

  def fits(self, window: int, inputs_length: int, targets_length: int) -> bool:
    """Returns whether the example of a `window` of tokens fits the lengths."""
    if self.mode == "sentence":  # The window may be a single sentence.
      return window <= inputs_length and targets_length >= 2
    if self.mode == "document":
      rest = window - -(-window // 2)
      return rest + 1 <= inputs_length and window + 1 <= targets_length
    noise = int(spans.fraction_of(window, self.noise_density))
    most = int(self._most_spans(noise))
    return (
      window - noise + most <= inputs_length and noise + most <= targets_length
    )

  def _most_spans(self, noise):
    """Returns the maximum number of spans: 1.5 times the mean, plus 2."""
    mean = tf.cast(noise, tf.float32) / self.mean_span
    return tf.minimum(noise, tf.cast(1.5 * mean, tf.int32) + 2)

  def corrupt(
    self,
    tokens: tf.Tensor,
    seed: tf.Tensor,
    vocabulary: seqio.Vocabulary,
    starts: tf.Tensor | None = None,
    *,
    targets_length: int,
  ) -> dict[str, tf.Tensor]:
    """Makes an example from a window."""
    seeds = tf.random.experimental.stateless_split(seed, 4)
    if self.mode == "token":
      found = self._token_spans(tf.size(tokens), seeds[:3])
    elif self.mode == "sentence":
      found = self._sentence_spans(starts, targets_length, seeds[0])
    else:
      size = tf.size(tokens)
      length = tf.random.stateless_uniform(
        [1], seeds[0], (size + 1) // 2, size + 1, tf.int32
      )
      found = spans.Spans(size - length, length)
    mask = text_lib.sentinel_ids(vocabulary)[MODES[self.mode]]
    eos = text_lib.require_eos(vocabulary, "glm")
    return blank(tokens, found, mask=mask, eos=eos, seed=seeds[3])

  def _token_spans(self, size, seeds):
    noise = spans.fraction_of(size, self.noise_density)
    lengths = spans.draw_lengths(
      noise,
      self.mean_span,
      tf.minimum(self._most_spans(noise), size - noise + 1),
      least=1,
      seeds=seeds[:2],
    )
    return spans.place(size, lengths, seed=seeds[2])

  def _sentence_spans(self, starts, targets_length, seed):
    """Draws sentences up to noise_density or until the targets are full."""
    shuffled = spans.shuffle(spans.Spans(*sentences.spans(starts)), seed=seed)
    lengths = tf.minimum(shuffled.lengths, targets_length - 1)
    covered = tf.cumsum(lengths, exclusive=True)
    is_needed = covered < spans.fraction_of(tf.size(starts), self.noise_density)
    is_needed &= tf.cumsum(lengths + 1) <= targets_length
    order = tf.argsort(tf.boolean_mask(shuffled.starts, is_needed))
    return spans.Spans(
      tf.gather(tf.boolean_mask(shuffled.starts, is_needed), order),
      tf.gather(tf.boolean_mask(lengths, is_needed), order),
    )


def blank(
  tokens: tf.Tensor, found: spans.Spans, *, mask: int, eos: int, seed
) -> dict[str, tf.Tensor]:
  """Makes parts A and B from a window and its spans, sorted by position."""
  count = tf.size(found.lengths)
  # Each span before a mask has been replaced by one token.
  removed = tf.cumsum(found.lengths, exclusive=True)
  places = found.starts - removed + tf.range(count)
  order = tf.argsort(tf.random.stateless_uniform([count], seed))
  shuffled = spans.Spans(*(tf.gather(part, order) for part in found))
  ends = tf.fill([count, 1], eos)
  targets = tf.concat([spans.take(tokens, shuffled), ends], axis=1)
  return {
    "inputs": spans.replace(tokens, found, tf.fill([count], mask)),
    "targets": targets.values,
    "positions": tf.repeat(tf.gather(places, order), shuffled.lengths + 1),
  }
