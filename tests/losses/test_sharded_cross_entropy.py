"""Checks the loss on 8 emulated devices: its numbers, and its collectives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.devices.layout import Layout
from t5x_lite.losses.cross_entropy import CrossEntropy
from t5x_lite.nn.heads import Head

B, T, D, V = 16, 10, 8, 24
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(B, T, D)).astype(np.float32)
KERNEL = RNG.normal(size=(D, V)).astype(np.float32)
BIAS = RNG.normal(size=V).astype(np.float32)
TARGETS = RNG.integers(0, V, (B, T))
WEIGHTS = RNG.integers(0, 2, (B, T)).astype(np.float32)
# 16 rows over 4 devices, 4 tokens a row at a time: 3 chunks.
LOSS = CrossEntropy(z_loss=0.01, label_smoothing=0.1, chunk_tokens=16)
AXES = (
  (("batch", None, None), HIDDEN),
  (("embed", "vocab"), KERNEL),
  (("vocab",), BIAS),
  (("batch", None), TARGETS),
  (("batch", None), WEIGHTS),
)
MESHES = [
  {"data": 8},
  {"fsdp": 4, "tensor": 2},
  {"data": 2, "fsdp": 2, "tensor": 2},
  {"data": 1, "tensor": 8},
]
_COLLECTIVE = (
  r" = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|"
  r"collective-permute)(?:-start)?\("
)


def objective(hidden, kernel, bias, targets, weights):
  """Returns the mean of the objective, and the sums of all terms."""
  head = Head(kernel, bias, soft_cap=3.0)
  terms = LOSS.of_tokens(hidden, head, targets, weights)
  sums = {name: term.sum for name, term in terms.items()}
  return terms["objective"].mean(), sums


GRADIENTS = jax.value_and_grad(objective, (0, 1, 2), has_aux=True)


def compiled(layout):
  """Returns the compiled gradients under an active layout, and its inputs."""
  shardings = [layout.sharding(axes, x.shape) for axes, x in AXES]
  args = [
    jax.device_put(x, sharding)
    for (_, x), sharding in zip(AXES, shardings, strict=True)
  ]
  function = jax.jit(GRADIENTS, out_shardings=(None, tuple(shardings[:3])))
  return function.lower(*args).compile(), args


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_a_mesh_changes_neither_terms_nor_gradients(mesh):
  expected = jax.jit(GRADIENTS)(*(jnp.asarray(x) for _, x in AXES))
  with Layout(mesh=mesh).activate():
    function, args = compiled(Layout(mesh=mesh))
    found = function(*args)
  jax.tree.map(
    lambda f, e: np.testing.assert_allclose(f, e, rtol=2e-5, atol=1e-6),
    jax.device_get(found), jax.device_get(expected),
  )  # fmt: skip


def test_rows_that_devices_do_not_divide_are_scored_alike():
  with Layout(mesh={"data": 8}).activate():
    found = jax.jit(GRADIENTS)(*(x[:3] if len(x) == B else x for _, x in AXES))
  expected = jax.jit(GRADIENTS)(*(x[:3] if len(x) == B else x for _, x in AXES))
  np.testing.assert_allclose(found[0][0], expected[0][0], rtol=1e-5)


def collectives(program):
  """Lists (inside a loop, kind, shape) of a compiled program's collectives."""
  found = []
  bodies = set(re.findall(r"(?:body|condition)=%?([\w.\-]+)", program))
  computation = None
  for line in program.splitlines():
    if start := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
      computation = start[1]
    if match := re.search(_COLLECTIVE, line):
      shape, kind = match.groups()
      found.append((computation in bodies, kind, shape.strip()))
  return found


def test_the_head_is_gathered_once_and_its_gradient_added_up_once():
  layout = Layout(mesh={"fsdp": 8})
  with layout.activate():
    program = compiled(layout)[0].as_text()
  assert " while(" in program
  found = collectives(program)
  assert [kind for inside, kind, _ in found if inside] == []
  of_head = [kind for _, kind, shape in found if f"[{D},{V}]" in shape]
  # Each device keeps an eighth of the sum, which XLA may do in one step.
  scattered = [kind for _, kind, _ in found if kind == "reduce-scatter"]
  assert of_head.count("all-gather") == 1
  assert of_head.count("all-reduce") + len(scattered) == 1
