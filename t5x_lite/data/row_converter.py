"""Defines the base of feature converters: seqio's, for one row format."""

import abc
import contextlib
from collections.abc import Mapping

import seqio
import tensorflow as tf

from t5x_lite import row_formats
from t5x_lite.data import packing
from t5x_lite.row_formats import RowFormat

# JAX uses the accelerators, and TensorFlow would reserve all memory of a GPU.
# TensorFlow's devices cannot be changed once it has started (in a notebook).
with contextlib.suppress(RuntimeError):
  tf.config.set_visible_devices([], "GPU")

_INT32 = seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)
# Tracing is several times faster without AutoGraph's conversion.
plain = tf.autograph.experimental.do_not_convert


class Converter(seqio.FeatureConverter):
  """Converts examples of a task to rows; feature_converters.py draws them.

  Examples are not truncated: one with more tokens than a row raises an error
  that shows both numbers. Truncation is done before, by `task_examples.py` or
  seqio.
  """

  TASK_FEATURES: Mapping = dict.fromkeys(row_formats.FEATURES, _INT32)
  # Rows have segment ids and positions even if they are not packed.
  PACKING_FEATURE_DTYPES: Mapping = {}

  def __init__(
    self,
    row_format: RowFormat,
    *,
    pack: bool,
    loss_on_inputs: bool,
    start_id: int,
    around: tuple[int, int] | None,
    bare_prompts: bool,
  ):
    super().__init__(pack=pack, apply_length_check=False)
    self.row_format = row_format
    self._loss_on_inputs = loss_on_inputs
    self._start_id = start_id
    self._around = tuple([token] for token in around) if around else ([], [])
    self._bare_prompts = bare_prompts

  def __call__(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    """Converts examples with features of these lengths to rows.

    Unlike the base class, it takes language model examples, without inputs.
    """
    names = task_feature_lengths.keys() - {"decoder"}
    self.row_format.check(names)
    for name in sorted(names):
      spec = ds.element_spec.get(name)
      if spec is None or spec.dtype != tf.int32 or spec.shape.rank != 1:
        raise ValueError(f"feature {name} must be an int32 vector, not {spec}")
    return self._convert_features(ds, task_feature_lengths)

  def _shift_right(self, tokens: tf.Tensor) -> tf.Tensor:
    """Returns the start token, and all tokens but the last."""
    return tf.concat([[self._start_id], tokens[:-1]], axis=0)

  @abc.abstractmethod
  def row_lengths(self, lengths: Mapping[str, int]) -> dict[str, int]:
    """Returns the length of a row's sides, "encoder" and "decoder"."""

  @abc.abstractmethod
  def arrange(self, example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns an example's model features, without padding.

    All features of a side ("encoder_*", "decoder_*") have one length.
    """

  def get_model_feature_lengths(
    self, task_feature_lengths: Mapping[str, int]
  ) -> dict[str, int]:
    rows = self.row_lengths(task_feature_lengths)
    return {name: rows[packing.side_of(name)] for name in self.MODEL_FEATURES}

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    ds = ds.map(plain(self.arrange), num_parallel_calls=tf.data.AUTOTUNE)
    return packing.lay_out(
      ds, self.row_lengths(task_feature_lengths), pack=self.pack
    )


def model_features(side: str, *names: str) -> dict:
  """Returns the seqio feature specs of one side of a row."""
  names = (*names, "segment_ids", "positions")
  return {f"{side}_{name}": _INT32 for name in names}
