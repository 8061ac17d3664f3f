"""Text to text: supervised examples as inputs and targets (Raffel et al. 2020).

  example   {"sentence": "A fine film.", "label": 1}
  inputs    "sst2 sentence: A fine film."    targets  "positive"

The example's fields are put into two templates; a field within another is
"{translation/de}". arXiv:1910.10683, appendix D.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from tasks import metrics, windows

_FIELD = re.compile(r"\{([^{}]+)\}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToText:
  """Fills two templates from each example; too long ones are cut before EOS.

  Attributes:
    inputs: the template of the inputs, e.g. "translate to English: {de}".
    targets: the template of the targets, e.g. "{en}".
    labels: names for the values of integer fields, by field:
      {"label": ("negative", "positive")}. A value without a name, such as the
      -1 of unlabelled examples, is written "<unk>".
  """

  inputs: str
  targets: str
  labels: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

  metric_fns = (metrics.sequence_accuracy,)
  postprocess_fn = None

  def __post_init__(self):
    for key in ("inputs", "targets"):
      template = getattr(self, key)
      if not _FIELD.search(template):
        raise ValueError(
          f"{key} ({template!r}) names no field: write one as {{field}}"
        )

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    return windows.pair(vocabulary)

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    return (
      functools.partial(fill_templates, objective=self),
      functools.partial(
        seqio.preprocessors.tokenize, copy_pretokenized=True, with_eos=False
      ),
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.append_eos_after_trim,
    )


def fill_templates(
  dataset: tf.data.Dataset, *, objective: TextToText
) -> tf.data.Dataset:
  """Maps examples to {"inputs": string, "targets": string}."""
  present = _flat(dataset.element_spec)
  for template in (objective.inputs, objective.targets):
    for field in _FIELD.findall(template):
      if field not in present:
        raise ValueError(
          f"template {template!r} names {field!r}, which examples lack: they "
          f"have {', '.join(sorted(present))}"
        )

  def fill(example):
    fields = _flat(example)
    return {
      "inputs": _fill(objective.inputs, fields, objective.labels),
      "targets": _fill(objective.targets, fields, objective.labels),
    }

  return dataset.map(fill, num_parallel_calls=windows.AUTOTUNE)


def _fill(template: str, fields, labels) -> tf.Tensor:
  # Splitting at a group gives text, field, text, field, ..., text.
  parts = _FIELD.split(template)
  for i in range(1, len(parts), 2):
    parts[i] = _as_text(fields[parts[i]], labels.get(parts[i]))
  return tf.strings.join(parts)


def _as_text(value: tf.Tensor, names: Sequence[str] | None) -> tf.Tensor:
  if names is not None:
    # Out of range becomes the last entry.
    index = tf.cast(value, tf.int32)
    is_known = (index >= 0) & (index < len(names))
    return tf.constant([*names, "<unk>"])[tf.where(is_known, index, len(names))]
  return value if value.dtype == tf.string else tf.strings.as_string(value)


def _flat(tree: Mapping, prefix: str = "") -> dict:
  """Joins the keys of nested dicts with slashes."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f"{prefix}{key}/")
    else:
      flat[prefix + key] = value
  return flat
