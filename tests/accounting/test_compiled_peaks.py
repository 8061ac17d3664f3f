"""Predicted bytes of a device against the peaks of steps that XLA compiled.

A step takes some minutes to compile, so that the peaks are read from a file.
After a change of what a step keeps, make them anew, half an hour:

  UPDATE_GOLDEN=1 pytest -n0 tests/accounting/test_compiled_peaks.py
"""

import dataclasses
import json
import os
import pathlib

import pytest

from launch import config
from t5x_lite.accounting import costs, topologies
from t5x_lite.devices import memory, meshes
from t5x_lite.devices.layout import Layout
from t5x_lite.model import Model
from t5x_lite.optim.optimizers import Adafactor, AdamW
from t5x_lite.training import planned_step
from t5x_lite.training.planned_step import Case

PEAKS = pathlib.Path(__file__).parents[1] / "golden" / "compiled_peaks.json"
ADAMW = AdamW(learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0)
ADAFACTOR = Adafactor(learning_rate=1e-3)
FSDP, DATA = {"fsdp": -1}, {"data": -1}


@dataclasses.dataclass(frozen=True)
class Step:
  """Names a step: a shipped model, its macros, and how it is run."""

  model: str
  topology: str
  batch_size: int
  lengths: dict
  remat: str | None = None
  mesh: dict = dataclasses.field(default_factory=lambda: FSDP)
  optimizer: object = ADAMW
  microbatches: int = 1
  macros: dict = dataclasses.field(default_factory=dict)

  def case(self) -> Case:
    macros = {"SCAN": True, "DTYPE": "'bfloat16'", "REMAT": repr(self.remat)}
    config.load(
      [f"gin/models/{self.model}.gin"],
      [f"{k}={v}" for k, v in (macros | self.macros).items()],
    )
    return Case(
      model=config.build(Model),
      optimizer=self.optimizer,
      batch_size=self.batch_size,
      lengths=self.lengths,
      microbatches=self.microbatches,
      layout=Layout(mesh=self.mesh),
    )


def llama(remat, **settings):
  step = Step("llama/7b", "v5p:4x4x4", 256, {"targets": 2048}, remat)
  return dataclasses.replace(step, **settings)


def t5(size, topology, batch_size, remat="dots_and_context", **settings):
  return Step(
    f"t5_1_1/{size}", topology, batch_size, {"inputs": 512, "targets": 114},
    remat, optimizer=ADAFACTOR, **settings,
  )  # fmt: skip


STEPS = {
  "llama_7b": llama(None),
  "llama_7b_full": llama("full"),
  "llama_7b_context": llama("context"),
  "llama_7b_dots": llama("dots"),
  "llama_7b_dots_and_context": llama("dots_and_context"),
  "llama_7b_v6e": llama(
    "dots_and_context", topology="v6e:4x4", batch_size=32
  ),
  "llama_4_layers_data": llama(
    None, topology="v5p:2x2x1", batch_size=16, mesh=DATA,
    macros={"NUM_LAYERS": 4, "VOCAB_SIZE": 256},
  ),
  "llama_4_layers_tensor": llama(
    "context", topology="v5p:2x2x1", batch_size=8, mesh={"tensor": -1},
    macros={"NUM_LAYERS": 4},
  ),
  "t5_xl": t5("xl", "v5e:4x4", 64),
}  # fmt: skip


def compiled_peak(name: str) -> int:
  """Returns what XLA says that a step needs."""
  if os.environ.get("UPDATE_GOLDEN") == "1":
    with meshes.absent(topologies.parse(STEPS[name].topology).devices()):
      placed = planned_step.place(STEPS[name].case())
      compiled = planned_step.compile_step(placed)
    peaks = json.loads(PEAKS.read_text())
    peaks[name] = compiled.memory_analysis().peak_memory_in_bytes
    PEAKS.write_text(json.dumps(peaks, indent=1) + "\n")
  return json.loads(PEAKS.read_text())[name]


@pytest.mark.parametrize("name", STEPS)
def test_prediction_is_close_to_the_compiled_peak(name):
  peak, case = compiled_peak(name), STEPS[name].case()
  with meshes.absent(topologies.parse(STEPS[name].topology).num_devices):
    predicted = costs.device_bytes(
      case.model, batch_size=case.batch_size, lengths=case.lengths,
      optimizer=case.optimizer, microbatches=case.microbatches,
      platform="tpu", layout=case.layout,
    )  # fmt: skip
  assert predicted["total"] == pytest.approx(peak, rel=memory.TOLERANCE)
