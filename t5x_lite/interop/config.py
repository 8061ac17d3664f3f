"""Reads config.json so that no option in it is passed over in silence.

Each option that a family reads is noted. What is left at the end must be known
to have no effect on the logits; anything else is refused by its name.
"""

import json
import math
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from t5x_lite.files import disk, json_text

NAME = "config.json"

# Activations: theirs -> ours. Of several names for one, the last is written.
ACTIVATIONS = {
  "relu": "relu",
  "relu2": "relu_squared",
  "tanh": "tanh",
  "gelu_python": "gelu", "gelu": "gelu",
  "gelu_accurate": "gelu_tanh", "gelu_fast": "gelu_tanh",
  "gelu_python_tanh": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_new": "gelu_tanh",
  "swish": "silu", "silu": "silu",
}  # fmt: skip

# Ours -> theirs.
NAMES = {ours: theirs for theirs, ours in ACTIVATIONS.items()}

# What has no effect on the logits: provenance, initial values, dropout, other
# heads' labels, and how `transformers` stores, runs or generates. (How many
# positions are learned a family reads, and it is seen in the table's shape.)
_WITHOUT_EFFECT = re.compile(
  r"architectures|auto_map|transformers_version|_name_or_path|name_or_path"
  r"|dtype|torch_dtype|torchscript|_attn_implementation(_autoset)?"
  r"|initializer_(range|factor)|init_std|classifier_\w*"
  r"|\w*(dropout|pdrop|layerdrop)\w*|pretraining_tp|gradient_checkpointing"
  r"|(id2|2)?label(2id)?\w*|_?num_labels|problem_type|finetuning_task"
  r"|task_specific_params|tokenizer_class|summary_\w+|model_max_length"
  r"|\w*_token_ids?|use_cache|output_\w+|return_dict(_in_generate)?"
  r"|chunk_size_feed_forward|keys_to_ignore_at_inference"
  r"|max_position_embeddings|n_positions|n_ctx"
  r"|(max|min)_(new_tokens|length)|num_(beams|beam_groups|return_sequences)"
  r"|do_sample|early_stopping|temperature|top_[kp]|typical_p|prefix"
  r"|\w+_penalty|(encoder_)?no_repeat_ngram_size|bad_words_ids"
  r"|suppress_tokens|begin_suppress_tokens|remove_invalid_values"
)

_OF_THE_FILES = {
  "_name_or_path", "architectures", "auto_map", "dtype", "name_or_path",
  "torch_dtype", "transformers_version",
}  # fmt: skip

# What is written out by older versions, and has an effect elsewhere.
_AT_DEFAULT = {
  "add_cross_attention": False, "is_decoder": False,
  "is_encoder_decoder": False, "pruned_heads": {}, "tf_legacy_loss": False,
  "tie_encoder_decoder": False, "use_bfloat16": False,
}  # fmt: skip

REQUIRED = object()


class Names(Protocol):
  """Knows which tensors there are, in a file or in one to be."""

  @property
  def num_tensors(self) -> float:
    """How many there are; infinite in a file to be."""

  def tied(self, name: str, to: str) -> bool:
    """Tells whether a tensor is not there, or is the same as another."""


class Config:
  """The options of one config.json.

  Attributes:
    origin: what messages call it.
    names: of the tensors beside it; None where they are not known.
  """

  def __init__(
    self, values: Mapping[str, Any], origin: str, names: Names | None
  ):
    self.origin = origin
    self.names = names
    self._values = dict(values)
    self._left = set(values)
    self._sections: list[Config] = []

  def _get(self, name, default, kind, what):
    self._left.discard(name)
    value = self._values.get(name)
    if value is None:  # As null: transformers then takes the default too.
      if default is REQUIRED:
        raise ValueError(f"{self.origin} has no {name}")
      return default
    is_kind = isinstance(value, kind)
    if isinstance(value, bool):  # Which Python takes for an integer too.
      is_kind = kind is bool
    if not is_kind:
      raise ValueError(f"{self.origin}: {name} is {value!r}, not {what}")
    return value

  def integer(
    self, name: str, default: Any = REQUIRED, *, least: int = 1
  ) -> int:
    """Returns a size or a count."""
    value = self._get(name, default, int, "a whole number")
    if value is not default and value < least:
      raise ValueError(
        f"{self.origin}: {name} is {value}, and must be at least {least}"
      )
    tensors = math.inf if self.names is None else self.names.num_tensors
    if name.endswith(("layer", "layers")) and value > tensors:
      raise ValueError(
        f"{self.origin}: {name} is {value}, but the weights beside it are only "
        f"{tensors} tensors: correct one of them"
      )
    return value

  def index(self, name: str, default: Any = REQUIRED) -> int:
    """Returns a number that counts from 0, as token ids do."""
    value = self._get(name, default, int, "a whole number")
    if value is not default and value < 0:
      raise ValueError(f"{self.origin}: {name} is {value}, which is negative")
    return value

  def number(self, name: str, default: Any = REQUIRED) -> float:
    """Returns a number, as a float."""
    value = self._get(name, default, (int, float), "a number")
    return value if value is default else float(value)

  def flag(self, name: str, default: Any = REQUIRED) -> bool:
    """Returns true or false."""
    return self._get(name, default, bool, "true or false")

  def text(self, name: str, default: Any = REQUIRED) -> str:
    """Returns a string."""
    return self._get(name, default, str, "a string")

  def choice(
    self, name: str, choices: Mapping[Any, Any], default: Any = REQUIRED
  ) -> Any:
    """Returns what an option's value stands for, {theirs: ours}.

    `default` is one of theirs.
    """
    value = self._get(name, default, (str, int, float), "a word or a number")
    return self._chosen(name, value, choices)

  def choices(
    self, name: str, choices: Mapping[Any, Any], length: int
  ) -> list[Any] | None:
    """Returns what each of a list's values stands for, or None for no list."""
    values = self._get(name, None, list, "a list")
    if values is None:
      return None
    if len(values) != length:
      raise ValueError(
        f"{self.origin}: {name} has {len(values)} entries, wanted {length}"
      )
    return [self._chosen(name, value, choices) for value in values]

  def _chosen(self, name, value, choices):
    if value not in choices:
      raise ValueError(
        f"{self.origin}: {name} is {value!r}, which is not supported: only"
        f" {', '.join(map(repr, choices))}"
      )
    return choices[value]

  def architecture(self, *known: str) -> str:
    """Returns which of a family's classes the file is of.

    The first of the known ones where the file does not say.
    """
    found = self._get("architectures", list(known[:1]), list, "a list")
    if len(found) != 1 or found[0] not in known:
      raise ValueError(
        f"{self.origin}: architectures is {found!r}, which is not supported:"
        f" only {', '.join(repr([name]) for name in known)}"
      )
    return found[0]

  def num_classes(self) -> int:
    """Returns how many classes a classifier tells apart."""
    labels = self._get("id2label", {}, dict, "an object")
    return self.integer("num_labels", len(labels) or 2)

  def expect(self, name: str, *allowed: Any):
    """Refuses an option that is there with another value than these."""
    self._left.discard(name)
    value = self._values.get(name)
    if value is not None and value not in allowed:
      raise ValueError(
        f"{self.origin}: {name} is {value!r}, which is not supported: only"
        f" {' or '.join(map(repr, allowed))}"
      )

  def section(self, name: str) -> "Config | None":
    """Returns the options in an object within, or None; all must be read."""
    values = self._get(name, None, dict, "an object")
    if values is None:
      return None
    self._sections.append(Config(values, f"{self.origin}: {name}", self.names))
    return self._sections[-1]

  def null(self, name: str) -> bool:
    """Tells whether an option is there as null and means it: no default."""
    there = name in self._values and self._values[name] is None
    if there:
      self._left.discard(name)
    return there

  def aliases(self, **names: str):
    """Reads options under second names too, alias="name"."""
    for alias, name in names.items():
      if alias not in self._values:
        continue
      value = self._values.pop(alias)
      self._left.discard(alias)
      if self._values.setdefault(name, value) != value:
        raise ValueError(
          f"{self.origin}: {alias} is {value!r} but {name}, which means the"
          f" same, is {self._values[name]!r}"
        )
      self._left.add(name)

  def without_effect(self, *names: str):
    """Passes over options that do nothing to this family's logits."""
    self._left -= set(names)

  def share(self, name: str, by: str) -> int:
    """Returns one size divided by another, as hidden_size by heads."""
    whole, parts = self.integer(name), self.integer(by)
    if whole % parts:
      raise ValueError(
        f"{self.origin}: {name} ({whole}) must be divisible by {by} ({parts})"
      )
    return whole // parts

  def finish(self):
    """Refuses what was not read, unless it is known to have no effect."""
    for section in self._sections:
      section.finish()
    values = {name: self._values[name] for name in sorted(self._left)}
    left = [
      f"{name} = {value!r}"
      for name, value in values.items()
      if value is not None
      and not _WITHOUT_EFFECT.fullmatch(name)
      and not (name in _AT_DEFAULT and value == _AT_DEFAULT[name])
    ]
    if left:
      raise ValueError(
        f"{self.origin} has options that are not supported: {', '.join(left)}"
      )


def carried(values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what outlives a conversion: token ids, labels, lengths, how to
  generate; nothing of the model, of the old files or of code beside them."""
  return {
    name: value
    for name, value in values.items()
    if _WITHOUT_EFFECT.fullmatch(name) and name not in _OF_THE_FILES
  }


def token_ids(values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the options that name special tokens by their ids."""
  return {
    name: value
    for name, value in values.items()
    if name.endswith("_token_id") and value is not None
  }


def read(directory: pathlib.Path) -> dict[str, Any]:
  """Reads a directory's config.json.

  Raises:
    ValueError: there is no such directory or file, or it is no JSON object.
  """
  if not directory.is_dir():
    raise ValueError(f"{directory} is no directory")
  if not (directory / NAME).exists():
    raise ValueError(f"{directory} holds no {NAME}")
  return json_text.read(directory / NAME)


def write(directory: pathlib.Path, values: Mapping[str, Any]):
  """Writes a directory's config.json."""
  text = json.dumps(dict(values), indent=2, sort_keys=True)
  disk.write_text(directory / NAME, text + "\n")


def known(
  values: Mapping[str, Any], name: str, choices: Collection[str]
) -> str:
  """Returns an option that decides how to read the others.

  Raises:
    ValueError: it is none of these.
  """
  value = values.get(name)
  if not isinstance(value, str) or value not in choices:
    raise ValueError(
      f"{NAME}: {name} is {value!r}, which is not supported: only"
      f" {', '.join(sorted(choices))}"
    )
  return value
