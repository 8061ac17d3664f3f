"""Rows made in NumPy are those of the feature converters."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from t5x_lite import row_formats
from t5x_lite.data import feature_converters, rows

LENGTHS = {"inputs": 6, "targets": 5}
STARTS = (
  {},
  {"start_id": 7},
  {"start_id": 2, "around": (8, 1)},
  {"start_id": 3, "bare_prompts": True},
)
TEXTS = ([], [9], [4, 5, 1], [4, 5, 6, 7, 1], [3, 4, 5, 6])
PAIRS = [
  {"inputs": np.array(x, np.int32), "targets": np.array(y, np.int32)}
  for x, y in itertools.product(TEXTS, TEXTS)
]


def converted(row_format, examples, lengths, **starts):
  spec = dict.fromkeys(examples[0], tf.TensorSpec([None], tf.int32))
  ds = tf.data.Dataset.from_generator(
    lambda: iter(examples), output_signature=spec
  )
  convert = feature_converters.converter(row_format, pack=False, **starts)
  return next(convert(ds, lengths).batch(100).as_numpy_iterator())


def same(found, wanted):
  assert found.keys() == wanted.keys()
  for name in wanted:
    assert found[name].dtype == np.int32
    np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


@pytest.mark.parametrize("starts", STARTS, ids=str)
@pytest.mark.parametrize("name", ["encoder_decoder", "causal", "prefix"])
def test_rows_of_texts_and_prompts_are_those_of_the_converter(name, starts):
  row_format = row_formats.ALL[name]
  found = rows.lay_out(row_format, PAIRS, LENGTHS, **starts)
  same(found, converted(row_format, PAIRS, LENGTHS, **starts))


def test_a_decoders_row_may_have_a_length_of_its_own():
  lengths = LENGTHS | {"decoder": 10}
  found = rows.lay_out(row_formats.PREFIX, PAIRS, lengths)
  same(found, converted(row_formats.PREFIX, PAIRS, lengths))
  assert found["decoder_input_tokens"].shape[1] == 10


def test_rows_of_an_encoder_are_those_of_the_converter():
  examples = [
    row_formats.ENCODER.reading_example(np.array(x, np.int32)) for x in TEXTS
  ]
  lengths = dict.fromkeys(examples[0], 6)
  found = rows.lay_out(row_formats.ENCODER, examples, lengths)
  same(found, converted(row_formats.ENCODER, examples, lengths))


def test_an_example_longer_than_a_row_is_refused():
  with pytest.raises(ValueError, match="6 decoder tokens.* room for 5"):
    long = {"inputs": np.arange(1), "targets": np.arange(6)}
    rows.lay_out(row_formats.ENCODER_DECODER, [long], LENGTHS)
