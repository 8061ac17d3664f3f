"""Row formats take the tasks that make sense, and lay out their batches."""

import numpy as np
import pytest

from t5x_lite import row_formats


@pytest.mark.parametrize(
  ("names", "takers"),
  [
    (("inputs", "targets"), ("encoder_decoder", "causal", "prefix")),
    (("targets",), ("causal", "prefix")),
    (("targets", "weights"), ("causal", "prefix")),
    (("inputs", "targets", "weights"), ("encoder",)),
    (("inputs", "targets", "positions"), ("prefix",)),
    (
      ("inputs", "targets", "weights", "token_types", "next_sentence"),
      ("encoder",),
    ),
  ],
)
def test_only_pairs_that_make_sense_are_taken(names, takers):
  for architecture in row_formats.ALL:
    if architecture in takers:
      row_formats.ALL[architecture].check(names)
    else:
      with pytest.raises(ValueError, match=f"{architecture} cannot take"):
        row_formats.ALL[architecture].check(names)


@pytest.mark.parametrize(
  ("names", "architecture", "reason"),
  [
    (("targets",), "encoder_decoder", "no inputs to encode.*use a prefix_lm"),
    (("targets",), "encoder", "no inputs to read; use an mlm task"),
    (("inputs", "targets"), "encoder", "not aligned; use an mlm task"),
    (("inputs", "targets", "weights"), "causal", "a decoder could copy"),
    (("inputs",), "causal", "features must be targets; or .*, not inputs$"),
    (("targets", "label"), "causal", "not label, targets"),
    (
      ("inputs", "targets", "positions"),
      "causal",
      "blanks .GLM. need one stack",
    ),
    (("inputs", "targets", "positions"), "encoder", "use architecture prefix"),
  ],
)
def test_refusals_say_why_in_one_line(names, architecture, reason):
  with pytest.raises(ValueError, match=reason) as error:
    row_formats.ALL[architecture].check(names)
  assert "\n" not in str(error.value)


each_format = pytest.mark.parametrize("name", row_formats.ALL)
LENGTHS = {"inputs": 5, "targets": 4}


@each_format
def test_random_batches_are_as_the_abstract_ones_say(name):
  row_format = row_formats.ALL[name]
  batch = row_format.random_batch(3, LENGTHS, vocab_size=11)
  shapes = row_format.abstract_batch(3, row_format.row_lengths(LENGTHS))
  assert batch.keys() == shapes.keys()
  for key, value in batch.items():
    assert (value.shape, value.dtype) == (shapes[key].shape, shapes[key].dtype)
  scored = batch[f"{row_format.scored_side}_loss_weights"].sum(axis=1)
  assert scored.tolist() == 3 * [5 if name == "encoder" else 4]


@pytest.mark.parametrize("name", ["encoder_decoder", "causal", "prefix"])
def test_no_target_reaches_a_prompt(name):
  row_format = row_formats.ALL[name]
  first, second = (
    row_format.random_batch(3, LENGTHS, vocab_size) for vocab_size in (11, 13)
  )
  prompts = row_format.prompts(first)
  assert not any("target" in key for key in prompts)
  # The inputs of one batch with the targets of another.
  given = slice(None, 1) if name == "encoder_decoder" else slice(None, 6)
  ids = second["decoder_input_tokens"].copy()
  ids[:, given] = first["decoder_input_tokens"][:, given]
  other = row_format.prompts({**first, "decoder_input_tokens": ids})
  for key, value in prompts.items():
    np.testing.assert_array_equal(other[key], value, err_msg=key)


@each_format
def test_a_length_that_the_architecture_reads_must_be_given(name):
  with pytest.raises(ValueError, match=f"{name}' reads: add (inputs|targets)="):
    row_formats.ALL[name].row_lengths({})


def test_a_row_may_have_a_length_of_its_own():
  lengths = {**LENGTHS, "decoder": 6}
  assert row_formats.PREFIX.row_lengths(lengths) == {"decoder": 6}
  assert row_formats.PREFIX.row_lengths(LENGTHS) == {"decoder": 9}
  assert row_formats.PREFIX.feature_lengths(tuple(LENGTHS), lengths) == lengths
  with pytest.raises(
    ValueError, match="lengths must name inputs, targets, not"
  ):
    row_formats.ENCODER_DECODER.feature_lengths(tuple(LENGTHS), lengths)
  with pytest.raises(ValueError, match=r"decoder \(3\) must have room"):
    row_formats.CAUSAL.feature_lengths(
      tuple(LENGTHS), {**LENGTHS, "decoder": 3}
    )


def test_aligned_features_have_one_length():
  names = ("inputs", "targets", "weights", "token_types", "next_sentence")
  found = row_formats.ENCODER.feature_lengths(names, {"inputs": 8})
  assert found == dict.fromkeys(names[:4], 8) | {"next_sentence": 1}
  with pytest.raises(ValueError, match="must be equal"):
    row_formats.ENCODER.feature_lengths(names, {"inputs": 8, "targets": 4})


def test_the_command_line_knows_all_architectures():
  from launch import tasks

  assert tuple(row_formats.ALL) == tasks.ARCHITECTURES
