"""Converts a task's examples to the rows that an architecture takes.

A task gives, per example, sequences of any length: `inputs` and `targets` (a
pair), `targets` alone (a language model's text), or `inputs`, `targets` and
`weights` of one length (aligned: MLM). A text may have `weights`, aligned
examples `token_types` and a `next_sentence` label (BERT's pairs), and a pair
`positions`, those of the blanks that its targets fill (GLM). Where targets
continue the inputs, cut from one text, `targets_alone` may stand beside them,
what an encoder-decoder has for targets (tasks/pairs.py). The converter of an
architecture turns them into rows of one fixed length, under seqio's names.
Two pairs,

  inputs [7 8 5 1]     targets [3 9 1]
  inputs [8 4 9 3 1]   targets [4 1]

with room for 10 inputs and 7 targets are, packed into one row, for

  encoder_decoder
    encoder_input_tokens      7 8 5 1 8 4 9 3 1 0
    encoder_segment_ids       1 1 1 1 2 2 2 2 2 0
    encoder_positions         0 1 2 3 0 1 2 3 4 0
    decoder_input_tokens      0 3 9 0 4 0 0           shifted right; the start
                                                      token is `start_id`, 0
    decoder_target_tokens     3 9 1 4 1 0 0
    decoder_loss_weights      1 1 1 1 1 0 0
    decoder_segment_ids       1 1 1 2 2 0 0
    decoder_positions         0 1 2 0 1 0 0

  causal, prefix (the row has room for inputs and targets: 17)
    decoder_input_tokens      0 7 8 5 1 3 9 0 8 4 9 3 1 4 0 0 0
    decoder_target_tokens     7 8 5 1 3 9 1 8 4 9 3 1 4 1 0 0 0
    decoder_loss_weights      0 0 0 0 1 1 1 0 0 0 0 0 1 1 0 0 0
    decoder_causal_attention  1 1 1 1 1 0 0 1 1 1 1 1 1 0 0 0 0
    decoder_segment_ids       1 1 1 1 1 1 1 2 2 2 2 2 2 2 0 0 0
    decoder_positions         0 1 2 3 4 5 6 0 1 2 3 4 5 6 0 0 0

and an aligned example is, for

  encoder, from inputs [7 4 5 1] targets [7 8 5 1] weights [0 1 0 0]
    encoder_input_tokens      7 4 5 1 0 0
    encoder_target_tokens     7 8 5 1 0 0
    encoder_loss_weights      0 1 0 0 0 0
    encoder_segment_ids       1 1 1 1 0 0
    encoder_positions         0 1 2 3 0 0

Sentence pairs also have encoder_token_types, and class_targets, one
class a row. Blanks filled by spans of the targets, each from the start token,
are, for a prefix model, from inputs [7 6 5 6] targets [3 9 1 4 1] positions
[3 3 3 1 1]

    decoder_input_tokens      7 6 5 6 0 3 9 0 4
    decoder_target_tokens     7 6 5 6 3 9 1 4 1
    decoder_loss_weights      0 0 0 0 1 1 1 1 1
    decoder_causal_attention  1 1 1 1 0 0 0 0 0
    decoder_segment_ids       1 1 1 1 1 1 1 1 1
    decoder_positions         0 1 2 3 3 3 3 1 1     of the blank
    decoder_block_positions   0 0 0 0 1 2 3 1 2     within the span

Vocabularies may have other start tokens, and converted models may begin texts
differently; see `converter`.

Rows always have segment ids, positions and weights, even if they are not
packed. Padding is where the segment id is 0, whatever the token id.
"""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from t5x_lite import row_formats
from t5x_lite.data import packing
from t5x_lite.data.row_converter import Converter, model_features, plain
from t5x_lite.row_formats import RowFormat


def choose_targets(
  example: Mapping[str, tf.Tensor], row_format: RowFormat
) -> dict[str, tf.Tensor]:
  """Returns an example with the targets that an architecture predicts."""
  example = dict(example)
  alone = example.pop("targets_alone", None)
  if alone is not None and not row_format.shares_row:
    example["targets"] = alone
  return example


def converter(
  row_format: RowFormat,
  *,
  pack: bool,
  loss_on_inputs: bool = False,
  start_id: int = 0,
  around: tuple[int, int] | None = None,
  bare_prompts: bool = False,
) -> seqio.FeatureConverter:
  """Returns the converter of a row format.

  Called with a dataset of examples and the lengths of their features, as by
  `seqio.get_dataset` and `seqio.Evaluator`, it returns a dataset of rows. For a
  pair, a decoder's row has room for inputs and targets, or for
  lengths["decoder"] tokens if that is given.

  Args:
    row_format: the architecture's.
    pack: whether rows hold as many examples as fit, in order, rather than one
      each.
    loss_on_inputs: whether inputs are scored too; causal and prefix only.
    start_id: the token before the first one that a decoder predicts.
    around: the tokens that every text of an encoder begins and ends with, such
      as BART's "<s>" and "</s>". Both are added to inputs, unless those of an
      encoder-decoder have the end already, and the first to the targets of a
      decoder; the lengths do not include them. In the row of a decoder alone,
      the first comes after the start token, and is no target (GLM-4).
    bare_prompts: whether the inputs of a decoder-only model have no start
      token, as in GPT-2; then only a text without inputs has it.

  Raises:
    ValueError: `loss_on_inputs` for a model that does not predict inputs.
  """
  if loss_on_inputs and not row_format.shares_row:
    raise ValueError(
      "loss_on_inputs needs architecture causal or prefix, not "
      f"{row_format.name}"
    )
  return _CONVERTERS[row_format](
    row_format,
    pack=pack,
    loss_on_inputs=loss_on_inputs,
    start_id=start_id,
    around=around,
    bare_prompts=bare_prompts,
  )


_SCORED = ("input_tokens", "target_tokens", "loss_weights")


class EncoderDecoder(Converter):
  """Encodes the inputs, decodes the targets.

  If an example's inputs are empty, one token 0 is encoded, so that its targets
  have a token to attend to, and only that. If its targets are empty (a prompt),
  they become a start token without weight.
  """

  MODEL_FEATURES: Mapping = {
    **model_features("encoder", "input_tokens"),
    **model_features("decoder", *_SCORED),
  }

  def row_lengths(self, lengths):
    begin, end = self._around
    return {
      "encoder": lengths["inputs"] + len(begin) + len(end),
      "decoder": lengths["targets"] + len(begin),
    }

  def arrange(self, example):
    inputs, targets = example["inputs"], example["targets"]
    begin, end = self._around
    if begin:
      begin, end = tf.constant(begin), tf.constant(end)
      ends = tf.reduce_any(inputs[-1:] == end)
      inputs = tf.concat([begin, inputs, end[: tf.where(ends, 0, 1)]], axis=0)
      # A prompt has no targets to begin.
      targets = tf.concat(
        [begin[: tf.minimum(tf.size(targets), 1)], targets], axis=0
      )
    weights = tf.ones_like(targets)
    targets = _at_least_one(targets)
    return {
      "encoder_input_tokens": _at_least_one(inputs),
      "decoder_input_tokens": self._shift_right(targets),
      "decoder_target_tokens": targets,
      "decoder_loss_weights": _at_least_one(weights),
    }


class Decoder(Converter):
  """Continues the inputs, if any, with the targets: causal and prefix LM.

  `decoder_causal_attention`, seqio's name, is 1 on the start token and the
  inputs. A prefix LM's attention is bidirectional there, and decoding takes it
  as the prompt. Inputs are scored if `loss_on_inputs`. Empty targets (a prompt)
  become one token 0 without weight, so that the shifted row still has the last
  of the inputs:

    inputs [7 8 5]   targets []
    decoder_input_tokens      0 7 8 5
    decoder_target_tokens     7 8 5 0
    decoder_causal_attention  1 1 1 1
    decoder_loss_weights      0 0 0 0
  """

  MODEL_FEATURES: Mapping = model_features(
    "decoder", *_SCORED, "causal_attention"
  )

  def row_lengths(self, lengths):
    together = lengths.get("inputs", 0) + lengths["targets"]
    begin, _ = self._around
    return {"decoder": lengths.get("decoder", together) + len(begin)}

  def arrange(self, example):
    if "positions" in example:
      return self._arrange_blanks(**example)
    targets = example["targets"]
    inputs = example.get("inputs", targets[:0])
    begin, _ = self._around
    if begin:
      inputs = tf.concat([begin, inputs], axis=0)
    weights = example.get("weights")
    if weights is None:
      weights = tf.ones_like(targets)
    else:
      _check_aligned(example, "targets", "weights")
    input_weights = tf.fill(tf.shape(inputs), int(self._loss_on_inputs))
    tokens = tf.concat([inputs, _at_least_one(targets)], axis=0)
    visible = tf.range(tf.size(tokens)) <= tf.size(inputs)
    arranged = {
      "decoder_input_tokens": self._shift_right(tokens),
      "decoder_target_tokens": tokens,
      "decoder_loss_weights": tf.concat(
        [input_weights, _at_least_one(weights)], axis=0
      ),
      "decoder_causal_attention": tf.cast(visible, tf.int32),
    }
    if self._bare_prompts:  # The first token of a prompt is not predicted.
      first = tf.minimum(tf.size(inputs), 1)
      arranged = {name: values[first:] for name, values in arranged.items()}
    return arranged

  def _arrange_blanks(self, inputs, targets, positions) -> dict[str, tf.Tensor]:
    """Lays out blanks and the spans that fill them; see the module's text."""
    aligned = {"targets": targets, "positions": positions}
    _check_aligned(aligned, *aligned)
    # Consecutive spans never fill the same blank.
    is_first = tf.concat([[True], positions[1:] != positions[:-1]], axis=0)
    is_first = is_first[: tf.size(positions)]
    index = tf.range(tf.size(targets))
    first = tf.boolean_mask(index, is_first)
    owner = tf.cumsum(tf.cast(is_first, tf.int32)) - 1
    sides = (  # of the inputs and of the targets
      ("input_tokens", inputs,
       tf.where(is_first, self._start_id, self._shift_right(targets))),
      ("target_tokens", inputs, targets),
      ("loss_weights", tf.zeros_like(inputs), tf.ones_like(targets)),
      ("causal_attention", tf.ones_like(inputs), tf.zeros_like(targets)),
      ("positions", tf.range(tf.size(inputs)), positions),
      ("block_positions", tf.zeros_like(inputs),
       index - tf.gather(first, owner) + 1),
    )  # fmt: skip
    return {
      f"decoder_{name}": tf.concat(parts, axis=0) for name, *parts in sides
    }


class Encoder(Converter):
  """Predicts targets in place where `weights` says so.

  The weights come from the task: BERT's kept and random tokens are scored, and
  the inputs alone do not tell which they are. A pair of sentences has a row to
  itself: its label is one of the row.
  """

  MODEL_FEATURES: Mapping = model_features("encoder", *_SCORED)

  def row_lengths(self, lengths):
    label = {"class": 1} if row_formats.LABELS & lengths.keys() else {}
    begin, end = self._around
    return {"encoder": lengths["inputs"] + len(begin) + len(end), **label}

  def arrange(self, example):
    _check_aligned(example, "inputs", "targets")
    _check_aligned(example, "inputs", "weights")
    begin, end = self._around
    if begin:
      example = dict(example)
      for name in ("inputs", "targets"):
        example[name] = tf.concat([begin, example[name], end], axis=0)
      example["weights"] = tf.pad(example["weights"], [[1, 1]])
    arranged = {
      "encoder_input_tokens": example["inputs"],
      "encoder_target_tokens": example["targets"],
      "encoder_loss_weights": example["weights"],
    }
    for name in example.keys() - {"inputs", "targets", "weights"}:
      if name in row_formats.LABELS:
        arranged["class_targets"] = example[name]
      else:
        _check_aligned(example, "inputs", name)
        arranged[f"encoder_{name}"] = example[name]
    return arranged

  def _convert_features(self, ds, task_feature_lengths):
    ds = super()._convert_features(ds, task_feature_lengths)
    if not row_formats.LABELS & task_feature_lengths.keys():
      return ds
    if self.pack:
      raise ValueError(
        "sentence pairs have a label for each row and cannot be packed: set "
        "pack to False"
      )

    def label_rows(row):
      label = row["class_targets"][0]
      row = {k: v for k, v in row.items() if packing.side_of(k) == "encoder"}
      return row | {"class_targets": label}

    return ds.map(plain(label_rows))


def _check_aligned(example, first: str, second: str) -> None:
  sizes = tf.size(example[first]), tf.size(example[second])
  tf.debugging.Assert(
    tf.equal(*sizes),
    [f"{first} and {second} must align, but have", *sizes, "tokens"],
  )


def _at_least_one(tokens: tf.Tensor) -> tf.Tensor:
  """Returns the tokens, or [0] for none."""
  return tf.pad(tokens, [[0, tf.cast(tf.size(tokens) == 0, tf.int32)]])


_CONVERTERS = {
  row_formats.ENCODER_DECODER: EncoderDecoder,
  row_formats.CAUSAL: Decoder,
  row_formats.PREFIX: Decoder,
  row_formats.ENCODER: Encoder,
}
