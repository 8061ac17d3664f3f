"""Windows cut a stream of documents without losing or adding a token."""

import pytest
import seqio
import tensorflow as tf

from tasks import vocabularies, windows

EOS = 1
FEATURES = {"targets": seqio.Feature(vocabularies.Bytes())}


def documents(*texts):
  return tf.data.Dataset.from_tensor_slices({"text": list(texts)})


def cut(sequences, length, **options):
  dataset = tf.data.Dataset.from_generator(
    lambda: iter({"targets": s} for s in sequences),
    output_signature={"targets": tf.TensorSpec([None], tf.int32)},
  )
  rows = windows.cut(dataset, length, **options).as_numpy_iterator()
  return [row["targets"].tolist() for row in rows]


def test_worked_example():
  assert cut([[5, 6, 7, 1], [8, 9, 1], [10, 1]], 4) == [
    [5, 6, 7, 1],
    [8, 9, 1, 10],
    [1],
  ]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 50, 1000])
def test_windows_end_to_end_are_the_documents_end_to_end(length):
  # Pad ids (0) within documents count like any other.
  sequences = [[i % 5] * (i * 7 % 23) for i in range(30)]
  cuts = cut(sequences, length)
  assert sum(cuts, []) == sum(sequences, [])
  assert {len(window) for window in cuts[:-1]} <= {length}
  assert 0 < len(cuts[-1]) <= length


def test_a_last_window_that_is_too_short_is_dropped():
  assert cut([[5, 6, 7]], 2, min_length=2) == [[5, 6]]
  assert cut([[5, 6, 7, 8]], 3, min_length=2) == [[5, 6, 7]]
  assert cut([[5, 6, 7, 8, 9]], 3, min_length=2) == [[5, 6, 7], [8, 9]]


def test_nothing_gives_no_window():
  assert cut([], 3) == []
  assert cut([[]], 3) == []


def test_encode_ends_documents_where_asked():
  dataset = documents("ab", "")
  for append_eos, expected in ((False, [[100, 101], []]),
                               (True, [[100, 101, EOS], [EOS]])):  # fmt: skip
    rows = windows.encode(dataset, FEATURES, append_eos=append_eos)
    rows = [row["targets"].tolist() for row in rows.as_numpy_iterator()]
    assert rows == expected


def test_a_missing_length_is_named():
  with pytest.raises(ValueError, match="none is given for targets"):
    windows.check_lengths({"inputs": 3}, "inputs", "targets", objective="x")
