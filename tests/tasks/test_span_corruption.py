"""Span corruption is T5's, to the bit, and never loses a token in silence."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from tasks import sources, span_corruption, vocabularies, windows
from tasks.span_corruption import SpanCorruption
from tests.tasks import t5_reference

EOS = 1
BYTES = vocabularies.Bytes(extra_ids=100)


@pytest.fixture(scope="module")
def golden():
  return t5_reference.golden()


def test_masks_are_those_of_t5_for_800_seeds_and_lengths(golden):
  np.testing.assert_array_equal(
    t5_reference.masks(span_corruption), golden["masks"]
  )


def test_plans_are_those_of_t5(golden):
  np.testing.assert_array_equal(
    t5_reference.plans(span_corruption), golden["plans"]
  )


def test_examples_are_those_of_t5_given_one_seed(golden):
  with seqio.utils.map_seed_manager(7):
    dataset = windows.transform(
      t5_reference.windows(),
      t5_reference.features(),
      function=SpanCorruption().corrupt,
    )
  np.testing.assert_array_equal(
    t5_reference.corrupted(dataset), golden["corrupted"]
  )


def corrupt(tokens, **arguments):
  """Returns (inputs, targets) of one window."""
  dataset = tf.data.Dataset.from_tensors({"targets": np.int32(tokens)})
  features = SpanCorruption().output_features(BYTES)
  with seqio.utils.map_seed_manager(arguments.pop("seed", 0)):
    function = SpanCorruption(**arguments).corrupt
    dataset = windows.transform(dataset, features, function=function)
  (row,) = dataset.as_numpy_iterator()
  return row["inputs"].tolist(), row["targets"].tolist()


def spans(tokens):
  """Reads [<X> a b <Y> c] as {X: [a, b], Y: [c]}."""
  found = {}
  for token in tokens:
    if token >= BYTES.vocab_size - BYTES.extra_ids:
      found[token] = []
    else:
      found[next(reversed(found))].append(token)
  return found


@pytest.mark.parametrize("seed", range(5))
def test_targets_put_back_in_place_of_sentinels_restore_the_window(seed):
  window = list(range(3, 203))
  inputs, targets = corrupt(window, seed=seed)
  assert inputs.pop() == targets.pop() == EOS
  filled = spans(targets)
  restored = [t for token in inputs for t in filled.get(token, [token])]
  assert restored == window


def test_sentinels_descend_from_the_last_id_and_none_closes_the_targets():
  inputs, targets = corrupt(range(3, 203))
  last = BYTES.vocab_size - 1
  expected = [last - i for i in range(10)]  # 30 noise tokens in spans of 3.
  for sequence in (inputs, targets):
    assert [token for token in sequence if token > last - 100] == expected
  assert targets[0] == last
  assert targets[-1] == EOS and targets[-2] not in expected


def test_worked_example():
  # One span of two tokens always lies at the end.
  assert corrupt([10, 11, 12, 13, 14], noise_density=0.4, mean_span=2.0) == (
    [10, 11, 12, 358, EOS],
    [358, 13, 14, EOS],
  )


def test_plan_of_t5():
  plan = SpanCorruption().plan(512)
  assert (plan.window, plan.inputs, plan.targets) == (568, 512, 114)


@pytest.mark.parametrize(("density", "mean"), t5_reference.SETTINGS)
def test_plan_counts_what_the_mask_does(density, mean):
  objective = SpanCorruption(noise_density=density, mean_span=mean)
  lengths = range(12, 600, 7)
  planned = [objective.plan(length) for length in lengths]
  sizes = np.array([plan.window for plan in planned], np.int32)

  def count(size):
    mask = span_corruption.random_spans_noise_mask(
      size, density, [[1, 2], [3, 4]], mean
    )
    starts = mask & ~tf.concat([[False], mask[:-1]], 0)
    ints = tf.cast([mask, starts], tf.int32)
    return tf.reduce_sum(ints[0]), tf.reduce_sum(ints[1])

  dataset = tf.data.Dataset.from_tensor_slices(sizes).map(count)
  for length, plan, counted in zip(lengths, planned, dataset, strict=True):
    assert (plan.noise, plan.spans) == tuple(int(c) for c in counted)
    assert plan.inputs <= length
    # Full but for the sentinels of one more token.
    assert plan.inputs >= length - 3


def stream(objective, lengths, text, vocabulary=BYTES):
  """Runs the preprocessors on one document, as a task does."""
  features = objective.output_features(vocabulary)
  task = seqio.Task(
    "span_corruption_under_test",
    source=sources.MemorySource("memory", {"train": {"text": [text]}}),
    output_features=features,
    preprocessors=list(objective.preprocessors()),
  )
  dataset = tf.data.Dataset.from_tensors({"text": text})
  dataset = task.preprocess_precache(dataset)
  return list(
    task.preprocess_postcache(
      dataset, sequence_length=lengths, seed=0
    ).as_numpy_iterator()
  )


def test_windows_fill_inputs_and_targets_exactly():
  plan = SpanCorruption().plan(64)
  *whole, last = stream(
    SpanCorruption(),
    {"inputs": 64, "targets": plan.targets},
    "x" * (3 * plan.window + 10),
  )
  assert len(whole) == 3
  for row in whole:
    assert (len(row["inputs"]), len(row["targets"])) == (64, plan.targets)
    assert row["inputs"][-1] == row["targets"][-1] == EOS
  # Of the ten tokens left, two are noise.
  assert (len(last["inputs"]), len(last["targets"])) == (10, 4)


def test_documents_join_with_eos_only_when_asked():
  lengths = {"inputs": 64, "targets": 15}
  with_eos = SpanCorruption(end_documents=True)
  for objective, ends in ((SpanCorruption(), 2), (with_eos, 3)):
    (row,) = stream(objective, lengths, "short document")
    joined = [*row["inputs"], *row["targets"]]
    assert joined.count(EOS) == ends


@pytest.mark.parametrize(
  ("objective", "lengths", "message"),
  [
    (
      SpanCorruption(),
      {"inputs": 512, "targets": 100},
      r"makes 114 targets, more than the 100 given: set targets to 114",
    ),
    (
      SpanCorruption(noise_density=0.5),
      {"inputs": 512, "targets": 512},
      r"needs 128 sentinels, more than the vocabulary's 100",
    ),
    (SpanCorruption(), {"inputs": 2, "targets": 9}, "leaves nothing"),
    (SpanCorruption(), {"targets": 9}, "none is given for inputs"),
    (
      SpanCorruption(noise_density=0.8, mean_span=1.0),
      {"inputs": 64, "targets": 999},
      "less than one token per span",
    ),
  ],
)
def test_lengths_that_do_not_fit_are_refused(objective, lengths, message):
  with pytest.raises(ValueError, match=message) as error:
    stream(objective, lengths, "text")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("density", [0.0, 1.0, -0.1, 15])
def test_density_outside_0_and_1_is_refused(density):
  with pytest.raises(ValueError, match=r"noise_density .* must be in .0, 1."):
    SpanCorruption(noise_density=density)


def test_mean_span_below_1_is_refused():
  with pytest.raises(ValueError, match=r"mean_span \(0.5\) must be at least 1"):
    SpanCorruption(mean_span=0.5)


def test_a_random_roll_puts_a_long_span_anywhere():
  objective = SpanCorruption(noise_density=0.5, mean_span=8.0, random_roll=True)
  plan = objective.plan(12)
  text = "".join(chr(97 + i % 26) for i in range(2000))
  rows = stream(objective, {"inputs": 12, "targets": plan.targets}, text)
  window, ends_in_text = iter(BYTES.encode(text)), 0
  for row in rows[:-1]:
    inputs, targets = row["inputs"].tolist(), row["targets"].tolist()
    assert inputs.pop() == targets.pop() == EOS
    # A span that the window's end cuts in two needs a sentinel of its own.
    found = [token for token in inputs if token >= 259]
    assert found == [358, 357, 356][: len(found)]
    assert plan.spans <= len(found) <= plan.sentinels
    # The noise stands before the text if the targets begin with it.
    sides = targets, inputs
    parts = [
      iter(side) for side in (sides if inputs[0] >= 259 else sides[::-1])
    ]
    restored = [t for t in _take_turns(*parts)]
    assert restored == [next(window) for _ in restored]
    assert len(restored) == plan.window
    ends_in_text += inputs[-1] < 259
  assert ends_in_text > len(rows) / 4


def _take_turns(one, other):
  """Yields text from one side up to its sentinel, then from the other."""
  next(other)  # The sentinel for what `one` begins with.
  while True:
    for token in one:
      if token >= 259:
        break
      yield token
    else:
      yield from other
      return
    one, other = other, one


def test_the_whole_text_may_be_the_target():
  objective = SpanCorruption(whole_text=True)
  plan = objective.plan(64)
  assert plan.targets == plan.window + 1
  lengths = {"inputs": 64, "targets": plan.targets}
  row, *_ = stream(objective, lengths, "a" * plan.window + "b" * 50)
  assert row["targets"].tolist() == [*BYTES.encode("a" * plan.window), EOS]
  assert len(row["inputs"]) == 64
  # As many sentinels as if the spans were the targets.
  sentinels = row["inputs"][row["inputs"] >= 259]
  assert sentinels.tolist() == [358 - i for i in range(plan.spans)]
