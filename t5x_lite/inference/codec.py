"""Defines Codec, which encodes and decodes texts as a task does."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5x_lite.data import sentinels
from t5x_lite.inference.blanks import SENTINELS, Blanks
from t5x_lite.row_formats import RowFormat


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codec:
  """Encodes texts as a task does, and decodes tokens.

  Attributes:
    row_format: the model's.
    inputs: `vocabulary` and `add_eos` of the inputs, as a seqio.Feature.
    targets: the same for the targets.
    lengths: the maximum number of tokens. Without "inputs", inputs and targets
      share "targets" (language models of one text); with "decoder", they share
      that.
    truncate: whether to truncate longer texts rather than refuse them. They are
      truncated as in training (see trimming.py): before EOS, and inputs without
      EOS at their beginning.
    delimiter: the text between inputs and the targets that continue them, if
      neither has white space there.
    blanks: how prompts are written.
  """

  row_format: RowFormat
  inputs: Any
  targets: Any
  lengths: Mapping[str, int]
  truncate: bool = False
  delimiter: str = " "
  blanks: Blanks = SENTINELS

  @property
  def is_pair(self) -> bool:
    """Returns whether inputs have their own length."""
    return "inputs" in self.lengths

  @property
  def shared(self) -> int | None:
    """Returns the length that inputs and targets share, or None."""
    name = "decoder" if self.is_pair else "targets"
    return self.lengths.get(name)

  def room_for_inputs(self, num_targets: int) -> int:
    """Returns the maximum number of input tokens, given the target tokens."""
    if self.shared is None:
      return self.lengths["inputs"]
    left = self.shared - num_targets
    return min(left, self.lengths.get("inputs", left))

  def encode(
    self, name: str, content: str, place: str, limit: int
  ) -> np.ndarray:
    """Returns the token ids of one text, with EOS as in training."""
    with _named(place):
      ids = sentinels.encode(getattr(self, name).vocabulary, content)
    return self._fit(name, ids, place, limit)

  def encode_pair(
    self, given: str, targets: str, place: str
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the token ids of inputs and targets, encoded as in training.

    If inputs end with EOS, they and the targets are separate texts. Otherwise
    the targets continue the inputs: see `sentinels.encode_continuation`.
    """
    with _named(place):
      if self.inputs.add_eos:
        ids = (
          sentinels.encode(self.inputs.vocabulary, given),
          sentinels.encode(self.targets.vocabulary, targets),
        )
      else:
        ids = sentinels.encode_continuation(
          self.targets.vocabulary,
          given,
          self._delimiter(given, targets) + targets,
          alone=not self.row_format.shares_row,
        )
    limit = self.lengths["targets"]
    target_ids = self._fit("targets", ids[1], place, limit)
    limit = self.room_for_inputs(len(target_ids))
    input_ids = self._fit("inputs", ids[0], place, limit)
    return input_ids, target_ids

  def _delimiter(self, given, targets) -> str:
    has_space = given[-1:].isspace() or targets[:1].isspace()
    return self.delimiter if given and targets and not has_space else ""

  def _fit(self, name, ids, place, limit) -> np.ndarray:
    """Appends EOS as in training; truncates or refuses long ids."""
    feature = getattr(self, name)
    eos_id = sentinels.eos_id(feature.vocabulary)
    end = [eos_id] if feature.add_eos and eos_id is not None else []
    if len(ids) + len(end) > limit:
      if not self.truncate:
        raise ValueError(
          f"{place}: {name} has {len(ids) + len(end)} tokens, more than the "
          f"maximum of {limit}: shorten it, raise Data.lengths, or set "
          "truncate=True"
        )
      end = end[:limit]
      excess = len(ids) + len(end) - limit
      is_prompt = name == "inputs" and not feature.add_eos
      ids = ids[excess:] if is_prompt else ids[: len(ids) - excess]
    return np.array([*ids, *end], np.int32)

  @property
  def needs_prompt(self) -> bool:
    """Returns whether nothing stands beside a prompt for the model to read."""
    begin_id = getattr(self.inputs.vocabulary, "begin_id", None)
    return not self.row_format.shares_row and begin_id is None

  def num_start_tokens(self, prompt: Sequence[int]) -> int:
    """Returns how many tokens come before a language model's prompt."""
    bare = getattr(self.targets.vocabulary, "bare_prompts", False)
    return 0 if bare and len(prompt) else 1 + self._has_begin

  @property
  def _has_begin(self) -> bool:
    return getattr(self.targets.vocabulary, "begin_id", None) is not None

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of predicted tokens, up to EOS."""
    return sentinels.decode(self.targets.vocabulary, ids)

  def check_positions(self, model: Any, decoder_length: int) -> None:
    """Refuses lengths beyond the learned position embeddings of a model.

    Args:
      model: a `Model`; another predictor has no such positions.
      decoder_length: the tokens of inputs and targets.
    """
    needed = {"encoder": self.lengths.get("inputs"), "decoder": decoder_length}
    if not self.row_format.shares_row:
      needed["decoder"] -= needed["encoder"]
    if self._has_begin:
      needed = {
        "encoder": (needed["encoder"] or 0) + 2,
        "decoder": needed["decoder"] + 1,
      }
    for side, length in needed.items():
      stack = getattr(getattr(model, "transformer", None), side, None)
      limit = getattr(getattr(stack, "position", None), "max_length", None)
      if limit is not None and length > limit:
        raise ValueError(
          f"the {side} needs {length} positions, but the model has {limit} "
          "learned ones: lower the lengths or max_new_tokens"
        )


@contextlib.contextmanager
def _named(place):
  """Adds a record's place to an error message."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{place}: {error}") from None
