"""Compiles a training or decode step for devices that are not here."""

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite.accounting import absent_gpus, fitting
from t5x_lite.devices.layout import Layout
from t5x_lite.files.slow import announced
from t5x_lite.model import Model
from t5x_lite.nn.caches import KVCache
from t5x_lite.optim.optimizers import Optimizer
from t5x_lite.training import abstract_state, step

# "Used 20.30G of 15.75G hbm", "(3.00T) exceeds available HBM (95.74G)".
_SIZE = re.compile(
  r"([\d.]+)([KMGTP]?)(?: of [\d.]+[KMGTP]? hbm|\) exceeds available HBM)"
)
_UNITS = {unit: 1024**i for i, unit in enumerate(("", *"KMGTP"))}


class OutOfMemory(Exception):
  """Raised for a program that the compiler cannot fit into the device.

  Attributes:
    nbytes: what it needs, as far as the compiler says.
  """

  def __init__(self, nbytes: int):
    super().__init__(f"needs {nbytes} bytes")
    self.nbytes = nbytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """Holds a step to plan.

  Attributes:
    model, optimizer: with their sizes filled in.
    batch_size: rows of the global batch.
    lengths: {task feature: tokens}.
    microbatches: as in a run.
    layout: as in a run.
    decode: whether the step appends a token to each row, rather than trains;
      rows of the cache are as long as rows of training.
  """

  model: Model
  optimizer: Optimizer
  batch_size: int
  lengths: Mapping[str, int]
  microbatches: int | str = 1
  layout: Layout = Layout()
  decode: bool = False

  @property
  def rows(self) -> dict[str, int]:
    """Returns the length of a row's encoder and decoder side."""
    return self.model.row_format.row_lengths(self.lengths)

  def check(self):
    """Refuses what no program can be made of, without compiling.

    Raises:
      ValueError: the layout does not fit the devices, or the batch the layout.
    """
    automatic = self.microbatches == fitting.AUTO
    microbatches = 1 if self.decode or automatic else self.microbatches
    self.layout.check_batch(self.batch_size, microbatches)
    if self.decode and self.model.transformer.decoder is None:
      raise ValueError("decode: an encoder-only model does not generate")
    if not all(self.rows.values()):
      raise ValueError(
        f"lengths ({dict(self.lengths)}) leave a side without tokens: set "
        "inputs and targets as the architecture needs"
      )


@dataclasses.dataclass(frozen=True)
class Placed:
  """Holds the shapes and shardings that a step takes.

  Attributes:
    case: the step, its layout fitted to the model.
    state: of training (step.TrainState); only its parameters where it decodes.
    other: the batch; or the decode state.
  """

  case: Case
  state: Any
  other: Any


def place(case: Case) -> Placed:
  """Shards the arrays of a step over the devices of its layout.

  To be called within `meshes.absent`, and outside of `Layout.activate`, where
  keys would be made on devices that are not here.
  """
  transform = case.optimizer.build(case.model.logical_axes())
  state, axes = abstract_state.shapes(case.model, transform)
  layout = case.layout.fit(axes.params, state.params)
  case = dataclasses.replace(case, layout=layout)
  placed = abstract_state.place(state, axes, layout)
  if case.decode:
    return Placed(case, placed.params, _decode_state(case, state.params))
  sharding = layout.batch_sharding()
  batch = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    for name, x in case.model.abstract_batch(case.batch_size, case.rows).items()
  }
  return Placed(case, placed, batch)


def compile_step(placed: Placed) -> jax.stages.Compiled:
  """Compiles a step.

  Raises:
    OutOfMemory: the device has less memory than it needs.
  """
  case = placed.case
  program, arguments = (_decode_step if case.decode else _train_step)(placed)
  on_gpus = case.layout.device_mesh().devices.flat[0].platform == "gpu"
  here = absent_gpus.taken_as_here if on_gpus else contextlib.nullcontext
  options = absent_gpus.COMPILER_OPTIONS if on_gpus else None
  with announced("compiling the step"):
    with case.layout.activate(), here():
      lowered = program.lower(*arguments)
    try:
      with _not_cached():
        return lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
      nbytes = needed_bytes(str(error))
      if nbytes is None:
        raise
      raise OutOfMemory(nbytes) from None


@contextlib.contextmanager
def _not_cached():
  """Keeps programs out of JAX's cache, which cannot read them again."""
  name = "jax_persistent_cache_min_compile_time_secs"
  before = getattr(jax.config, name)
  jax.config.update(name, float("inf"))
  try:
    yield
  finally:
    jax.config.update(name, before)


def needed_bytes(message: str) -> int | None:
  """Returns what a program needs that the compiler refuses as too large.

  None for another error, as where a kernel needs too much of another memory.
  """
  found = _SIZE.search(message)
  if not found or "RESOURCE_EXHAUSTED" not in message:
    return None
  number, unit = found.groups()
  return int(float(number) * _UNITS[unit])


def _train_step(placed):
  case = placed.case
  function = step.train_step(
    case.model,
    case.optimizer.build(case.model.logical_axes()),
    microbatches=case.microbatches,
    dropout_key=step.dropout_key(0),
  )
  shardings = jax.tree.map(lambda x: x.sharding, placed.state)
  program = jax.jit(
    function,
    donate_argnums=0,
    out_shardings=(shardings, case.layout.replicated()),
  )
  return program, (placed.state, placed.other)


def _decode_step(placed):
  case = placed.case
  program = jax.jit(case.model.decode_step, donate_argnums=1)
  tokens = jax.ShapeDtypeStruct(
    (case.batch_size,), jnp.int32, sharding=case.layout.batch_sharding()
  )
  return program, (placed.state, placed.other, tokens)


def _decode_state(case, params):
  """Returns the shapes and shardings of what decoding carries along."""
  rows = dict(case.rows)
  new = rows["decoder"]
  if not case.model.transformer.has_encoder:
    # Half a row is the prompt.
    new = rows["decoder"] // 2
    rows["decoder"] -= new
  batch = case.model.abstract_batch(case.batch_size, rows)
  _, state = jax.eval_shape(
    lambda params, batch: case.model.prefill(
      params, batch, max_new_tokens=max(1, new)
    ),
    params,
    batch,
  )

  def axes(path, leaf):
    if any(key in path for key in map(jax.tree_util.GetAttrKey, _CACHED)):
      names = ("batch", "kv_heads", "kv_length", "head_dim")
      return ("layers",) * (leaf.ndim - 4) + names
    first = ("batch",) if leaf.shape[:1] == (case.batch_size,) else (None,)
    return (*first, None, None)[: leaf.ndim]

  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: jax.ShapeDtypeStruct(
      leaf.shape,
      leaf.dtype,
      sharding=case.layout.sharding(axes(path, leaf), leaf.shape),
    ),
    state,
  )


_CACHED = KVCache._fields
