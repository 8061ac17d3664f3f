"""Rows of blanks (GLM), sentence pairs (BERT) and masked tokens."""

import pytest

from tests.data.test_feature_converters import BLANKS, assert_row, rows


def test_blanks_are_filled_by_spans_with_positions_of_their_own():
  other = {"inputs": [6], "targets": [8, 1], "positions": [0, 0]}
  lengths = {"inputs": 6, "targets": 8, "positions": 8}
  (row,) = rows("prefix", [BLANKS, other], lengths, pack=True)
  assert_row(
    row,
    decoder_input_tokens="7 6 5 6 0 3 9 0 4 6 0 8 0 0",
    decoder_target_tokens="7 6 5 6 3 9 1 4 1 6 8 1 0 0",
    decoder_loss_weights="0 0 0 0 1 1 1 1 1 0 1 1 0 0",
    decoder_causal_attention="1 1 1 1 0 0 0 0 0 1 0 0 0 0",
    decoder_segment_ids="1 1 1 1 1 1 1 1 1 2 2 2 0 0",
    decoder_positions="0 1 2 3 3 3 3 1 1 0 0 0 0 0",
    decoder_block_positions="0 0 0 0 1 2 3 1 2 0 1 2 0 0",
  )


def test_sentence_pairs_have_token_types_and_a_label_for_each_row():
  one = {
    "inputs": [5, 7, 1, 8, 1],
    "targets": [5, 7, 1, 8, 1],
    "weights": [0, 1, 0, 0, 0],
    "token_types": [0, 0, 0, 1, 1],
    "next_sentence": [1],
  }
  other = {name: values[:3] for name, values in one.items()}
  other["next_sentence"] = [0]
  lengths = dict.fromkeys(one, 6) | {"next_sentence": 1}
  row, last = rows("encoder", [one, other], lengths, pack=False)
  assert row.pop("class_targets") == 1
  assert last["class_targets"] == 0
  assert_row(
    row,
    encoder_input_tokens="5 7 1 8 1 0",
    encoder_target_tokens="5 7 1 8 1 0",
    encoder_loss_weights="0 1 0 0 0 0",
    encoder_token_types="0 0 0 1 1 0",
    encoder_segment_ids="1 1 1 1 1 0",
    encoder_positions="0 1 2 3 4 0",
  )
  with pytest.raises(ValueError, match="label for each row and cannot be pack"):
    rows("encoder", [one, other], lengths, pack=True)


@pytest.mark.parametrize("pack", [True, False])
def test_encoder_takes_the_weights_of_the_task(pack):
  # Position 1 is BERT's random token, position 3 one that was kept.
  aligned = {
    "inputs": [7, 4, 5, 6, 1],
    "targets": [7, 8, 5, 6, 1],
    "weights": [0, 1, 0, 1, 0],
  }
  lengths = dict.fromkeys(aligned, 6)
  (row,) = rows("encoder", [aligned], lengths, pack=pack)
  assert_row(
    row,
    encoder_input_tokens="7 4 5 6 1 0",
    encoder_target_tokens="7 8 5 6 1 0",
    encoder_loss_weights="0 1 0 1 0 0",
    encoder_segment_ids="1 1 1 1 1 0",
    encoder_positions="0 1 2 3 4 0",
  )


def test_encoder_packed():
  aligned = [
    {"inputs": [7, 4, 1], "targets": [7, 8, 1], "weights": [0, 1, 0]},
    {"inputs": [4, 4], "targets": [5, 6], "weights": [1, 1]},
  ]
  lengths = dict.fromkeys(aligned[0], 6)
  (row,) = rows("encoder", aligned, lengths, pack=True)
  assert_row(
    row,
    encoder_input_tokens="7 4 1 4 4 0",
    encoder_target_tokens="7 8 1 5 6 0",
    encoder_loss_weights="0 1 0 1 1 0",
    encoder_segment_ids="1 1 1 2 2 0",
    encoder_positions="0 1 2 0 1 0",
  )


def test_texts_of_an_encoder_stand_between_tokens_that_are_not_masked():
  aligned = {"inputs": [7, 4, 5], "targets": [7, 8, 5], "weights": [0, 1, 0]}
  lengths = dict.fromkeys(aligned, 3)
  (row,) = rows("encoder", [aligned], lengths, pack=True, around=(2, 1))
  assert_row(
    row,
    encoder_input_tokens="2 7 4 5 1",
    encoder_target_tokens="2 7 8 5 1",
    encoder_loss_weights="0 0 1 0 0",
    encoder_segment_ids="1 1 1 1 1",
    encoder_positions="0 1 2 3 4",
  )
