"""Implements Adafactor with a second moment factored by logical axes.

A leaf is a matrix of rows and columns, one for each layer (and expert):

    ("layers", "embed", "heads", "head_dim")  L x [embed] x [heads * head_dim]
    ("heads", "head_dim", "embed")            [heads * head_dim] x [embed]
    ("vocab", "embed")                        [vocab] x [embed]
    ("layers", "embed")                       not a matrix: L vectors

The second moment of a matrix is stored as row means and column means. Each
slice of a stacked leaf is clipped and scaled separately.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

# Axes that stack separate tensors: nothing is averaged over them.
STACKING_AXES = frozenset({"layers", "experts"})


@dataclasses.dataclass(frozen=True)
class Matrix:
  """Names the dims of a leaf that are its matrix's rows and its columns.

  Further dims stack matrices. A leaf that is not a matrix has no columns.
  """

  rows: tuple[int, ...]
  cols: tuple[int, ...]

  @property
  def is_matrix(self) -> bool:
    return bool(self.cols)

  @property
  def within(self) -> tuple[int, ...]:
    """Returns the dims of one matrix of a stack."""
    return tuple(sorted(self.rows + self.cols))


def as_matrix(axes: tuple[str | None, ...]) -> Matrix:
  """Splits a leaf's logical axes into the rows and columns of a matrix.

  "head_dim" is joined with the axis before it. If three or more axes remain,
  "embed" is one side of the matrix and all others are the other side.
  """
  sides: list[tuple[int, ...]] = []
  for i, axis in enumerate(axes):
    if axis in STACKING_AXES:
      continue
    if axis == "head_dim" and sides:
      sides[-1] += (i,)
    else:
      sides.append((i,))
  if len(sides) > 2 and "embed" in axes:
    embed = (axes.index("embed"),)
    others = tuple(i for side in sides if side != embed for i in side)
    sides = [embed, others] if sides[0] == embed else [others, embed]
  if len(sides) == 2:
    return Matrix(*sides)
  return Matrix(tuple(i for side in sides for i in side), ())


class Factored(NamedTuple):
  """Holds the second moment of a matrix as row means and column means.

  Both have the leaf's dims, without those averaged over: for a scanned query
  kernel [L, D, N, H], `row` is [L, D] and `col` is [L, N, H].
  """

  row: Any
  col: Any


class AdafactorState(NamedTuple):
  """Holds the number of updates made and each parameter's second moment."""

  count: Any
  moments: Any  # the parameters' tree; each leaf an array or a `Factored`


def moment_axes(moment, axes: tuple[str | None, ...]):
  """Returns the logical axes of a parameter's second moment."""
  if not isinstance(moment, Factored):
    return axes
  matrix = as_matrix(axes)
  return Factored(
    row=_without(axes, matrix.cols), col=_without(axes, matrix.rows)
  )


def scale_by_adafactor(
  logical_axes,
  *,
  factored: bool = True,
  min_dim_size_to_factor: int = 128,
  decay_rate: float = 0.8,
  clipping_threshold: float | None = 1.0,
  multiply_by_parameter_scale: bool = True,
  epsilon1: float = 1e-30,
  epsilon2: float = 1e-3,
) -> optax.GradientTransformation:
  """Scales gradients by algorithms 4 and 5 of arXiv:1804.04235.

  The learning rate, the sign and a first moment are left to the transformations
  that follow. `optimizers.Adafactor` documents the arguments.
  """

  def init(params):
    def moment(param, axes):
      matrix = as_matrix(axes)
      num_rows = math.prod(param.shape[i] for i in matrix.rows)
      num_cols = math.prod(param.shape[i] for i in matrix.cols)
      large = min(num_rows, num_cols) >= min_dim_size_to_factor
      if not (factored and matrix.is_matrix and large):
        return jnp.zeros(param.shape, jnp.float32)
      return Factored(
        row=jnp.zeros(_without(param.shape, matrix.cols), jnp.float32),
        col=jnp.zeros(_without(param.shape, matrix.rows), jnp.float32),
      )

    moments = jax.tree.map(moment, params, logical_axes)
    return AdafactorState(jnp.zeros((), jnp.int32), moments)

  def update(grads, state, params):
    # Section 7.2: update t = 1, 2, ... decays by 1 - t^-0.8.
    t = (state.count + 1).astype(jnp.float32)
    decay = 1.0 - t**-decay_rate

    def update_leaf(grad, param, axes, moment):
      matrix = as_matrix(axes)
      grad = grad.astype(jnp.float32)
      moment = _next_moment(moment, grad, matrix, decay, epsilon1)
      scale = 1.0
      if clipping_threshold is not None:
        rms = _rms(_direction(grad, moment, matrix), matrix)
        scale /= jnp.maximum(1.0, rms / clipping_threshold)
      if multiply_by_parameter_scale:
        scale *= jnp.maximum(_rms(param, matrix), epsilon2)
      # The barrier makes XLA recompute the direction inside the fused update
      # rather than store an array as large as the parameter.
      same = jax.lax.optimization_barrier(moment)
      return scale * _direction(grad, same, matrix), moment

    grad_leaves, tree = jax.tree.flatten(grads)
    others = [
      tree.flatten_up_to(x) for x in (params, logical_axes, state.moments)
    ]
    pairs = [
      update_leaf(*leaf) for leaf in zip(grad_leaves, *others, strict=True)
    ]
    updates, moments = zip(*pairs, strict=True)
    return tree.unflatten(updates), AdafactorState(
      state.count + 1, tree.unflatten(moments)
    )

  return optax.GradientTransformation(init, update)


def _next_moment(moment, grad, matrix: Matrix, decay, epsilon):
  """Updates a second moment with the squared gradient."""
  keep, add = decay, 1.0 - decay
  if not isinstance(moment, Factored):
    return keep * moment + add * (grad * grad + epsilon)
  # The two squares are written differently on purpose: XLA would share equal
  # ones, and store an array as large as the parameter.
  row = jnp.mean(jnp.square(grad * jnp.sqrt(add)), matrix.cols)
  col = jnp.mean(jnp.square(grad), matrix.rows)
  return Factored(
    row=keep * moment.row + (row + add * epsilon),
    col=keep * moment.col + add * (col + epsilon),
  )


def _direction(grad, moment, matrix: Matrix):
  """Divides the gradient by the root of its second moment."""
  if not isinstance(moment, Factored):
    return grad * jax.lax.rsqrt(moment)
  # The rank-1 estimate: row times col over the mean of row.
  kept = _without(range(grad.ndim), matrix.cols)
  rows = tuple(kept.index(i) for i in matrix.rows)
  row = moment.row / jnp.mean(moment.row, rows, keepdims=True)
  row = jax.lax.broadcast_in_dim(jax.lax.rsqrt(row), grad.shape, kept)
  kept = _without(range(grad.ndim), matrix.rows)
  col = jax.lax.rsqrt(moment.col)
  col = jax.lax.broadcast_in_dim(col, grad.shape, kept)
  return grad * row * col


def _without(items, dims: tuple[int, ...]) -> tuple:
  """Returns the items, one per dim, without those of `dims`."""
  return tuple(item for i, item in enumerate(items) if i not in dims)


def _rms(x, matrix: Matrix):
  """Returns the root mean square of each matrix of a stack."""
  return jnp.sqrt(jnp.mean(jnp.square(x), matrix.within, keepdims=True))
