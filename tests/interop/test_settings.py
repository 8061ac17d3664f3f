"""Settings are compared by what they compute, however they are said."""

import pytest

from t5x_lite.interop import settings
from t5x_lite.interop.settings import differences
from t5x_lite.nn.attention import Projections
from t5x_lite.nn.attention_rules import Causal, Window
from t5x_lite.nn.heads import LMHead
from t5x_lite.nn.linear import Normal
from t5x_lite.nn.stack import Period
from tests import tiny

HERE = tiny.llama(num_kv_heads=4).transformer


def stack(**settings):
  return HERE.clone(decoder=HERE.decoder.clone(**settings))


def layer(**settings):
  return stack(layer=HERE.decoder.layer.clone(**settings))


def attention(**settings):
  return layer(attention=HERE.decoder.layer.attention.clone(**settings))


@pytest.mark.parametrize(
  "there",
  [
    HERE.clone(),
    HERE.clone(dtype="bfloat16"),
    stack(scan=True, remat="full"),
    stack(layer=Period([HERE.decoder.layer] * 2)),
    layer(rule=Causal()),
    layer(dropout_rate=0.5),
    layer(parallel_norms=2),  # Of a block that is not parallel.
    attention(num_kv_heads=None),
    attention(projections=Projections(out_bias=False)),
    attention(projections=Projections(kernel_init=Normal())),
  ],
)
def test_what_computes_the_same_does_not_differ(there):
  assert not differences(HERE, there)


@pytest.mark.parametrize(
  ("there", "what"),
  [
    (HERE.clone(lm_head=LMHead(tied=True)), "lm_head.tied is False, not True"),
    (stack(num_layers=4), "transformer.decoder.num_layers is 2, not 4"),
    (stack(rule=Window(3)), "transformer.decoder.layer.rule is 'Causal', not"),
    (layer(rule=Window(3)), "transformer.decoder.layer.rule is 'Causal', not"),
    (layer(parallel=True), "transformer.decoder.layer.parallel is False, not"),
    (
      attention(projections=Projections(out_bias=True)),
      "projections.out_bias is False, not True",
    ),
    (attention(num_kv_heads=2), "attention.num_kv_heads is 4, not 2"),
  ],
)
def test_what_differs_is_said(there, what):
  assert what in "; ".join(differences(HERE, there))


@pytest.mark.parametrize(
  ("layers", "period"),
  [("a", "a"), ("aaa", "a"), ("abab", "ab"), ("aba", "aba"), ("aabaab", "aab")],
)
def test_shortest_period(layers, period):
  assert settings.shortest_period(layers) == list(period)
