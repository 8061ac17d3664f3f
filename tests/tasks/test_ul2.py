"""UL2 draws its denoisers at their rates, each doing what it does alone."""

import numpy as np
import pytest
import scipy.stats
import seqio
import tensorflow as tf

from t5x_lite import row_formats
from t5x_lite.data import Data, token_counts
from t5x_lite.data.reader import Reader
from tasks import ul2, vocabularies, windows
from tasks.prefix_lm import PrefixLM
from tasks.span_corruption import SpanCorruption
from tasks.ul2 import UL2, Denoiser
from tests.tasks.streams import BYTES, examples, task

EOS = 1
MODES = {"R": 99, "S": 98, "X": 97}
VOCABULARY = vocabularies.Bytes(extra_ids=100)
IDS = {mode: VOCABULARY.vocab_size - 1 - n for mode, n in MODES.items()}
LENGTHS = {"inputs": 128, "targets": 128}
TEXT = "".join(chr(97 + i % 26) for i in range(20_000))


def test_the_window_fits_every_denoiser_and_leaves_room_for_the_mode():
  # R at mean 3 is the tightest: T5's 568 tokens for 512 inputs.
  assert UL2().window_length(512, 512) == 568
  shorter = SpanCorruption().plan(511).window
  assert UL2(mode_tokens=MODES).window_length(512, 512) == shorter < 568
  # With fewer targets, those of half the tokens decide: the mask at mean 3
  # makes 114 noise tokens, 38 sentinels and EOS of 228.
  plan = SpanCorruption(noise_density=0.5)._plan(UL2().window_length(512, 153))
  assert plan.targets <= 153 < plan.targets + 2


def test_shorter_windows_fill_packed_rows():
  lengths = {"inputs": 512, "targets": 288}

  def padding(objective, *, pack):
    made = task("ul2_to_pack", objective, [TEXT] * 4, vocabulary=VOCABULARY)
    seqio.TaskRegistry.add_provider(made.name, made)
    try:
      spec = Data(task=made.name, lengths=lengths, batch_size=32, pack=pack)
      batch = next(Reader(spec, row_formats.ENCODER_DECODER).batches())
    finally:
      seqio.TaskRegistry.remove(made.name)
    counts = token_counts.count(batch)
    return token_counts.fractions(counts)["padding_fraction"]

  assert padding(UL2(mode_tokens=MODES), pack=False) > 0.3
  assert padding(UL2(mode_tokens=MODES, window=128), pack=True) < 0.21


def drawn(rows):
  """Counts the modes of examples by their first token."""
  modes = [row["inputs"][0] for row in rows]
  return [modes.count(IDS[mode]) for mode in "RSX"]


def test_denoisers_are_drawn_at_their_rates():
  def with_rates(*rates):
    pairs = zip(ul2.SEVEN, rates, strict=True)
    return UL2(
      mode_tokens=MODES,
      denoisers=[
        Denoiser(mode=d.mode, objective=d.objective, rate=rate)
        for d, rate in pairs
      ],
    )

  for objective, shares in (
    (UL2(mode_tokens=MODES), (2 / 7, 1 / 7, 4 / 7)),
    (with_rates(1, 1, 4, 0.5, 0.5, 0.5, 0.5), (2 / 8, 4 / 8, 2 / 8)),
  ):
    rows = examples(objective, LENGTHS, TEXT * 4, vocabulary=VOCABULARY)
    counts = drawn(rows)
    assert sum(counts) == len(rows) > 500
    expected = np.array(shares) * len(rows)
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


def test_every_example_is_made_of_its_own_window_and_fits():
  objective = UL2(mode_tokens=MODES)
  rows = examples(objective, LENGTHS, TEXT, vocabulary=VOCABULARY)
  window = objective.window_length(128, 128)
  text = VOCABULARY.encode(TEXT)
  for i, row in enumerate(rows[:-1]):
    assert max(len(row["inputs"]), len(row["targets"])) <= 128
    mode, *inputs = row["inputs"].tolist()
    targets = row["targets"].tolist()
    expected = text[i * window : (i + 1) * window]
    if mode == IDS["S"]:
      assert inputs + targets == expected
      assert len(inputs) == round(0.75 * window)
      continue
    assert inputs.pop() == targets.pop() == EOS
    spans = {}
    for token in targets:
      if token >= 259:
        span = spans[token] = []
      else:
        span.append(token)
    assert [t for x in inputs for t in spans.get(x, [x])] == expected
    density = sum(map(len, spans.values())) / window
    assert abs(density - 0.15) < 0.01 or abs(density - 0.5) < 0.01


@pytest.mark.parametrize("index", range(7))
def test_a_denoiser_does_to_a_window_what_it_does_alone(index):
  windows_of_text = tf.data.Dataset.from_tensor_slices(
    {"targets": np.arange(3, 203, dtype=np.int32).reshape(2, 100)}
  )
  features = UL2().output_features(VOCABULARY)
  denoiser = ul2.SEVEN[index]
  made = []
  for objective in (UL2(denoisers=[denoiser]), denoiser.objective):
    with seqio.utils.map_seed_manager(5):
      dataset = windows.transform(
        windows_of_text, features, function=objective.corrupt
      )
    made.append(list(dataset.as_numpy_iterator()))
  for one, other in zip(*made, strict=True):
    for name in ("inputs", "targets"):
      np.testing.assert_array_equal(one[name], other[name])


def test_arms_of_other_rates_see_the_same_text():
  two = [ul2.SEVEN[0], Denoiser(mode="X", objective=ul2.SEVEN[4].objective)]
  rates = [1.0, 20.0]
  texts = []
  for reverse in (False, True):
    denoisers = [
      Denoiser(mode=d.mode, objective=d.objective, rate=rate)
      for d, rate in zip(two, rates[:: -1 if reverse else 1], strict=True)
    ]
    rows = examples(
      UL2(denoisers=denoisers), LENGTHS, TEXT, vocabulary=VOCABULARY
    )
    texts.append(
      [sorted(t for side in row.values() for t in side if 3 <= t < 259)
       for row in rows]
    )  # fmt: skip
  assert texts[0] == texts[1]


@pytest.mark.parametrize(
  ("objective", "lengths", "message"),
  [
    (
      UL2(mode_tokens=MODES | {"X": 22}),
      LENGTHS,
      r"mode_tokens\['X'\] \(22\) must be from 23, .* to 99, the last",
    ),
    (
      UL2(mode_tokens=MODES | {"X": 100}),
      LENGTHS,
      r"\(100\) must be from 23",
    ),
    (
      UL2(),
      {"inputs": 700, "targets": 700},
      r"windows of 77\d tokens needs 1\d\d sentinels, more than .* 100",
    ),
    (UL2(window=400), LENGTHS, r"window \(400\) does not fit 128 inputs and 1"),
    (UL2(), {"inputs": 2, "targets": 3}, "no window that fits 2 inputs and 3"),
  ],
)
def test_what_does_not_fit_is_refused(objective, lengths, message):
  with pytest.raises(ValueError, match=message) as error:
    examples(objective, lengths, "text", vocabulary=VOCABULARY)
  assert "\n" not in str(error.value)


def test_modes_without_a_token_are_refused():
  with pytest.raises(ValueError, match=r"each mode .* \(R, S, X\) to a"):
    UL2(mode_tokens={"R": 99, "X": 97})
  with pytest.raises(ValueError, match="to a different extra id"):
    UL2(mode_tokens={"R": 99, "S": 99, "X": 97})


def test_rates_that_draw_nothing_are_refused():
  with pytest.raises(ValueError, match=r"rate \(0\) must be above 0"):
    Denoiser(mode="S", objective=PrefixLM(prefix_fraction=0.5), rate=0)


def test_ul2_of_bytes_has_sentinels_enough():
  assert examples(UL2(), LENGTHS, "x" * 500, vocabulary=BYTES)
