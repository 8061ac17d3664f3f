"""Defines optimizers: frozen objects that build an optax transformation.

    optimizer = AdamW(learning_rate=Cosine(peak=1e-3, total_steps=10_000))
    transform = optimizer.build(model.logical_axes())
    state = transform.init(params)
    updates, state = transform.update(grads, state, params)
    params = optax.apply_updates(params, updates)

Weight decay and Adafactor's factoring depend on a parameter's logical axes, not
on its sizes, and some axes only stack separate tensors. So a layer trains the
same whether it is separate or one slice of a scanned stack.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from t5x_lite import checks
from t5x_lite.optim import adafactor, schedules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
  """Defines the settings of all optimizers.

  Attributes:
    learning_rate: a schedule; a number means `Constant`. Call it with a step to
      get the rate of that step's update.
    clip_norm: the global norm that gradients are clipped to; None: no clipping.
    weight_decay: each step shrinks every matrix by the share `weight_decay *
      learning_rate ** weight_decay_lr_exponent` (decoupled decay, Loshchilov &
      Hutter 2019, arXiv:1711.05101). Norm scales and biases are not decayed.
    first_moment_dtype: "float32", or "bfloat16" for half the bytes of the
      first moment. The second is always float32: with its decay near 1, an
      update would round away. (Parameters: Model.param_dtype.)
  """

  learning_rate: schedules.Schedule | checks.NotNegative
  clip_norm: checks.Positive | None = None
  weight_decay: checks.NotNegative = 0.0
  weight_decay_lr_exponent: checks.NotNegative = 1.0
  first_moment_dtype: Literal["float32", "bfloat16"] = "float32"

  def __post_init__(self):
    checks.fields(self)
    if isinstance(self.learning_rate, (int, float)):
      constant = schedules.Constant(value=self.learning_rate)
      object.__setattr__(self, "learning_rate", constant)

  def fit_steps(self, total_steps: int) -> "Optimizer":
    """Returns a copy whose schedule has `total_steps`, if it had none."""
    schedule = schedules.fit_steps(self.learning_rate, total_steps)
    return dataclasses.replace(self, learning_rate=schedule)

  def build(self, logical_axes) -> optax.GradientTransformation:
    """Builds the optax transformation.

    Args:
      logical_axes: a tree like the parameters', with tuples of axis names.
    """
    chain = [self._descend(logical_axes)]
    if self.clip_norm is not None:
      chain.insert(0, clip_by_global_norm(self.clip_norm))
    if self.weight_decay:
      mask = jax.tree.map(
        lambda axes: adafactor.as_matrix(axes).is_matrix,
        logical_axes,
        is_leaf=_is_axes,
      )
      chain.append(optax.add_decayed_weights(self._decay_per_step, mask))
    return optax.chain(*chain)

  def _decay_per_step(self, step):
    rate = self.learning_rate(step) ** self.weight_decay_lr_exponent
    return -self.weight_decay * rate

  def _descend(self, logical_axes) -> optax.GradientTransformation:
    """Maps (clipped) gradients to updates, learning rate included."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
  """Builds Adam with decoupled decay, arXiv:1412.6980, arXiv:1711.05101."""

  beta1: checks.Share = 0.9
  beta2: checks.Share = 0.999
  epsilon: checks.Positive = 1e-8

  def _descend(self, logical_axes):
    del logical_axes
    return optax.chain(
      optax.scale_by_adam(
        self.beta1, self.beta2, self.epsilon, mu_dtype=self.first_moment_dtype
      ),
      optax.scale_by_learning_rate(self.learning_rate),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
  """Builds Adafactor, with the settings of T5 (the defaults) or of PaLM.

  Shazeer & Stern 2018, arXiv:1804.04235, algorithms 4 and 5. PaLM (section 5
  of arXiv:2204.02311) keeps the full second moment: `factored=False,
  beta1=0.9`. The names are T5X's.

  Attributes:
    factored: store row and column means in place of the full second moment.
    min_dim_size_to_factor: leaves with fewer rows or columns are not factored.
    beta1: decay of the first moment, a running mean of the updates; None: no
      first moment.
    decay_rate: the second moment's decay at update t is 1 - t ** -decay_rate.
    clipping_threshold: the largest root mean square of a leaf's update, before
      the learning rate; None: no clipping.
    multiply_by_parameter_scale: multiply updates by the leaf's root mean
      square, at least `epsilon2`.
    epsilon1: added to squared gradients.
  """

  factored: bool = True
  min_dim_size_to_factor: checks.Count = 128
  beta1: checks.Share | None = None
  decay_rate: checks.Positive = 0.8
  clipping_threshold: checks.Positive | None = 1.0
  multiply_by_parameter_scale: bool = True
  epsilon1: checks.Positive = 1e-30
  epsilon2: checks.NotNegative = 1e-3

  def _descend(self, logical_axes):
    chain = [
      adafactor.scale_by_adafactor(
        logical_axes,
        factored=self.factored,
        min_dim_size_to_factor=self.min_dim_size_to_factor,
        decay_rate=self.decay_rate,
        clipping_threshold=self.clipping_threshold,
        multiply_by_parameter_scale=self.multiply_by_parameter_scale,
        epsilon1=self.epsilon1,
        epsilon2=self.epsilon2,
      ),
      optax.scale_by_learning_rate(self.learning_rate),
    ]
    if self.beta1 is not None:
      # The running mean is of final updates, learning rate and scale included.
      mean = optax.ema(
        self.beta1, debias=False, accumulator_dtype=self.first_moment_dtype
      )
      chain.append(mean)
    return optax.chain(*chain)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
  """Clips gradients to a global norm, like optax's function but faster.

  This multiplies all gradients by one factor. optax divides each element, which
  XLA does not fuse with what follows, at the cost of a pass over all gradients
  and a copy of them.
  """

  def update(grads, state, params=None):
    del params
    norm = optax.tree.norm(grads)
    factor = max_norm / jnp.maximum(norm, max_norm)
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads), state

  return optax.GradientTransformation(optax.init_empty_state, update)


def state_axes(state, logical_axes):
  """Returns the logical axes of each leaf of an optimizer's state.

  Moments have their parameter's axes, a factored second moment has the axes
  that it is not averaged over, and counters have none, ().

  Args:
    state: an optimizer's state, of arrays or shapes (`jax.eval_shape`).
    logical_axes: a tree like the parameters', with tuples of axis names.

  Returns:
    A tree like the state's, with tuples of axis names.
  """
  axes_leaves, params_tree = jax.tree.flatten(logical_axes, is_leaf=_is_axes)

  def mirrors_params(node) -> bool:
    try:
      params_tree.flatten_up_to(node)
    except (ValueError, TypeError):
      return False
    return True

  def axes_of(node):
    if not mirrors_params(node):
      assert node.shape == (), f"state of unknown kind: {node}"
      return ()
    moments = params_tree.flatten_up_to(node)
    return params_tree.unflatten(
      [
        adafactor.moment_axes(moment, axes)
        for moment, axes in zip(moments, axes_leaves, strict=True)
      ]
    )

  return jax.tree.map(axes_of, state, is_leaf=mirrors_params)


def _is_axes(node) -> bool:
  # optax's states are NamedTuples: these are not axes.
  return type(node) is tuple
