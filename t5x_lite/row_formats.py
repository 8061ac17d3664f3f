"""Row formats: how an architecture lays a task's features out in rows.

Each way in which the batches of architectures differ is a method here.
data/feature_converters.py turns examples into rows, and shows packed ones. A
batch is a dict of int32 arrays [rows, length] by seqio's names; each side,
"encoder" and "decoder", has `*_input_tokens`, `*_segment_ids` (0 is padding)
and `*_positions`, and the side that is scored also has `*_target_tokens` and
`*_loss_weights`. Some tasks and models add keys of their own. For example,
inputs [7 8 1] and targets [3 9 1] (for Encoder, aligned inputs [7 4 1] and
targets [7 8 1]) become

  EncoderDecoder   encoder_input_tokens       7 8 1
                   decoder_input_tokens       0 3 9
                   decoder_target_tokens      3 9 1
  Causal, Prefix   decoder_input_tokens       0 7 8 1 3 9
                   decoder_target_tokens      7 8 1 3 9 1
                   decoder_causal_attention   1 1 1 1 0 0
  Encoder          encoder_input_tokens       7 4 1
                   encoder_target_tokens      7 8 1
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.nn.attention_rules import TokenInfo

# The features that rows are made of; a task may have others for its metrics.
FEATURES = (
  "inputs", "targets", "weights", "positions", "token_types", "next_sentence",
)  # fmt: skip
_TEXT, _PAIR = {"targets"}, {"inputs", "targets"}
_ALIGNED = {"inputs", "targets", "weights"}
# The sets of features that a task may have (feature_converters.py).
KINDS = (
  _TEXT,
  _TEXT | {"weights"},
  _PAIR,
  _PAIR | {"positions"},
  _ALIGNED,
  _ALIGNED | {"token_types", "next_sentence"},
)
# A key of a batch is a side and one of these names; any other name is a further
# feature of the side's tokens.
_SIDE = ("input_tokens", "segment_ids", "positions")
_SCORED = ("target_tokens", "loss_weights")
_PROMPT = "causal_attention"
# Features that are one number per example, not a sequence.
LABELS = {"next_sentence"}

Lengths = Mapping[str, int]
Array = jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class RowFormat:
  """The rows of one architecture; `ALL` maps each architecture's name to it.

  Attributes:
    name: the architecture's, as configurations and reports show it.
    sides: the sides of a batch; the last is the one that is scored.
    needed: features whose lengths determine those of the rows.
    shares_row: whether one decoder row holds the inputs, then the targets.
    generates: whether the architecture has a decoder.
  """

  name: ClassVar[str]
  sides: ClassVar[tuple[str, ...]] = ("decoder",)
  needed: ClassVar[tuple[str, ...]] = ("targets",)
  shares_row: ClassVar[bool] = True
  generates: ClassVar[bool] = True

  @property
  def scored_side(self) -> str:
    """Returns the side whose tokens are scored."""
    return self.sides[-1]

  def check(self, task_features: Iterable[str]) -> None:
    """Refuses tasks that the architecture cannot be trained on.

    Args:
      task_features: the names of the task's features that rows are made of.

    Raises:
      ValueError: with the reason, in one line.
    """
    names = set(task_features)
    if names not in KINDS:
      kinds = (" and ".join(sorted(kind)) for kind in KINDS)
      raise ValueError(
        f"features must be {'; or '.join(kinds)}, not "
        f"{', '.join(sorted(names)) or 'none'}"
      )
    if reason := self._refusal(names):
      raise ValueError(
        f"architecture {self.name} cannot take features "
        f"{', '.join(sorted(names))}: {reason}"
      )

  def blanks(self, task_features: Iterable[str]) -> str:
    """Names how the blanks of a prompt are filled (inference/blanks.py)."""
    return "spans" if "positions" in task_features else "sentinels"

  def _refusal(self, names: set[str]) -> str | None:
    """Returns why a task of these features makes no sense, or None."""
    if "positions" in names:
      return (
        "the task's blanks (GLM) need one stack that reads all of the inputs "
        "and fills blanks left to right; use architecture prefix, or a "
        "span_corruption task"
      )
    if names >= _ALIGNED:
      return (
        "inputs, targets and weights are aligned (mlm): a decoder could copy "
        "its input; use architecture encoder, or a span_corruption or "
        "prefix_lm task"
      )
    return None

  def feature_lengths(self, names: Sequence[str], lengths: Lengths) -> Lengths:
    """Returns the length of each feature of a task, and of "decoder" if given.

    One length of aligned features suffices, e.g. {"inputs": 512} for MLM.

    Args:
      names: of the task's features, in their order.
      lengths: as they are given.

    Raises:
      ValueError: lengths that are missing, superfluous, unequal or too small.
    """
    given = {**lengths, **{n: 1 for n in names if n in LABELS}}
    for aligned in self._aligned(names):
      sizes = {given[name] for name in aligned if name in given}
      if len(sizes) > 1:
        raise ValueError(
          f"lengths of {', '.join(aligned)} must be equal, but are {given}"
        )
      given |= {name: size for size in sizes for name in aligned}
    allowed = (*names, *self._optional_lengths(names))
    if not set(names) <= given.keys() <= set(allowed):
      others = allowed[len(names) :]
      raise ValueError(
        f"lengths must name {', '.join(names)}"
        + (f" (and {', '.join(others)}, if need be)" if others else "")
        + f", not {', '.join(sorted(lengths)) or 'nothing'}"
      )
    for name, length in given.items():
      # One for a token, one for the end of the sequence.
      if length < 2 and name not in LABELS:
        raise ValueError(f"length of {name} ({length}) must be at least 2")
    if given.get("decoder", given["targets"]) < given["targets"]:
      raise ValueError(
        f"length of decoder ({given['decoder']}) must have room for the "
        f"targets ({given['targets']})"
      )
    return {name: given[name] for name in allowed if name in given}

  def _aligned(self, names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yields groups of features that have one length."""
    if "weights" in names:
      yield "targets", "weights"
    if "positions" in names:
      yield "targets", "positions"

  def _optional_lengths(self, names: Sequence[str]) -> tuple[str, ...]:
    """Names lengths that a row may have besides those of its features.

    "decoder" is the row's length where that is not inputs plus targets:
    {"inputs": 511, "targets": 511, "decoder": 512} is for a prefix LM that
    splits windows of 512 tokens anywhere.
    """
    return ("decoder",) if self.shares_row and "inputs" in names else ()

  def row_lengths(self, lengths: Lengths) -> dict[str, int]:
    """Returns the length of each side, from the lengths of features.

    Raises:
      ValueError: a feature that the architecture reads has no length.
    """
    for feature in self.needed:
      if feature not in lengths:
        raise ValueError(
          f"lengths={dict(lengths)} lack {feature!r}, which an architecture "
          f"{self.name!r} reads: add {feature}=..."
        )
    return self._row_lengths(lengths)

  def _row_lengths(self, lengths: Lengths) -> dict[str, int]:
    together = lengths.get("inputs", 0) + lengths["targets"]
    return {"decoder": lengths.get("decoder", together)}

  def batch_keys(self) -> dict[str, str]:
    """Maps each key of a batch to the side that gives its length."""
    keys = {f"{side}_{name}": side for side in self.sides for name in _SIDE}
    scored = self.scored_side
    keys |= {f"{scored}_{name}": scored for name in _SCORED}
    if self.shares_row:
      keys[f"decoder_{_PROMPT}"] = "decoder"
    return keys

  def abstract_batch(self, rows: int, row_lengths: Lengths) -> dict[str, Any]:
    """Returns the shapes and dtypes of a batch."""
    return {
      key: jax.ShapeDtypeStruct((rows, row_lengths[side]), jnp.int32)
      for key, side in self.batch_keys().items()
    }

  def random_batch(
    self, rows: int, lengths: Lengths, vocab_size: int
  ) -> dict[str, np.ndarray]:
    """Returns full rows of random ids, always the same; targets are scored.

    Args:
      rows: of the batch.
      lengths: of features, as `row_lengths` reads them.
      vocab_size: ids are from 1 to this, exclusive.

    Raises:
      ValueError: lengths that leave a side without tokens.
    """
    rng, batch = np.random.default_rng(0), {}
    for side, length in self.row_lengths(lengths).items():
      if not length:
        raise ValueError(
          f"lengths ({dict(lengths)}) leave the {side} without tokens: set "
          "inputs and targets as the architecture needs"
        )
      shape = (rows, length)
      ids = rng.integers(1, vocab_size, shape, dtype=np.int32)
      positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
      batch[f"{side}_input_tokens"] = ids
      batch[f"{side}_segment_ids"] = np.ones(shape, np.int32)
      batch[f"{side}_positions"] = positions
    # The scored side is the last, so these are still its own arrays.
    scored = self.scored_side
    batch[f"{scored}_target_tokens"] = np.roll(ids, -1, axis=1)
    batch[f"{scored}_loss_weights"] = np.ones(shape, np.int32)
    if self.shares_row:
      # The start token comes first, so the last input is at place `inputs`.
      inputs = lengths.get("inputs", 0)
      batch["decoder_causal_attention"] = np.int32(positions <= inputs)
      batch["decoder_loss_weights"] -= np.int32(positions < inputs)
    return batch

  def prompts(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the part of a batch that generation may see: no targets."""
    prompt = batch["decoder_causal_attention"]
    return {
      name: batch[name] * prompt
      for name in batch
      if name not in ("decoder_target_tokens", "decoder_loss_weights")
    }

  def of_text(
    self, given: Sequence[int], written: Sequence[int]
  ) -> dict[str, np.ndarray]:
    """Returns a batch of one row from the ids of texts, for inspection.

    Args:
      given: what the encoder reads, or the prompt of a decoder alone.
      written: what the decoder writes.
    """
    ids = np.array([[0, *given, *written]], np.int32)
    places = np.arange(ids.shape[1])[None]
    return {
      "decoder_input_tokens": ids,
      "decoder_causal_attention": np.int32(places <= len(given)),
    }

  def reading_example(self, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Returns an example with this text as input, and no loss."""
    return {"inputs": ids, "targets": ids[:0]}


@dataclasses.dataclass(frozen=True)
class EncoderDecoder(RowFormat):
  """The encoder reads the inputs, and the decoder writes the targets."""

  name = "encoder_decoder"
  sides = ("encoder", "decoder")
  needed = ("inputs", "targets")
  shares_row = False

  def _refusal(self, names):
    if reason := super()._refusal(names):
      return reason
    if "inputs" not in names:
      return (
        "the task has no inputs to encode (causal LM); use a prefix_lm or "
        "span_corruption task, or architecture causal"
      )
    return None

  def _row_lengths(self, lengths):
    return {"encoder": lengths["inputs"], "decoder": lengths["targets"]}

  def prompts(self, batch):
    given = {k: v for k, v in batch.items() if k.startswith("encoder_")}
    start = ("decoder_input_tokens", "decoder_segment_ids")
    return given | {name: batch[name][:, :1] for name in start}

  def of_text(self, given, written):
    return {
      "encoder_input_tokens": np.array([given], np.int32),
      "decoder_input_tokens": np.array([[0, *written]], np.int32),
    }


@dataclasses.dataclass(frozen=True)
class Causal(RowFormat):
  """A decoder alone, in which no token sees a later one."""

  name = "causal"


@dataclasses.dataclass(frozen=True)
class Prefix(RowFormat):
  """A decoder alone, whose inputs see one another: prefix LM, GLM."""

  name = "prefix"

  def _refusal(self, names):
    return None if "positions" in names else super()._refusal(names)


@dataclasses.dataclass(frozen=True)
class Encoder(RowFormat):
  """An encoder alone: targets are predicted at the positions of the inputs."""

  name = "encoder"
  sides = ("encoder",)
  needed = ("inputs",)
  shares_row = False
  generates = False

  def _refusal(self, names):
    if "positions" in names:
      return super()._refusal(names)
    if "inputs" not in names:
      return "the task has no inputs to read; use an mlm task"
    if not names >= _ALIGNED:
      return (
        "it predicts in place, and inputs and targets without weights (span "
        "corruption, prefix LM) are not aligned; use an mlm task"
      )
    return None

  def _aligned(self, names):
    if "weights" in names:
      yield [name for name in names if name not in LABELS]

  def _row_lengths(self, lengths):
    return {"encoder": lengths["inputs"]}

  def blanks(self, task_features):
    return "masks"

  def prompts(self, batch):
    targets = {"encoder_target_tokens", "class_targets"}
    return {name: x for name, x in batch.items() if name not in targets}

  def of_text(self, given, written):
    return {"encoder_input_tokens": np.array([given], np.int32)}

  def reading_example(self, ids):
    return {"inputs": ids, "targets": ids, "weights": np.zeros_like(ids)}


ENCODER_DECODER, CAUSAL = EncoderDecoder(), Causal()
PREFIX, ENCODER = Prefix(), Encoder()
ALL = {f.name: f for f in (ENCODER_DECODER, CAUSAL, PREFIX, ENCODER)}


def token_info(batch: Mapping[str, Array], side: str) -> TokenInfo:
  """Returns what a batch says of a side's tokens; only the ids are required."""
  known = {f"{side}_{name}" for name in (*_SIDE, *_SCORED, _PROMPT)}
  ids = batch[f"{side}_input_tokens"]
  index = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
  # Without segment ids, a 0 is padding in an encoder. In a decoder it may be
  # the start token; padding is at the end, where no other token attends to it.
  segment = (ids != 0) if side == "encoder" else jnp.ones_like(ids)
  return TokenInfo(
    index=index,
    position=batch.get(f"{side}_positions", index),
    segment=batch.get(f"{side}_segment_ids", segment.astype(jnp.int32)),
    prefix=batch.get(f"{side}_causal_attention", jnp.zeros_like(ids)) > 0,
    features={
      key.removeprefix(f"{side}_"): batch[key]
      for key in sorted(batch)
      if key.startswith(f"{side}_") and key not in known
    },
  )
