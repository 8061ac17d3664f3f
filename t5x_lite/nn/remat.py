"""What a stack's forward pass keeps for its backward pass.

The rest is computed again: rematerialisation (Chen et al. 2016,
arXiv:1604.06174). From the least memory to the most:

    full              the input of each layer
    context           and what attention gives, before its output projection
    dots              and instead, the outputs of weight matmuls; of queries and
                      keys, what a fused kernel reads: rotated, scaled
    dots_and_context  both: only cheap operations are computed again
    offload           as dots, but in the host's memory
    None              everything
"""

import functools
from collections.abc import Callable

import jax
from jax.ad_checkpoint import checkpoint_name

from t5x_lite.nn.kernels import partition

CONTEXT, OPERAND = "context", "operand"
_context = jax.checkpoint_policies.save_only_these_names(CONTEXT)
_dots = jax.checkpoint_policies.save_from_both_policies(
  jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
  jax.checkpoint_policies.save_only_these_names(OPERAND),
)

POLICIES = {
  "full": None,
  "context": _context,
  "dots": _dots,
  "dots_and_context": jax.checkpoint_policies.save_from_both_policies(
    _dots, _context
  ),
  "offload": jax.checkpoint_policies.offload_dot_with_no_batch_dims(
    "device", "pinned_host"
  ),
}
AUTO = "auto"
# What AUTO may become, from the least computed again to the most. Not offload:
# how fast the host's memory is cannot be told.
BY_COST = (None, "dots_and_context", "dots", "context", "full")


def by_cost(platform: str) -> tuple[str | None, ...]:
  """Returns what AUTO may become on a platform, the fastest first.

  On TPUs cheap operations are computed again even where memory is plenty: a
  scanned stack writes what it saves to arrays of all layers, which takes
  longer. docs/scale.md has figures.
  """
  return BY_COST[1:] if platform == "tpu" else BY_COST


def context(x: jax.Array) -> jax.Array:
  """Returns what attention gives, named for the policies.

  A kernel with a backward pass of its own names what that pass reads of it, so
  that the kernel need not run again.
  """
  return checkpoint_name(x, CONTEXT)


def cheap(function: Callable) -> Callable:
  """Decorates a function that the backward pass computes again.

  It then reads the arguments alone, whatever the policy. A norm would otherwise
  keep its input three times over, in float32. Not on a CPU, where XLA merges
  what is computed twice.
  """

  @functools.wraps(function)
  def run(*args):
    if partition.platform() == "cpu":
      return function(*args)
    return jax.checkpoint(function, prevent_cse=False)(*args)

  return run


def operand(x: jax.Array) -> jax.Array:
  """Returns queries, keys or values as a fused kernel reads them, named.

  Where they are saved, the outputs of their projections need not be: rotating
  and scaling have gradients that read neither.
  """
  return checkpoint_name(x, OPERAND)


def settled(remat: str | None, *, scan: bool) -> str | None:
  """Returns a policy's name, or None, for a stack's setting.

  Training chooses for AUTO what fits the accelerator's memory
  (training/fitting.py). Elsewhere it means "full" for scanned stacks, which are
  the large ones, and None for others.
  """
  if remat != AUTO:
    return remat
  return "full" if scan else None
