"""Checks what a training step computes again, and its number of pieces."""

import functools

import jax
import pytest

from t5x_lite.accounting import costs, fitting, model_structure
from t5x_lite.devices import memory
from t5x_lite.devices.layout import Layout
from t5x_lite.nn import remat
from t5x_lite.optim import AdamW
from tests import tiny

OPTIMIZER = AdamW(learning_rate=1e-3)
BATCH, LENGTHS = 16, {"targets": 64}
MODEL = tiny.palm(num_layers=8, scan=True, remat="auto")


def fit(model=MODEL, *, microbatches=1):
  return fitting.fit(
    model, batch_size=BATCH, lengths=LENGTHS, optimizer=OPTIMIZER,
    microbatches=microbatches, layout=Layout(),
  )  # fmt: skip


@functools.cache
def needed(policy, microbatches=1):
  """Returns the bytes of a device, with the margin that a choice leaves."""
  account = costs.describe(
    model_structure.with_auto_remat(MODEL, policy), batch_size=BATCH,
    lengths=LENGTHS, optimizer=OPTIMIZER, microbatches=microbatches,
    platform="tpu", layout=Layout(),
  )  # fmt: skip
  return account["bytes"]["total"] * (1 + memory.TOLERANCE)


@pytest.fixture
def accelerator(monkeypatch):
  """Returns a function that sets the bytes of an accelerator's devices."""
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")

  def has(nbytes):
    monkeypatch.setattr(memory, "available_bytes", lambda *_: nbytes)

  return has


def policy_of(fitted):
  (policy,) = {s.remat for s in model_structure.stacks(fitted.model)}
  return policy


@pytest.mark.parametrize("policy", ["dots_and_context", "dots"])
def test_the_policy_is_the_fastest_that_fits(accelerator, policy):
  accelerator(needed(policy) + 1)
  fitted = fit()
  assert policy_of(fitted) == policy
  assert fitted.microbatches == 1
  policies = remat.by_cost("tpu")
  faster = policies[: policies.index(policy)]
  assert all(needed(other) > needed(policy) for other in faster)


def test_microbatches_are_the_fewest_that_fit(accelerator):
  accelerator(needed("full", 2) + 1)
  fitted = fit(microbatches="auto")
  assert needed("full") > needed("full", 2)
  # Where parameters outweigh activations, cheaper policies need no more.
  fits = [p for p in remat.BY_COST if needed(p, 2) <= needed("full", 2)]
  assert (policy_of(fitted), fitted.microbatches) == (fits[0], 2)
  assert fitting.chosen(*fitted[:2]) == [f"remat {fits[0]}", "2 microbatches"]


def test_what_the_user_chose_stays(accelerator):
  accelerator(needed(None) + 1)
  model = tiny.palm(num_layers=8, scan=True, remat="full")
  assert policy_of(fit(model)) == "full"


def test_a_step_that_fits_in_no_way_is_refused(accelerator):
  accelerator(1000)
  with pytest.raises(ValueError, match="a training step needs about"):
    fit(microbatches="auto")


@pytest.mark.parametrize("scan, policy", [(True, "full"), (False, None)])
def test_on_a_cpu_only_scanned_stacks_compute_again(scan, policy):
  model = tiny.palm(scan=scan, remat="auto")
  assert policy_of(fit(model)) == policy
