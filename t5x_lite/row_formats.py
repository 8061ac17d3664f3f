"""Which architectures there are, and what kinds of tasks each can take."""

from collections.abc import Iterable

NAMES = ("encoder_decoder", "causal", "prefix", "encoder")

_TEXT, _PAIR = {"targets"}, {"inputs", "targets"}
_ALIGNED = {"inputs", "targets", "weights"}
# The features that a task may have; features.py says what they are.
KINDS = (
  _TEXT,
  _TEXT | {"weights"},
  _PAIR,
  _PAIR | {"positions"},
  _ALIGNED,
  _ALIGNED | {"token_types", "next_sentence"},
)


def check(task_features: Iterable[str], architecture: str) -> None:
  """Refuses pairs of task and architecture that make no sense.

  Args:
    task_features: the names of the task's features.
    architecture: one of `NAMES`.

  Raises:
    ValueError: with the reason, in one line.
  """
  if architecture not in NAMES:
    raise ValueError(
      f"architecture {architecture!r} must be one of {', '.join(NAMES)}"
    )
  names = set(task_features)
  if names not in KINDS:
    kinds = (" and ".join(sorted(kind)) for kind in KINDS)
    raise ValueError(
      f"features must be {'; or '.join(kinds)}, not "
      f"{', '.join(sorted(names)) or 'none'}"
    )
  has_inputs, aligned = "inputs" in names, {"inputs", "weights"} <= names
  reason = None
  if "positions" in names:
    if architecture != "prefix":
      reason = (
        "its blanks (GLM) are seen whole and filled from left to right by one "
        "stack; use architecture prefix, or a span_corruption task"
      )
  elif architecture == "encoder":
    if not has_inputs:
      reason = "the task has no inputs to read; use an mlm task"
    elif not aligned:
      reason = (
        "it predicts in place, and inputs and targets without weights (span "
        "corruption, prefix LM) are not aligned; use an mlm task"
      )
  elif aligned:
    reason = (
      "inputs, targets and weights are aligned (mlm) and a decoder would copy; "
      "use architecture encoder, or a span_corruption or prefix_lm task"
    )
  elif architecture == "encoder_decoder" and not has_inputs:
    reason = (
      "the task has no inputs to encode (causal LM); use a prefix_lm or "
      "span_corruption task, or architecture causal"
    )
  if reason:
    raise ValueError(
      f"architecture {architecture} cannot take features "
      f"{', '.join(sorted(names))}: {reason}"
    )
