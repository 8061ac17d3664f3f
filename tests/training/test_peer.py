"""`bench` against transformers: what is compared, and what is refused."""

import dataclasses

import jax
import pytest

from t5x_lite.interop import huggingface
from t5x_lite.optim.optimizers import Adafactor, AdamW
from t5x_lite.training import peer
from tests import tiny

ADAMW = AdamW(learning_rate=1e-3)


def test_a_peer_has_our_architecture_and_learns_its_batch():
  model = tiny.t5()
  _, options = huggingface.described(model.transformer)
  total = sum(x.size for x in jax.tree.leaves(model.abstract()))
  lengths = {"inputs": 8, "targets": 8}
  with peer.Peer(options, batch_size=2, lengths=lengths) as theirs:
    steps = [theirs.step() for _ in range(5)]
  assert theirs.about["parameters"] == total
  assert theirs.about["attention"] == "sdpa"
  assert steps[-1]["loss"] < steps[0]["loss"]
  assert all(s["seconds"] > 0 and s["cpu_seconds"] > 0 for s in steps)


def test_a_peer_that_fails_says_so_in_a_line():
  with pytest.raises(ValueError, match="transformers has failed: .*nonesuch"):
    peer.Peer({"model_type": "nonesuch"}, batch_size=1, lengths={"targets": 8})


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"platform": "gpu"}, "on a CPU, not on a gpu"),
    ({"optimizer": Adafactor(learning_rate=1.0)}, "--optimizer=adamw"),
    ({"microbatches": 2}, "not 2 microbatches"),
    ({"dtype": "bfloat16"}, "not in bfloat16"),
  ],
)
def test_steps_that_the_peer_does_not_take_are_refused(changes, message):
  given = {"optimizer": ADAMW, "microbatches": 1, "platform": "cpu"} | changes
  model = tiny.llama()
  dtype = given.pop("dtype", "float32")
  transformer = model.transformer.clone(dtype=dtype)
  model = dataclasses.replace(model, transformer=transformer)
  with pytest.raises(ValueError, match=message):
    peer.check(model, **given)
  peer.check(tiny.llama(), optimizer=ADAMW, microbatches=1, platform="cpu")
