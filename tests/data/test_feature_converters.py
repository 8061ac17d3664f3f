"""What each architecture is fed, as arrays written by hand."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import row_formats
from t5x_lite.data import feature_converters, token_counts

PAIRS = [
  {"inputs": [7, 8, 5, 1], "targets": [3, 9, 1]},
  {"inputs": [8, 4, 9, 3, 1], "targets": [4, 1]},
]
DECODERS = ("causal", "prefix")


def dataset(examples):
  columns = {
    name: tf.ragged.constant(
      [example[name] for example in examples], dtype=tf.int32, ragged_rank=1
    )
    for name in examples[0]
  }
  return tf.data.Dataset.from_tensor_slices(columns)


def rows(architecture, examples, lengths, *, pack, **options):
  convert = feature_converters.converter(
    row_formats.ALL[architecture], pack=pack, **options
  )
  return list(convert(dataset(examples), lengths).as_numpy_iterator())


def assert_row(row, **expected):
  """Compares with strings of numbers; names lack their side."""
  assert set(row) == set(expected)
  for name, numbers in expected.items():
    assert " ".join(map(str, row[name])) == numbers, name
    assert row[name].dtype == np.int32, name


def test_encoder_decoder_packed():
  (row,) = rows(
    "encoder_decoder", PAIRS, {"inputs": 10, "targets": 7}, pack=True
  )
  assert_row(
    row,
    encoder_input_tokens="7 8 5 1 8 4 9 3 1 0",
    encoder_segment_ids="1 1 1 1 2 2 2 2 2 0",
    encoder_positions="0 1 2 3 0 1 2 3 4 0",
    decoder_input_tokens="0 3 9 0 4 0 0",
    decoder_target_tokens="3 9 1 4 1 0 0",
    decoder_loss_weights="1 1 1 1 1 0 0",
    decoder_segment_ids="1 1 1 2 2 0 0",
    decoder_positions="0 1 2 0 1 0 0",
  )


@pytest.mark.parametrize("architecture", ["encoder_decoder", "causal"])
def test_rows_may_start_from_another_token(architecture):
  lengths = {"inputs": 10, "targets": 7}
  (zero,) = rows(architecture, PAIRS, lengths, pack=True)
  (row,) = rows(architecture, PAIRS, lengths, pack=True, start_id=6)
  starts = (zero["decoder_positions"] == 0) & (zero["decoder_segment_ids"] > 0)
  assert starts.sum() == 2
  np.testing.assert_array_equal(
    row.pop("decoder_input_tokens"),
    np.where(starts, 6, zero.pop("decoder_input_tokens")),
  )
  for name, values in zero.items():
    np.testing.assert_array_equal(row[name], values)


def test_texts_of_an_encoder_decoder_may_stand_between_tokens():
  # The second example's inputs have no end yet.
  pairs = [PAIRS[0], {**PAIRS[1], "inputs": PAIRS[1]["inputs"][:-1]}]
  (row,) = rows(
    "encoder_decoder", pairs, {"inputs": 9, "targets": 6}, pack=True,
    start_id=6, around=(2, 1),
  )  # fmt: skip
  assert_row(
    row,
    encoder_input_tokens="2 7 8 5 1 2 8 4 9 3 1",
    encoder_segment_ids="1 1 1 1 1 2 2 2 2 2 2",
    encoder_positions="0 1 2 3 4 0 1 2 3 4 5",
    decoder_input_tokens="6 2 3 9 6 2 4",
    decoder_target_tokens="2 3 9 1 2 4 1",
    decoder_loss_weights="1 1 1 1 1 1 1",
    decoder_segment_ids="1 1 1 1 2 2 2",
    decoder_positions="0 1 2 3 0 1 2",
  )


def test_a_decoder_alone_may_have_a_second_start_token():
  (row,) = rows(
    "causal", PAIRS, {"inputs": 10, "targets": 5}, pack=True, start_id=6,
    around=(2, 1),
  )  # fmt: skip
  assert_row(
    row,
    decoder_input_tokens="6 2 7 8 5 1 3 9 6 2 8 4 9 3 1 4",
    decoder_target_tokens="2 7 8 5 1 3 9 1 2 8 4 9 3 1 4 1",
    decoder_loss_weights="0 0 0 0 0 1 1 1 0 0 0 0 0 0 1 1",
    decoder_causal_attention="1 1 1 1 1 1 0 0 1 1 1 1 1 1 1 0",
    decoder_segment_ids="1 1 1 1 1 1 1 1 2 2 2 2 2 2 2 2",
    decoder_positions="0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7",
  )


def test_bare_prompts_have_no_start_token():
  (row,) = rows(
    "causal", PAIRS, {"inputs": 10, "targets": 5}, pack=True, bare_prompts=True
  )
  assert_row(
    row,
    decoder_input_tokens="7 8 5 1 3 9 8 4 9 3 1 4 0 0 0",
    decoder_target_tokens="8 5 1 3 9 1 4 9 3 1 4 1 0 0 0",
    decoder_loss_weights="0 0 0 1 1 1 0 0 0 0 1 1 0 0 0",
    decoder_causal_attention="1 1 1 1 0 0 1 1 1 1 1 0 0 0 0",
    decoder_segment_ids="1 1 1 1 1 1 2 2 2 2 2 2 0 0 0",
    decoder_positions="0 1 2 3 4 5 0 1 2 3 4 5 0 0 0",
  )


def test_a_text_alone_has_the_start_token_even_of_bare_prompts():
  texts = [{"targets": [7, 8, 1]}]
  (row,) = rows(
    "causal", texts, {"targets": 4}, pack=False, start_id=6, bare_prompts=True
  )
  assert_row(
    row,
    decoder_input_tokens="6 7 8 0",
    decoder_target_tokens="7 8 1 0",
    decoder_loss_weights="1 1 1 0",
    decoder_causal_attention="1 0 0 0",
    decoder_segment_ids="1 1 1 0",
    decoder_positions="0 1 2 0",
  )


def test_encoder_decoder_unpacked():
  _, row = rows(
    "encoder_decoder", PAIRS, {"inputs": 6, "targets": 3}, pack=False
  )
  assert_row(
    row,
    encoder_input_tokens="8 4 9 3 1 0",
    encoder_segment_ids="1 1 1 1 1 0",
    encoder_positions="0 1 2 3 4 0",
    decoder_input_tokens="0 4 0",
    decoder_target_tokens="4 1 0",
    decoder_loss_weights="1 1 0",
    decoder_segment_ids="1 1 0",
    decoder_positions="0 1 0",
  )


@pytest.mark.parametrize("architecture", DECODERS)
def test_decoder_continues_inputs_with_targets_packed(architecture):
  (row,) = rows(architecture, PAIRS, {"inputs": 8, "targets": 7}, pack=True)
  assert_row(
    row,
    decoder_input_tokens="0 7 8 5 1 3 9 0 8 4 9 3 1 4 0",
    decoder_target_tokens="7 8 5 1 3 9 1 8 4 9 3 1 4 1 0",
    decoder_loss_weights="0 0 0 0 1 1 1 0 0 0 0 0 1 1 0",
    decoder_causal_attention="1 1 1 1 1 0 0 1 1 1 1 1 1 0 0",
    decoder_segment_ids="1 1 1 1 1 1 1 2 2 2 2 2 2 2 0",
    decoder_positions="0 1 2 3 4 5 6 0 1 2 3 4 5 6 0",
  )


@pytest.mark.parametrize("architecture", DECODERS)
def test_decoder_continues_inputs_with_targets_unpacked(architecture):
  row, _ = rows(architecture, PAIRS, {"inputs": 5, "targets": 3}, pack=False)
  assert_row(
    row,
    decoder_input_tokens="0 7 8 5 1 3 9 0",
    decoder_target_tokens="7 8 5 1 3 9 1 0",
    decoder_loss_weights="0 0 0 0 1 1 1 0",
    decoder_causal_attention="1 1 1 1 1 0 0 0",
    decoder_segment_ids="1 1 1 1 1 1 1 0",
    decoder_positions="0 1 2 3 4 5 6 0",
  )


@pytest.mark.parametrize("architecture", DECODERS)
def test_language_model_has_only_the_start_token_as_prefix(architecture):
  texts = [{"targets": [3, 9, 1]}, {"targets": [4, 1]}]
  (row,) = rows(architecture, texts, {"targets": 6}, pack=True)
  assert_row(
    row,
    decoder_input_tokens="0 3 9 0 4 0",
    decoder_target_tokens="3 9 1 4 1 0",
    decoder_loss_weights="1 1 1 1 1 0",
    decoder_causal_attention="1 0 0 1 0 0",
    decoder_segment_ids="1 1 1 2 2 0",
    decoder_positions="0 1 2 0 1 0",
  )


BLANKS = {
  "inputs": [7, 6, 5, 6],
  "targets": [3, 9, 1, 4, 1],
  "positions": [3, 3, 3, 1, 1],
}


def test_inputs_bear_loss_if_asked():
  row, _ = rows(
    "causal",
    PAIRS,
    {"inputs": 5, "targets": 3},
    pack=False,
    loss_on_inputs=True,
  )
  assert row["decoder_loss_weights"].tolist() == [1] * 7 + [0]


def test_language_model_takes_the_weights_of_the_task():
  text = {"targets": [3, 9, 1], "weights": [1, 0, 1]}
  (row,) = rows("causal", [text], {"targets": 4, "weights": 4}, pack=True)
  assert row["decoder_loss_weights"].tolist() == [1, 0, 1, 0]


def test_decoder_row_may_be_shorter_than_inputs_and_targets():
  lengths = {"inputs": 5, "targets": 5, "decoder": 7}
  for row in rows("prefix", PAIRS, lengths, pack=False):
    assert row["decoder_segment_ids"].tolist() == [1] * 7
  with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[7\].*for 6"):
    rows("prefix", PAIRS, lengths | {"decoder": 6}, pack=False)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("architecture", ["encoder_decoder", *DECODERS])
def test_id_0_within_a_sequence_is_a_token_as_any_other(architecture, pack):
  pair = {"inputs": [0, 5, 0, 6], "targets": [0, 0, 7, 0]}
  (row,) = rows(architecture, [pair], {"inputs": 5, "targets": 5}, pack=pack)
  tokens, weights = row["decoder_target_tokens"], row["decoder_loss_weights"]
  assert tokens[weights > 0].tolist() == pair["targets"]
  real = row["decoder_segment_ids"] > 0
  if architecture == "encoder_decoder":
    encoded = row["encoder_input_tokens"][row["encoder_segment_ids"] > 0]
    assert encoded.tolist() == pair["inputs"]
    assert tokens[real].tolist() == pair["targets"]
  else:
    assert tokens[real].tolist() == pair["inputs"] + pair["targets"]


def test_empty_inputs_are_a_segment_of_their_own():
  pairs = [{"inputs": [], "targets": [5, 1]}, {"inputs": [6], "targets": [7]}]
  lengths = {"inputs": 4, "targets": 4}
  (row,) = rows("encoder_decoder", pairs, lengths, pack=True)
  assert row["encoder_input_tokens"].tolist() == [0, 6, 0, 0]
  assert row["encoder_segment_ids"].tolist() == [1, 2, 0, 0]
  assert row["decoder_segment_ids"].tolist() == [1, 1, 2, 0]
  (row,) = rows("prefix", pairs, lengths, pack=True)
  assert row["decoder_target_tokens"].tolist()[:4] == [5, 1, 6, 7]
  assert row["decoder_segment_ids"].tolist()[:5] == [1, 1, 2, 2, 0]
  assert row["decoder_causal_attention"].tolist()[:5] == [1, 0, 1, 1, 0]


def test_prompt_without_targets_bears_no_loss_and_shows_all_its_inputs():
  prompt = {"inputs": [7, 8, 5], "targets": []}
  lengths = {"inputs": 3, "targets": 2}
  (row,) = rows("prefix", [prompt], lengths, pack=False)
  assert_row(
    row,
    decoder_input_tokens="0 7 8 5 0",
    decoder_target_tokens="7 8 5 0 0",
    decoder_loss_weights="0 0 0 0 0",
    decoder_causal_attention="1 1 1 1 0",
    decoder_segment_ids="1 1 1 1 0",
    decoder_positions="0 1 2 3 0",
  )
  (row,) = rows("encoder_decoder", [prompt], lengths, pack=False)
  assert row["decoder_segment_ids"].tolist() == [1, 0]
  assert row["decoder_loss_weights"].tolist() == [0, 0]


@pytest.mark.parametrize("count", [1, 31, 32, 33, 200])
def test_packing_keeps_every_example_whole_and_in_order(count):
  # 32 is the number of examples that are laid out at a time.
  rng = np.random.default_rng(count)
  pairs = [
    {
      name: rng.integers(0, 9, rng.integers(1, 13)).tolist()
      for name in ("inputs", "targets")
    }
    for _ in range(count)
  ]
  lengths = {"inputs": 12, "targets": 14}
  found = []
  packed = rows("encoder_decoder", pairs, lengths, pack=True)
  for row in packed:
    for segment in range(1, row["decoder_segment_ids"].max() + 1):
      encoder = row["encoder_segment_ids"] == segment
      decoder = row["decoder_segment_ids"] == segment
      found.append(
        {
          "inputs": row["encoder_input_tokens"][encoder].tolist(),
          "targets": row["decoder_target_tokens"][decoder].tolist(),
        }
      )
      assert row["encoder_positions"][encoder].tolist() == list(
        range(encoder.sum())
      )
      assert row["decoder_input_tokens"][decoder].tolist() == [
        0,
        *found[-1]["targets"][:-1],
      ]
  assert found == pairs
  # No row was closed while the next example had room in it.
  starts = np.cumsum([0, *(r["decoder_segment_ids"].max() for r in packed)])
  for row, first in zip(packed, starts[1:-1], strict=False):
    assert (
      np.sum(row["encoder_segment_ids"] > 0) + len(pairs[first]["inputs"]) > 12
      or np.sum(row["decoder_segment_ids"] > 0) + len(pairs[first]["targets"])
      > 14
    )


def test_agrees_with_seqio_where_seqio_is_right():
  rng = np.random.default_rng(0)
  pairs = [
    {
      name: rng.integers(2, 99, rng.integers(1, 20)).tolist()
      for name in ("inputs", "targets")
    }
    for _ in range(40)  # seqio starts a new row after 64 examples.
  ]
  lengths = {"inputs": 64, "targets": 32}
  references = {
    "encoder_decoder": seqio.EncDecFeatureConverter(pack=True),
    "prefix": seqio.PrefixLMFeatureConverter(pack=True),
  }
  for architecture, reference in references.items():
    expected = list(reference(dataset(pairs), lengths).as_numpy_iterator())
    actual = rows(architecture, pairs, lengths, pack=True)
    assert len(actual) == len(expected)
    for row, expected_row in zip(actual, expected, strict=True):
      real = row["decoder_segment_ids"] > 0
      assert row.keys() == expected_row.keys()
      for name, value in row.items():
        if name == "decoder_causal_attention":
          # seqio's is 1 on padding as well.
          np.testing.assert_array_equal(value[real], expected_row[name][real])
        else:
          np.testing.assert_array_equal(value, expected_row[name], name)


def test_longer_than_a_row_is_refused_with_both_numbers():
  with pytest.raises(
    tf.errors.InvalidArgumentError,
    match=r"\[5\] \[encoder tokens, a row has room for 4\]",
  ):
    rows("encoder_decoder", PAIRS, {"inputs": 4, "targets": 9}, pack=True)


def test_unaligned_features_are_refused_with_both_numbers():
  example = {"inputs": [1, 2, 3], "targets": [1, 2, 3], "weights": [1, 1]}
  lengths = dict.fromkeys(example, 4)
  with pytest.raises(
    tf.errors.InvalidArgumentError, match=r"weights must align.*\[3\] \[2\]"
  ):
    rows("encoder", [example], lengths, pack=True)


def test_features_of_another_type_are_refused():
  ds = tf.data.Dataset.from_tensors({"targets": tf.constant([1.0])})
  with pytest.raises(ValueError, match="targets must be an int32 vector"):
    feature_converters.converter(row_formats.CAUSAL, pack=False)(
      ds, {"targets": 3}
    )


def test_converter_refuses_loss_on_inputs_that_are_not_predicted():
  with pytest.raises(ValueError, match="causal or prefix, not encoder_decoder"):
    feature_converters.converter(
      row_formats.ENCODER_DECODER, pack=False, loss_on_inputs=True
    )


def test_statistics_count_tokens_padding_and_loss():
  (row,) = rows(
    "encoder_decoder", PAIRS, {"inputs": 10, "targets": 7}, pack=True
  )
  batch = {name: np.stack([value, 0 * value]) for name, value in row.items()}
  assert token_counts.count(batch) == {
    "positions": 34,
    "tokens": 14,
    "encoder_tokens": 9,
    "decoder_tokens": 5,
    "loss_tokens": 5,
    "examples": 2,
  }
  assert token_counts.fractions(token_counts.count(batch)) == {
    "padding_fraction": pytest.approx(20 / 34),
    "loss_fraction": pytest.approx(5 / 14),
  }
