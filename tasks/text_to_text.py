"""Text to text: supervised examples as inputs and targets (Raffel et al. 2020).

  example   {"sentence": "A fine film.", "label": 1}
  inputs    "sst2 sentence: A fine film."    targets  "positive"

The example's fields are put into two templates; a field within another is
"{translation/de}". arXiv:1910.10683, appendix D. A template may have several
parts, of which those without content are left out: the format of instructions,

  parts     ["Task: {instruction}", "Input: {input}", "Answer:"]
  example   {"instruction": "Name a bird.", "input": "", "output": "Wren"}
  inputs    "Task: Name a bird.\\n\\nAnswer:"              targets  "Wren"

and solved examples may stand before the one to solve (few-shot prompts), whose
answer follows as theirs do, after the delimiter and no EOS (pairs.py):

  inputs    "2+2= 4\\n\\n1+2= 3\\n\\n3+4="      delimiter " "      targets  "7"
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from t5x_lite.files import text_files
from tasks import metrics, pairs, windows

_FIELD = re.compile(r"\{([^{}]+)\}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToText:
  """Fills two templates from each example; too long ones are cut before EOS.

  Prompts with shots are cut at their beginning.

  Attributes:
    inputs: the template of the inputs, e.g. "translate to English: {de}", or
      its parts.
    targets: the template of the targets, e.g. "{en}".
    shots: so many other examples of the split stand solved before each; as
      many follow one another and are each other's shots.
    between: what joins parts, and shots. What is generated after shots ends
      where this begins, as in lm-evaluation-harness.
    delimiter: what stands between the inputs and the targets of a shot, and of
      the example after shots.
    labels: names for the values of integer fields, by field:
      {"label": ("negative", "positive")}. A value without a name, such as the
      -1 of unlabelled examples, is written "<unk>".
  """

  inputs: str | Sequence[str]
  targets: str
  labels: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
  shots: int = 0
  between: str = "\n\n"
  delimiter: str = " "

  metric_fns = (metrics.sequence_accuracy,)

  def __post_init__(self):
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
          f"{key} ({template!r}) names no field: write one as {{field}}"
        )
    if self.shots < 0:
      raise ValueError(f"shots ({self.shots}) must not be negative")

  @property
  def input_parts(self) -> tuple[str, ...]:
    """Returns the parts of the inputs' template."""
    return (
      (self.inputs,) if isinstance(self.inputs, str) else tuple(self.inputs)
    )

  @property
  def fields(self) -> tuple[str, ...]:
    """Returns the names of the fields that the templates show."""
    return tuple(_FIELD.findall("".join((*self.input_parts, self.targets))))

  @property
  def postprocess_fn(self) -> Callable | None:
    """Cuts what is generated after shots at the next one."""
    return metrics.until(self.between) if self.shots else None

  @property
  def pair(self) -> pairs.Apart | pairs.Joined:
    """Returns how inputs and targets are encoded: with shots as one text."""
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
  present = _flat(dataset.element_spec)
  for template in (*objective.input_parts, objective.targets):
    for field in _FIELD.findall(template):
      if field not in present:
        raise ValueError(
          f"template {template!r} names {field!r}, which examples lack: they "
          f"have {', '.join(sorted(present))}"
        )

  def fill(example):
    fields = _flat(example)
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
  """Puts solved examples before each: the others of shots + 1 in a row.

  The last of a finite dataset, fewer than that, have fewer shots.
  """
  if not shots:
    return dataset

  def add(group):
    parts = [group["inputs"], delimiter, group["targets"], between]
    solved = tf.strings.join(parts)
    # Of three: those that follow, around: 1 2, 2 0, 0 1.
    count = tf.size(solved)
    index = tf.range(count)[:, tf.newaxis] + tf.range(1, count)
    before = tf.strings.reduce_join(tf.gather(solved, index % count), axis=1)
    return group | {"inputs": tf.strings.join([before, group["inputs"]])}

  return dataset.batch(shots + 1).map(add).unbatch()


def _fill(template: str, fields, labels) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the text, and whether it has no field or one that is not empty."""
  # Splitting at a group gives text, field, text, field, ..., text.
  parts = _FIELD.split(template)
  for i in range(1, len(parts), 2):
    parts[i] = _as_text(fields[parts[i]], labels.get(parts[i]))
  sizes = [tf.strings.length(part) for part in parts[1::2]] or [1]
  return tf.strings.join(parts), tf.reduce_any(tf.stack(sizes) > 0)


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
