"""Training steps of small models of the shipped families, compiled for TPUs."""

import dataclasses
import functools
from collections.abc import Iterator

from jax.extend.core import JaxprEqn

from launch import config
from t5x_lite.accounting import hlo, program_costs, topologies, traces
from t5x_lite.devices import meshes
from t5x_lite.devices.layout import Layout
from t5x_lite.model import Model
from t5x_lite.optim.optimizers import AdamW
from t5x_lite.training import planned_step

TOPOLOGY = topologies.parse("v5p:2x2x1")
LAYERS, WIDTH, VOCAB = 3, 256, 1024


@dataclasses.dataclass(frozen=True)
class Collective:
  """Holds a collective of a compiled step.

  Attributes:
    kind: of program_costs.COLLECTIVES.
    times: that it runs in a step.
    arrays: that it makes, or of which it makes shards.
    op_name: what it was compiled from.
  """

  kind: str
  times: int
  arrays: tuple[hlo.Array, ...]
  op_name: str


@functools.cache
def devices() -> tuple:
  return tuple(TOPOLOGY.devices())


def absent():
  return meshes.absent(devices())


class Step:
  """Holds a family's training step with FSDP over four TPUs.

  No length is a size of the model, so that an array's shape says what it is of.
  """

  def __init__(self, family: str, remat: str | None, lengths: dict[str, int]):
    bindings = [
      "DTYPE='bfloat16'", "SCAN=True", f"NUM_LAYERS={LAYERS}", f"WIDTH={WIDTH}",
      "HIDDEN=512", f"REMAT={remat!r}", "DROPOUT=0.0", "NUM_HEADS=2",
      "HEAD_DIM=128",
    ]  # fmt: skip
    config.load([f"gin/models/{family}/tiny.gin"], bindings)
    self.model = config.build(Model).fit_vocabulary(VOCAB)
    self.lengths = set(lengths.values())
    case = planned_step.Case(
      model=self.model, optimizer=AdamW(learning_rate=1e-3), batch_size=8,
      lengths=lengths, layout=Layout(mesh={"fsdp": -1}),
    )  # fmt: skip
    with absent():
      self.placed = planned_step.place(case)
      program, arguments = planned_step._train_step(self.placed)
      with self.placed.case.layout.activate():
        traced = program.trace(*arguments)
    self.equations = list(_equations(traced.jaxpr.jaxpr))

  @functools.cached_property
  def program(self) -> hlo.Program:
    with absent():
      return hlo.parse(planned_step.compile_step(self.placed).as_text())

  @functools.cached_property
  def collectives(self) -> list[Collective]:
    with absent():
      mesh = self.placed.case.layout.device_mesh()
    reader = _Collectives(self.program, TOPOLOGY, mesh, lambda module: 1.0)
    reader.run(self.program.entry, 1)
    return reader.found

  def executed(self) -> Iterator[hlo.Instruction]:
    """Yields what runs, not what a fusion is made of."""
    todo = [self.program.entry]
    while todo:
      for one in self.program.computations[todo.pop()]:
        yield one
        inner = [one.called("body"), one.called("to_apply"), *one.branches]
        if one.opcode in ("while", "call", "conditional"):
          todo += filter(None, inner)


class _Collectives(program_costs._Reader):
  """Lists the collectives, as the estimate of a plan meets them."""

  def __init__(self, *args):
    super().__init__(*args)
    self.found = []

  def _count(self, collective, one, times, waited):
    kind, _, _ = self._traffic(collective, one)
    self.found.append(
      Collective(kind, times, collective.outputs, collective.op_name)
    )
    super()._count(collective, one, times, waited)


def _equations(program, around="") -> Iterator[tuple[str, JaxprEqn]]:
  """Yields all equations of a traced program but those inside kernels.

  With the modules and methods that each is from.
  """
  for one in program.eqns:
    name = f"{around}/{one.source_info.name_stack}"
    yield name, one
    if one.primitive.name != "pallas_call":
      for inner, _ in traces.inner(one):
        yield from _equations(inner, name)


step = functools.cache(
  lambda name: Step(
    **{
      "llama": {
        "family": "llama", "remat": "full", "lengths": {"targets": 384},
      },
      # As trained on 512 and 114: too short for a decoder's fused kernel.
      "t5": {
        "family": "t5_1_1", "remat": None,
        "lengths": {"inputs": 384, "targets": 72},
      },
      "long t5": {
        "family": "t5_1_1", "remat": None,
        "lengths": {"inputs": 384, "targets": 640},
      },
      "bert": {"family": "bert", "remat": None, "lengths": {"inputs": 384}},
      "mixtral": {
        "family": "mixtral", "remat": None, "lengths": {"targets": 384},
      },
    }[name]
  )
)  # fmt: skip
