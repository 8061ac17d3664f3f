"""Programs are read alike whichever JAX wrote them."""

import jax
import jax.numpy as jnp
import pytest

from t5x_lite.accounting import traces

X, W = jnp.ones((4, 3, 5)), jnp.ones((5, 5))


def counted(program) -> int:
  """Counts the FLOPs of all matmuls of a program."""
  return sum(
    traces.matmul_flops(eqn)
    + sum(times * counted(body) for body, times in traces.inner(eqn))
    for eqn in program.eqns
  )


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_is_told_apart_into_slices_constants_and_carries(reverse):
  # The carry has as many rows as there are steps, and is still no stack.
  def function(w, carry, xs):
    def body(carry, x):
      return carry + w[0], (2 * x, jnp.sum(carry), x @ w)

    return jax.lax.scan(body, carry, xs, reverse=reverse)

  program = traces.trace(function, W, jnp.ones((4, 5)), X)
  (scan,) = traces.scans(program)
  assert scan.length == 4
  assert [v.aval.shape for v in scan.sliced] == [(3, 5)]
  assert [v.aval.shape for v in scan.stacked] == [(4, 3, 5), (4,), (4, 3, 5)]
  inside = [v.aval.shape for v in scan.stacked.values()]
  assert inside == [(3, 5), (), (3, 5)]
  assert set(scan.stacked) == set(program.outvars[1:])


def test_the_gradient_of_a_scan_is_two_scans():
  def function(w, xs):
    def body(carry, x):
      return jnp.tanh(carry @ w + x), None

    return jax.lax.scan(body, jnp.zeros((3, 5)), xs)[0].sum()

  program = traces.trace(jax.grad(function), W, X)
  forward, backward = traces.scans(program)
  assert forward.length == backward.length == 4
  assert forward.stacked and backward.sliced
  product = 2 * 3 * 5 * 5
  assert counted(program) == 4 * 3 * product


@pytest.mark.parametrize(
  ["wrap", "times"],
  [
    (lambda f: f, 1),
    (jax.jit, 1),
    (jax.checkpoint, 1),
    (lambda f: lambda x: jax.lax.map(lambda _: f(x), jnp.arange(7)), 7),
    (lambda f: lambda x: jax.vmap(lambda _: f(x))(jnp.arange(7)), 1),
    (lambda f: jax.jit(lambda x: jax.lax.map(jax.jit(f), x[None])), 1),
  ],
)
def test_matmuls_are_counted_wherever_they_stand(wrap, times):
  program = traces.trace(wrap(lambda x: x @ W), X[0])
  assert counted(program) == times * 2 * 3 * 5 * 5


def test_names_of_scopes_are_read():
  def function(x):
    with jax.named_scope("outer"), jax.named_scope("inner"):
      return x @ W

  (eqn,) = traces.trace(function, X[0]).eqns
  assert traces.scope(eqn) == ["outer", "inner"]


@pytest.mark.parametrize(
  "error", [AttributeError, IndexError, KeyError, TypeError, ValueError]
)
def test_what_another_version_renamed_is_unreadable(error):
  with pytest.raises(traces.Unreadable, match="renamed"), traces.reading():
    raise error("renamed")
