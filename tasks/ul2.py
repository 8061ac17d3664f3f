"""UL2: a mixture of denoisers over one stream of text.

  window         [a b c d e f g h]
  R, X           inputs [<m> a <X> d e f <Y> $]    targets [<X> b c <Y> g h $]
  S              inputs [<m> a b c d e f]          targets [g h]

Each window's denoiser is drawn by the rates: R is short and sparse span
corruption, X has long spans or dense ones, and S continues a prefix of three
quarters. <m> is the mode token, if there are any; $ is EOS. Windows are as long
as fits every denoiser, so that all see the same text, whatever the rates.
Tay et al. 2022, arXiv:2205.05131, section 3.1 and table 1.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from t5x_lite.data import sentinels as text_lib
from tasks import metrics, vocabularies, windows
from tasks.prefix_lm import PrefixLM
from tasks.span_corruption import SpanCorruption


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoiser:
  """One of a mixture.

  Attributes:
    mode: what its mode token stands for, "R", "S" or "X" in UL2.
    objective: what it does to a window.
    rate: how often it is drawn, relative to the others.
  """

  mode: str
  objective: SpanCorruption | PrefixLM
  rate: float = 1.0

  def __post_init__(self):
    if self.rate <= 0:
      raise ValueError(f"rate ({self.rate}) of a denoiser must be positive")


def _spans(mode: str, mean_span: float, noise_density: float) -> Denoiser:
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

  Of one window some denoisers make many inputs, others many targets, and no
  row suits all: with 128 inputs and 96 targets, 31% of a row is padding. Packed
  rows of four windows (512 and 288) have 19%, and rows that inputs and targets
  share in decoders (lengths with "decoder": 190) 17%.

  Attributes:
    denoisers: what to draw from; the paper's seven, at equal rates.
    window: tokens of a window, where packed rows shall take several; None is
      the most that a row has room for, whatever is drawn.
    mode_tokens: mode -> N of the <extra_id_N> that begins the inputs, such as
      {"R": 99, "S": 98, "X": 97}: extra ids that no sentinel may take. None
      has no mode tokens.
  """

  name = "ul2"
  metric_fns = (metrics.continuation,)

  denoisers: Sequence[Denoiser] = SEVEN
  window: int | None = None
  mode_tokens: Mapping[str, int] | None = None

  def __post_init__(self):
    if not self.denoisers:
      raise ValueError("denoisers must be one at least, not none")
    if self.window is not None and self.window < 2:
      raise ValueError(f"ul2's window ({self.window}) must be at least 2")
    modes = sorted({denoiser.mode for denoiser in self.denoisers})
    tokens = self.mode_tokens
    if tokens is None:
      return
    if sorted(tokens) != modes or len(set(tokens.values())) < len(tokens):
      raise ValueError(
        f"mode_tokens ({dict(tokens)}) must give each mode of the denoisers "
        f"({', '.join(modes)}) an extra id of its own"
      )

  def window_length(self, inputs_length: int, targets_length: int) -> int:
    """Returns `window`, or the longest that fits every denoiser.

    Raises:
      ValueError: there is none.
    """
    inputs_length -= self.mode_tokens is not None
    lengths = range(inputs_length + targets_length, 1, -1)
    for window in lengths if self.window is None else [self.window]:
      if all(
        denoiser.objective.fits(window, inputs_length, targets_length)
        for denoiser in self.denoisers
      ):
        return window
    if self.window is not None:
      raise ValueError(
        f"ul2's window ({self.window}) does not fit {inputs_length} inputs and "
        f"{targets_length} targets with every denoiser: set less, or None for "
        "the longest that does"
      )
    raise ValueError(
      f"ul2 finds no window that fits {inputs_length} inputs "
      + ("beside the mode token " if self.mode_tokens else "")
      + f"and {targets_length} targets with every denoiser: set more"
    )

  def corrupt(
    self, tokens: tf.Tensor, seed: tf.Tensor, vocabulary: seqio.Vocabulary
  ) -> dict[str, tf.Tensor]:
    """Makes an example of a window, by a denoiser that it draws."""
    # The noise has the seed that it has where a denoiser stands alone.
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
