"""Formats supervised examples as text to text (Raffel et al. 2020).

  example   {"sentence": "A fine film.", "label": 1}
  inputs    "sst2 sentence: A fine film."    targets  "positive"

Two templates are filled with the example's fields; nested fields are written
"{translation/de}". arXiv:1910.10683, appendix D. The inputs' template may have
several parts; parts whose fields are all empty are left out, for example in
instruction data:

  parts     ["Task: {instruction}", "Input: {input}", "Answer:"]
  example   {"instruction": "Name a bird.", "input": "", "output": "Wren"}
  inputs    "Task: Name a bird.\\n\\nAnswer:"              targets  "Wren"

Few-shot prompts put solved examples before the inputs; the targets then follow
the delimiter, without EOS in between (pairs.py):

  inputs    "2+2= 4\\n\\n1+2= 3\\n\\n3+4="      delimiter " "      targets  "7"
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from t5x_lite import checks
from t5x_lite.files import text_files
from tasks import metrics, pairs, windows

_FIELD = re.compile(r"\{([^{}]+)\}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToText:
  """Fills two templates from each example; long texts are truncated before EOS.

  Few-shot prompts are truncated at their beginning.

  Attributes:
    inputs: the template of the inputs, e.g. "translate to English: {de}", or a
      list of its parts.
    targets: the template of the targets, e.g. "{en}".
    shots: the number of solved examples in each prompt. They come from the same
      split: each group of shots + 1 consecutive examples is each other's shots.
    between: the separator of parts and of shots. With shots, predictions are
      truncated at this separator, as in lm-evaluation-harness.
    delimiter: with shots, the text between inputs and targets.
    labels: class names of integer fields, as in {"label": ("negative",
      "positive")}. A value without a name, such as -1 for unlabelled examples,
      becomes "<unk>".
  """

  inputs: str | Sequence[str]
  targets: str
  labels: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  shots: checks.Whole = 0
  between: str = "\n\n"
  delimiter: str = " "

  metric_fns = (metrics.sequence_accuracy,)

  def __post_init__(self):
    checks.fields(self)
    names = (name for of in self.labels.values() for name in of)
    between = self.between, self.delimiter
    for text in (*self.input_parts, self.targets, *between, *names):
      text_files.check_text(text, repr(text))
    for key, template in (
      ("inputs", "".join(self.input_parts)),
      ("targets", self.targets),
    ):
      if not _FIELD.search(template):
        raise ValueError(
          f"{key} ({template!r}) has no field: write one as {{field}}"
        )

  @property
  def input_parts(self) -> tuple[str, ...]:
    """Returns the parts of the inputs' template."""
    return (
      (self.inputs,) if isinstance(self.inputs, str) else tuple(self.inputs)
    )

  @property
  def fields(self) -> tuple[str, ...]:
    """Returns the names of the fields in the templates."""
    return tuple(_FIELD.findall("".join((*self.input_parts, self.targets))))

  @property
  def postprocess_fn(self) -> Callable | None:
    """Truncates few-shot predictions at the separator."""
    return metrics.until(self.between) if self.shots else None

  @property
  def pair(self) -> pairs.Apart | pairs.Joined:
    """Returns the encoding of inputs and targets: with shots, as one text."""
    if not self.shots:
      return pairs.Apart()
    return pairs.Joined(delimiter=self.delimiter)

  def output_features(
    self, vocabulary: seqio.Vocabulary
  ) -> Mapping[str, seqio.Feature]:
    return self.pair.output_features(vocabulary)

  def preprocessors(self) -> Sequence[Callable[..., tf.data.Dataset]]:
    return (
      functools.partial(fill_templates, objective=self),
      functools.partial(
        add_shots,
        shots=self.shots,
        between=self.between,
        delimiter=self.delimiter,
      ),
      *self.pair.preprocessors(),
    )


def fill_templates(
  dataset: tf.data.Dataset, *, objective: TextToText
) -> tf.data.Dataset:
  """Maps examples to {"inputs": string, "targets": string}."""
  present = flatten(dataset.element_spec)
  for template in (*objective.input_parts, objective.targets):
    for field in _FIELD.findall(template):
      if field not in present:
        raise ValueError(
          f"template {template!r} has the field {field!r}, but examples have "
          f"{', '.join(sorted(present))}"
        )

  def fill(example):
    fields = flatten(example)
    parts = [
      _fill(part, fields, objective.labels) for part in objective.input_parts
    ]
    texts, has_content = map(tf.stack, zip(*parts, strict=True))
    has_content |= len(parts) == 1
    return {
      "inputs": tf.strings.reduce_join(
        tf.boolean_mask(texts, has_content), separator=objective.between
      ),
      "targets": _fill(objective.targets, fields, objective.labels)[0],
    }

  return dataset.map(fill, num_parallel_calls=windows.AUTOTUNE)


def add_shots(
  dataset: tf.data.Dataset, *, shots: int, between: str, delimiter: str = " "
) -> tf.data.Dataset:
  """Puts solved examples before each: the others of its group of shots + 1.

  If the last group of a finite dataset is smaller, it has fewer shots.
  """
  if not shots:
    return dataset

  def add(group):
    parts = [group["inputs"], delimiter, group["targets"], between]
    solved = tf.strings.join(parts)
    # The shots of three examples: 1 2, 2 0, 0 1.
    count = tf.size(solved)
    index = tf.range(count)[:, tf.newaxis] + tf.range(1, count)
    before = tf.strings.reduce_join(tf.gather(solved, index % count), axis=1)
    return group | {"inputs": tf.strings.join([before, group["inputs"]])}

  return dataset.batch(shots + 1).map(add).unbatch()


def _fill(template: str, fields, labels) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the text, and False if it has fields and all are empty."""
  # Splitting at a group gives text, field, text, field, ..., text.
  parts = _FIELD.split(template)
  for i in range(1, len(parts), 2):
    parts[i] = _as_text(fields[parts[i]], labels.get(parts[i]))
  sizes = [tf.strings.length(part) for part in parts[1::2]] or [1]
  return tf.strings.join(parts), tf.reduce_any(tf.stack(sizes) > 0)


def _as_text(value: tf.Tensor, names: Sequence[str] | None) -> tf.Tensor:
  if names is not None:
    # Values out of range become "<unk>", the last entry.
    index = tf.cast(value, tf.int32)
    is_known = (index >= 0) & (index < len(names))
    return tf.constant([*names, "<unk>"])[tf.where(is_known, index, len(names))]
  return value if value.dtype == tf.string else tf.strings.as_string(value)


def flatten(tree: Mapping, prefix: str = "") -> dict:
  """Joins the keys of nested dicts with slashes."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{prefix}{key}/")
    else:
      flat[prefix + key] = value
  return flat
