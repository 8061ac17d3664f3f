"""Implements UL2's mixture of denoisers.

  window         [a b c d e f g h]
  R, X           inputs [<m> a <X> d e f <Y> $]    targets [<X> b c <Y> g h $]
  S              inputs [<m> a b c d e f]          targets [g h]

A denoiser is drawn for each window: R is span corruption with short, sparse
spans, X has long or dense spans, and S predicts the last quarter of the window.
<m> is the mode token, if used; $ is EOS. The length of windows fits all
denoisers, so that it does not depend on the rates. Tay et al. 2022,
arXiv:2205.05131, section 3.1 and table 1.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from t5x_lite import checks
from t5x_lite.data import sentinels as text_lib
from tasks import metrics, vocabularies, windows
from tasks.prefix_lm import PrefixLM
from tasks.span_corruption import SpanCorruption


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoiser:
  """Defines one denoiser of a mixture.

  Attributes:
    mode: the name of its mode token, "R", "S" or "X" in UL2.
    objective: makes an example from a window.
    rate: the relative sampling rate.
  """

  mode: str
  objective: SpanCorruption | PrefixLM
  rate: checks.Positive = 1.0

  def __post_init__(self):
    checks.fields(self)


def _spans(
  mode: str, mean_span: float, noise_density: checks.Inside
) -> Denoiser:
  objective = SpanCorruption(mean_span=mean_span, noise_density=noise_density)
  return Denoiser(mode=mode, objective=objective)


SEVEN = (
  _spans("R", 3.0, 0.15),
  _spans("R", 8.0, 0.15),
  Denoiser(mode="S", objective=PrefixLM(prefix_fraction=0.75)),
  _spans("X", 3.0, 0.5),
  _spans("X", 8.0, 0.5),
  _spans("X", 64.0, 0.15),
  _spans("X", 64.0, 0.5),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UL2(windows.Objective):
  """Draws a denoiser for each window.

  For a given window, some denoisers make many inputs and others many targets,
  so rows have padding: with 128 inputs and 96 targets, 31%. Packed rows of four
  windows (512 and 288) have 19%, and decoder-only rows, which inputs and
  targets share (lengths with "decoder": 190), have 17%.

  Attributes:
    denoisers: the denoisers to draw from; by default the paper's seven, at
      equal rates.
    window: the number of tokens of a window, to pack several into a row; None
      is the longest window that fits a row with any denoiser.
    mode_tokens: {mode: N} of the <extra_id_N> that begins the inputs, such as
      {"R": 99, "S": 98, "X": 97}. These ids must not be used as sentinels. None
      means no mode tokens.
  """

  name = "ul2"
  metric_fns = (metrics.continuation,)

  denoisers: Sequence[Denoiser] = SEVEN
  window: checks.Count | None = None
  mode_tokens: Mapping[str, int] | None = None

  def __post_init__(self):
    checks.fields(self)
    if not self.denoisers:
      raise ValueError("denoisers must have at least one entry, not none")
    if self.window is not None and self.window < 2:
      raise ValueError(f"ul2's window ({self.window}) must be at least 2")
    modes = sorted({denoiser.mode for denoiser in self.denoisers})
    tokens = self.mode_tokens
    if tokens is None:
      return
    if sorted(tokens) != modes or len(set(tokens.values())) < len(tokens):
      raise ValueError(
        f"mode_tokens ({dict(tokens)}) must map each mode of the denoisers "
        f"({', '.join(modes)}) to a different extra id"
      )

  def window_length(self, inputs_length: int, targets_length: int) -> int:
    """Returns `window`, or the length of the longest that fits all denoisers.

    Raises:
      ValueError: no window fits.
    """
    inputs_length -= self.mode_tokens is not None

    def fits(window):
      return all(
        denoiser.objective.fits(window, inputs_length, targets_length)
        for denoiser in self.denoisers
      )

    if self.window is not None:
      if not fits(self.window):
        raise ValueError(
          f"ul2's window ({self.window}) does not fit {inputs_length} inputs "
          f"and {targets_length} targets with every denoiser: reduce it, or "
          "set None for the longest that fits"
        )
      return self.window
    mode = "plus the mode token " if self.mode_tokens else ""
    return windows.longest(
      inputs_length + targets_length,
      fits,
      f"ul2 finds no window that fits {inputs_length} inputs {mode}and "
      f"{targets_length} targets with every denoiser: set more",
    )

  def corrupt(
    self, tokens: tf.Tensor, seed: tf.Tensor, vocabulary: seqio.Vocabulary
  ) -> dict[str, tf.Tensor]:
    """Makes an example from a window with a randomly drawn denoiser."""
    # The denoiser gets `seed` itself, so its noise is the same as when it is
    # used alone.
    draw_seed = tf.random.experimental.stateless_fold_in(seed, 0)
    rates = tf.constant([denoiser.rate for denoiser in self.denoisers])
    drawn = tf.random.stateless_categorical(
      tf.math.log(rates)[tf.newaxis], 1, draw_seed, dtype=tf.int32
    )[0, 0]
    example = tf.switch_case(
      drawn,
      [
        functools.partial(denoiser.objective.corrupt, tokens, seed, vocabulary)
        for denoiser in self.denoisers
      ],
    )
    if self.mode_tokens is None:
      return example
    ids = text_lib.sentinel_ids(vocabulary)
    modes = tf.constant(
      [ids[self.mode_tokens[denoiser.mode]] for denoiser in self.denoisers]
    )
    inputs = tf.concat([modes[drawn, tf.newaxis], example["inputs"]], axis=0)
    return example | {"inputs": inputs}

  def window_tokens(self, lengths, vocabulary: seqio.Vocabulary) -> int:
    window = self.window_length(*lengths)
    self._check_sentinels(window, vocabulary)
    return window

  def _check_sentinels(self, window, vocabulary):
    needed = max(
      denoiser.objective.num_sentinels(window) for denoiser in self.denoisers
    )
    what = f"ul2 with windows of {window} tokens"
    vocabularies.check_sentinels(vocabulary, needed, what=what)
    for mode, number in (self.mode_tokens or {}).items():
      if not needed <= number < vocabularies.num_sentinels(vocabulary):
        raise ValueError(
          f"mode_tokens[{mode!r}] ({number}) must be from {needed}, the number "
          f"of sentinels that {what} needs, to "
          f"{vocabularies.num_sentinels(vocabulary) - 1}, the last extra id"
        )
