"""Losses of classes and rewards, by their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.losses import Reward, Term, objective
from t5x_lite.losses.classification import class_terms, reward_terms


def test_classes_are_scored_where_they_are_given():
  logits = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
  targets = np.array([[1, -1, 3], [-1, -1, 0]])
  log_p = np.asarray(jax.nn.log_softmax(logits))
  expected = -(log_p[0, 0, 1] + log_p[0, 2, 3] + log_p[1, 2, 0])
  right = sum(
    logits[at].argmax() == targets[at] for at in [(0, 0), (0, 2), (1, 2)]
  )
  terms = class_terms(logits, targets)
  np.testing.assert_allclose(terms["loss"].sum, expected, rtol=1e-5)
  assert terms["loss"].weight == terms["accuracy"].weight == 3
  assert terms["accuracy"].sum == right


def test_rewards_are_compared_in_pairs_whatever_the_order_of_a_pair():
  rewards = jnp.array([[2.0], [0.5], [-1.0], [1.0]])
  terms = reward_terms(rewards, jnp.array([1, 0, 0, 1]))
  expected = -jax.nn.log_sigmoid(1.5) - jax.nn.log_sigmoid(2.0)
  np.testing.assert_allclose(terms["loss"].sum, expected, rtol=1e-6)
  assert terms["loss"].weight == 2 and terms["accuracy"].sum == 2


@pytest.mark.parametrize("padding", [[-1, -1], [1, -1], [-1, 0], [1, 1]])
def test_what_is_no_pair_of_a_chosen_and_a_rejected_text_does_not_count(
  padding,
):
  rewards = jnp.array([[2.0], [0.5], [7.0], [-9.0]])
  alone = reward_terms(rewards[:2], jnp.array([1, 0]))
  padded = reward_terms(rewards, jnp.array([1, 0, *padding]))
  assert jax.tree.all(jax.tree.map(jnp.array_equal, padded, alone))


@pytest.mark.parametrize("shape", [(3, 1), (4, 2)])
def test_rewards_need_pairs_of_rows_and_one_class(shape):
  rows, classes = shape
  message = f"{rows} rows and {classes} classes: set an even batch_size"
  with pytest.raises(ValueError, match=message):
    reward_terms(jnp.zeros(shape), jnp.zeros(rows, jnp.int32))


def test_one_class_is_a_reward():
  with pytest.raises(ValueError, match=r"Model.loss to losses.Reward\(\)"):
    class_terms(jnp.zeros((4, 1)), jnp.zeros(4, jnp.int32))


def test_a_loss_minimises_some_of_its_terms():
  with pytest.raises(ValueError, match="names none of the terms: accuracy"):
    objective(Reward(), {"accuracy": Term(jnp.ones(()), jnp.ones(()))})
