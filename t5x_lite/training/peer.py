"""Runs the same training step in another library, for `bench` to compare."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from t5x_lite.files import json_text
from t5x_lite.files.slow import announced
from t5x_lite.model import Model
from t5x_lite.optim.optimizers import AdamW, Optimizer

_PROGRAM = pathlib.Path(__file__).with_name("peer_process.py")
# Of the launcher, for JAX: the peer runs as it comes.
_OURS = ("GLIBC_TUNABLES", "XLA_FLAGS")


class Peer:
  """A process in which PyTorch and `transformers` train the same architecture.

  AdamW, float32, gradients clipped, attention by torch's fused kernel where
  `transformers` has it. A context manager, which ends the process.
  """

  def __init__(
    self,
    options: Mapping[str, Any],
    *,
    batch_size: int,
    lengths: Mapping[str, int],
    work: str = "train",
  ):
    """Starts the process, which takes one step, its warmup.

    Args:
      options: the model, as a config.json of Hugging Face says it
        (interop/huggingface.py: `described`).
      batch_size: rows of a batch.
      lengths: {"inputs", "targets"} in tokens, as for a run; to generate, of
        the prompt and of what is new.
      work: "train" or "generate".

    Raises:
      ValueError: `transformers` fails; the line says with what.
    """
    self._errors = tempfile.TemporaryFile("w+")
    self._process = subprocess.Popen(
      # -P: the folder of the program holds no libraries.
      [sys.executable, "-P", _PROGRAM],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
      env={k: v for k, v in os.environ.items() if k not in _OURS},
    )
    settings = {
      "options": options, "batch_size": batch_size, "lengths": lengths,
      "work": work,
    }  # fmt: skip
    with announced("starting transformers"):
      self.about = self._ask(json_text.dumps(settings))

  def step(self) -> dict[str, float]:
    """Takes a step; returns "seconds", "cpu_seconds" and "loss"."""
    return self._ask("")

  def generate(self, count: int) -> dict[str, float]:
    """Generates `count` tokens a row; returns "seconds", "cpu_seconds"."""
    return self._ask(str(count))

  def __enter__(self) -> "Peer":
    return self

  def __exit__(self, *error):
    self._process.kill()
    self._process.communicate()
    self._errors.close()

  def _ask(self, line) -> dict[str, Any]:
    try:
      print(line, file=self._process.stdin, flush=True)
      answer = self._process.stdout.readline()
    except BrokenPipeError:
      answer = ""
    if answer:
      return json.loads(answer)
    self._errors.seek(0)
    said = self._errors.read().strip().splitlines() or ["no message"]
    self.__exit__()
    raise ValueError(f"transformers has failed: {said[-1]}")


def check(
  model: Model, optimizer: Optimizer, microbatches: int, platform: str
) -> None:
  """Checks that a step is one that the peer takes too.

  Raises:
    ValueError: it is not.
  """
  check_device(model, platform)
  if not isinstance(optimizer, AdamW):
    raise ValueError(
      f"transformers is compared by AdamW, not {type(optimizer).__name__}: "
      "give --optimizer=adamw"
    )
  if microbatches != 1:
    raise ValueError(
      f"transformers is compared by whole batches, not {microbatches} "
      "microbatches: give --gin.Run.microbatches=1"
    )


def check_device(model: Model, platform: str) -> None:
  """Checks that a model computes where and as the peer does.

  Raises:
    ValueError: it does not.
  """
  if platform != "cpu":
    raise ValueError(f"transformers is compared on a CPU, not on a {platform}")
  if model.transformer.dtype != "float32":
    raise ValueError(
      "transformers is compared in float32, not in "
      f"{model.transformer.dtype}: give --gin.DTYPE='\"float32\"'"
    )
