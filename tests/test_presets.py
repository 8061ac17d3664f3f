"""Presets have the parameters that were published for them."""

import pytest

from launch import config
from t5x_lite import accounting
from t5x_lite.model import Model

# T5 v1.1: the sizes of the published checkpoints. PaLM: table 1 of
# arXiv:2204.02311, in hundredths of a billion.
T5_V1_1 = {
  "small": 76_961_152,
  "base": 247_577_856,
  "large": 783_150_080,
  "xl": 2_849_757_184,
  "xxl": 11_135_332_352,
}
PALM = {"8b": 8.63, "62b": 62.50, "540b": 540.35}


def parameters(name):
  config.load([f"models/{name}.gin"], [], [])
  model = config.build(Model)
  lengths = {"inputs": 512, "targets": 114}
  account = accounting.describe(model, batch_size=8, lengths=lengths)
  assert (
    sum(account["parameters"]["by_component"].values())
    == (account["parameters"]["total"])
  )
  return account["parameters"]["total"]


@pytest.mark.parametrize("size", T5_V1_1)
def test_t5_v1_1_to_the_last_parameter(size):
  assert parameters(f"t5_1_1/{size}") == T5_V1_1[size]


@pytest.mark.parametrize("size", PALM)
def test_palm_to_the_published_digits(size):
  # 540B comes to 540.356: the paper cuts where others round.
  assert parameters(f"palm/{size}") / 1e9 == pytest.approx(PALM[size], abs=0.01)


def test_flops_of_a_decoder_are_six_per_parameter_and_token():
  config.load(["models/palm/8b.gin"], [], [])
  model = config.build(Model)
  account = accounting.describe(model, batch_size=1, lengths={"targets": 1})
  rule = 6 * account["parameters"]["total"]
  # Of one token, attention scores cost next to nothing.
  assert account["flops_per_token"] == pytest.approx(rule, rel=0.01)
