"""The loss against PyTorch's and its formulas, chunked or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from t5x_lite.losses.cross_entropy import NORMALIZERS, CrossEntropy
from t5x_lite.nn.heads import Head

B, T, D, V = 3, 7, 6, 11
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(B, T, D)).astype(np.float32)
KERNEL = RNG.normal(size=(D, V)).astype(np.float32)
TARGETS = RNG.integers(0, V, (B, T))
WEIGHTS = np.array([[1] * 7, [0, 1, 1, 0, 1, 0, 0], [0] * 7])


def score(loss, hidden=HIDDEN, kernel=KERNEL, weights=WEIGHTS, **head):
  head = Head(kernel, **head)
  return sums(loss.of_tokens(hidden, head, TARGETS, jnp.asarray(weights)))


def sums(terms):
  """Returns the terms' sums, and what they are divided by."""
  return {
    "objective": terms["objective"].sum,
    "denominator": terms["objective"].weight,
    "loss": terms["loss"].sum,
    "z_loss": terms["z_loss"].sum,
    "correct": terms["accuracy"].sum,
    "weight": terms["loss"].weight,
  }


def gradients(loss, hidden=HIDDEN, kernel=KERNEL, weights=WEIGHTS):
  def objective(hidden, kernel):
    return score(loss, hidden, kernel, weights)["objective"]

  return jax.jit(jax.grad(objective, argnums=(0, 1)))(hidden, kernel)


def assert_all_close(actual, expected, **tolerance):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, **tolerance),
    actual, expected,
  )  # fmt: skip


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_pytorchs(label_smoothing):
  import torch

  hidden = torch.tensor(HIDDEN, requires_grad=True)
  kernel = torch.tensor(KERNEL, requires_grad=True)
  each = torch.nn.functional.cross_entropy(
    (hidden @ kernel).reshape(-1, V), torch.tensor(TARGETS).reshape(-1),
    label_smoothing=label_smoothing, reduction="none",
  )  # fmt: skip
  theirs = each @ torch.tensor(WEIGHTS, dtype=torch.float32).reshape(-1)
  theirs.backward()

  loss = CrossEntropy(label_smoothing=label_smoothing, chunk_tokens=4)
  np.testing.assert_allclose(score(loss)["objective"], theirs.item(), rtol=1e-5)
  assert_all_close(
    gradients(loss), (hidden.grad.numpy(), kernel.grad.numpy()),
    rtol=1e-4, atol=1e-5,
  )  # fmt: skip


def test_sums_by_formula():
  loss = CrossEntropy(z_loss=0.01, label_smoothing=0.1)
  logits = np.float64(HIDDEN) @ KERNEL
  log_z = np.log(np.exp(logits).sum(-1))
  log_p = logits - log_z[..., None]
  nll = -np.take_along_axis(log_p, TARGETS[..., None], -1)[..., 0]
  smooth = 0.9 * nll - 0.1 * log_p.mean(-1)
  expected = {
    "objective": ((smooth + 0.01 * log_z**2) * WEIGHTS).sum(),
    "denominator": WEIGHTS.sum(),
    # Comparable between runs: neither smoothing nor z-loss.
    "loss": (nll * WEIGHTS).sum(),
    "z_loss": (0.01 * log_z**2 * WEIGHTS).sum(),
    "correct": ((log_p.argmax(-1) == TARGETS) * WEIGHTS).sum(),
    "weight": WEIGHTS.sum(),
  }
  found = score(loss)
  for name, value in expected.items():
    assert found[name].dtype == jnp.float32
    np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_normalisers(normalizer):
  found = score(CrossEntropy(normalizer=normalizer))
  per_row = [
    score(CrossEntropy(), weights=WEIGHTS * (np.arange(B) == row)[:, None])
    for row in range(B)
  ]
  mean = {
    "target_tokens": sum(r["loss"] for r in per_row) / 10,
    "all_tokens": sum(r["loss"] for r in per_row) / 21,
    # Two rows bear loss: with 7 and 3 tokens.
    "sequences": (per_row[0]["loss"] / 7 + per_row[1]["loss"] / 3) / 2,
  }[normalizer]
  np.testing.assert_allclose(
    found["objective"] / found["denominator"], mean, rtol=1e-5
  )


@pytest.mark.parametrize(
  "chunk_tokens, normalizer",
  list(zip([1, 4, 9, 20, 21, 100], 2 * NORMALIZERS, strict=True)),
)
def test_chunks_change_nothing(chunk_tokens, normalizer):
  settings = {
    "z_loss": 0.01, "label_smoothing": 0.1, "normalizer": normalizer,
  }  # fmt: skip
  whole = CrossEntropy(**settings)
  chunked = CrossEntropy(**settings, chunk_tokens=chunk_tokens)
  # Fractional weights too, as an objective may set them.
  weights = WEIGHTS * np.linspace(0.5, 2, T)
  assert_all_close(
    score(chunked, weights=weights), score(whole, weights=weights), rtol=1e-5
  )
  assert_all_close(
    gradients(chunked, weights=weights), gradients(whole, weights=weights),
    rtol=1e-4, atol=1e-5,
  )  # fmt: skip


def test_chunked_logits_never_exist_all_at_once():
  loss = CrossEntropy(chunk_tokens=3)
  compiled = jax.jit(jax.grad(lambda h: score(loss, h)["objective"]))
  text = compiled.lower(HIDDEN).as_text()
  assert f"{B}x1x{V}xf32" in text
  assert f"{B}x{T}x{V}xf32" not in text and f"{B * T}x{V}xf32" not in text


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_gradients_are_finite_differences(normalizer):
  loss = CrossEntropy(
    z_loss=0.1, label_smoothing=0.2, normalizer=normalizer, chunk_tokens=5
  )

  def objective(hidden, kernel):
    return score(loss, hidden, kernel)["objective"]

  check_grads(
    jax.jit(objective), (HIDDEN, KERNEL), order=1, modes=["rev"], rtol=0.02,
    eps=0.03,
  )  # fmt: skip


def test_gradient_scales_with_what_follows():
  def squared(hidden):
    return score(CrossEntropy(), hidden)["objective"] ** 2

  expected = (
    2 * score(CrossEntropy())["objective"] * gradients(CrossEntropy())[0]
  )
  np.testing.assert_allclose(jax.grad(squared)(HIDDEN), expected, rtol=1e-4)


def test_bfloat16_hidden_states():
  loss = CrossEntropy(z_loss=0.01, chunk_tokens=5)
  half = HIDDEN.astype(jnp.bfloat16)
  np.testing.assert_allclose(
    score(loss, half)["objective"], score(loss)["objective"], rtol=0.02
  )
  dhidden, dkernel = gradients(loss, half)
  assert dhidden.dtype == jnp.bfloat16 and dkernel.dtype == jnp.float32
  expected = gradients(loss)
  for a, e in zip((dhidden, dkernel), expected, strict=True):
    np.testing.assert_allclose(
      a.astype(jnp.float32), e, atol=0.02 * np.abs(e).max()
    )


def test_large_logits_stay_finite():
  loss = CrossEntropy(z_loss=1e-4)
  assert np.isfinite(score(loss, 1e4 * HIDDEN)["objective"])
  for g in gradients(loss, 1e4 * HIDDEN):
    assert np.isfinite(g).all()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_a_batch_without_loss_bearing_tokens_is_zero_not_nan(normalizer):
  loss = CrossEntropy(z_loss=0.01, normalizer=normalizer)
  nothing = np.zeros((B, T), np.int32)
  assert score(loss, weights=nothing)["objective"] == 0
  for g in gradients(loss, weights=nothing):
    assert not g.any()


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"normalizer": "tokens"}, "'tokens': use one of target_tokens, "),
    ({"label_smoothing": 1.0}, r"label_smoothing \(1.0\) must be in \[0, 1\)"),
    ({"label_smoothing": -0.1}, r"label_smoothing \(-0.1\)"),
    ({"chunk_tokens": 0}, r"chunk_tokens \(0\) must be at least 1"),
    ({"z_loss": -1e-4}, r"z_loss \(-0.0001\)"),
  ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    CrossEntropy(**settings)


def test_gradients_pass_through_bias_and_soft_cap():
  loss = CrossEntropy(z_loss=0.01, chunk_tokens=6)

  def ours(hidden, kernel, bias):
    return score(loss, hidden, kernel, bias_V=bias, soft_cap=2.0)["objective"]

  def plain(hidden, kernel, bias):
    logits = 2 * jnp.tanh((hidden @ kernel + bias) / 2)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    at_target = jnp.take_along_axis(logits, TARGETS[..., None], -1)[..., 0]
    return jnp.sum((log_z - at_target + 0.01 * log_z**2) * WEIGHTS)

  args = (HIDDEN, KERNEL, RNG.normal(size=V).astype(np.float32))
  np.testing.assert_allclose(ours(*args), plain(*args), rtol=1e-5)
  assert_all_close(
    jax.grad(ours, (0, 1, 2))(*args), jax.grad(plain, (0, 1, 2))(*args),
    rtol=1e-4, atol=1e-5,
  )  # fmt: skip


def correct(logits, targets, chunk_tokens=None):
  """Counts what is correct where the hidden states are the logits."""
  loss = CrossEntropy(chunk_tokens=chunk_tokens)
  head = Head(jnp.eye(logits.shape[-1], dtype=jnp.float32))
  of_tokens = jax.jit(loss.of_tokens)
  terms = of_tokens(logits, head, targets, jnp.ones_like(targets))
  return int(terms["accuracy"].sum)


def test_of_equal_logits_the_lowest_id_alone_is_right():
  targets = np.array([[0, 1, 2], [10, 0, 5]])
  assert correct(np.zeros((2, 3, V), np.float32), targets) == 2
  # As it is where nothing is a number: not all right, and not one.
  assert correct(np.full((2, 3, V), np.nan, np.float32), targets) == 0


@pytest.mark.parametrize("chunk_tokens", [None, 4, 1])
@pytest.mark.parametrize("padding", [0, 5])
def test_accuracy_is_that_of_argmax_among_many_ties(chunk_tokens, padding):
  logits = np.random.default_rng(1).integers(0, 2, (B, T, V))
  logits = logits.astype(np.float32)
  expected = (logits.argmax(-1) == TARGETS).sum()
  assert 0 < expected < np.take_along_axis(logits, TARGETS[..., None], -1).sum()
  # Ids that only round the vocabulary up tie too, and come after all others.
  logits = np.pad(logits, ((0, 0), (0, 0), (0, padding)))
  assert correct(logits, TARGETS, chunk_tokens) == expected


def test_ties_are_told_apart_where_devices_share_the_vocabulary():
  logits = np.random.default_rng(2).integers(0, 2, (B, T, 16))
  logits = logits.astype(np.float32)
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("tensor",))
  by_id = jax.sharding.PartitionSpec(None, "tensor")
  kernel = jax.device_put(jnp.eye(16), jax.sharding.NamedSharding(mesh, by_id))
  of_tokens = jax.jit(
    lambda x, k: CrossEntropy().of_tokens(x, Head(k), TARGETS, WEIGHTS)
  )
  terms = of_tokens(logits, kernel)
  expected = ((logits.argmax(-1) == TARGETS) * WEIGHTS).sum()
  assert int(terms["accuracy"].sum) == expected


def test_a_term_without_gradient_cannot_be_minimised():
  class Plain(CrossEntropy):
    minimised = {"loss": 1.0, "objective": 0.5}

  with pytest.raises(
    ValueError, match="Plain.minimised names loss, which have"
  ):
    score(Plain())
