"""Who sees whom, against masks written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.nn.attention_rules import (
  And,
  Causal,
  Full,
  LocalWindow,
  Or,
  PrefixCausal,
  Sinks,
  TokenInfo,
  Window,
  mask,
  reads_prefix,
)
from tests import tiny


def tokens(*, segment, prefix=None):
  """Makes one row from strings: segments "11120", prefix "xx..."."""
  length = len(segment)
  index = jnp.arange(length)[None]
  prefix = [c == "x" for c in prefix or "." * length]
  segment = [int(c) for c in segment]
  return TokenInfo(index, index, jnp.array([segment]), jnp.array([prefix]))


def drawn(rule, query, key=None):
  mask_TS = np.asarray(mask(rule, query, key or query))[0]
  return ["".join(".x"[int(seen)] for seen in row) for row in mask_TS]


def test_encoder_tokens_see_each_other():
  assert drawn(Full(), tokens(segment="111")) == ["xxx", "xxx", "xxx"]


def test_causal_tokens_see_themselves_and_what_came_before():
  assert drawn(Causal(), tokens(segment="1111")) == [
    "x...",
    "xx..",
    "xxx.",
    "xxxx",
  ]


def test_prefix_tokens_see_whole_prefix_but_not_targets():
  row = tokens(segment="11111", prefix="xxx..")
  assert drawn(PrefixCausal(), row) == [
    "xxx..",
    "xxx..",
    "xxx..",
    "xxxx.",
    "xxxxx",
  ]


def test_an_empty_prefix_leaves_a_causal_row():
  row = tokens(segment="111")
  assert drawn(PrefixCausal(), row) == drawn(Causal(), row)


def test_window_of_two_sees_one_token_back():
  assert drawn(Window(2), tokens(segment="1111")) == [
    "x...",
    "xx..",
    ".xx.",
    "..xx",
  ]


def test_packed_documents_do_not_see_each_other():
  assert drawn(Full(), tokens(segment="11222")) == [
    "xx...",
    "xx...",
    "..xxx",
    "..xxx",
    "..xxx",
  ]
  assert drawn(Causal(), tokens(segment="1122")) == [
    "x...",
    "xx..",
    "..x.",
    "..xx",
  ]


def test_each_packed_document_has_a_prefix_of_its_own():
  row = tokens(segment="1112222", prefix="xx.xxx.")
  assert drawn(PrefixCausal(), row) == [
    "xx.....",
    "xx.....",
    "xxx....",
    "...xxx.",
    "...xxx.",
    "...xxx.",
    "...xxxx",
  ]


def test_nobody_sees_padding_and_padding_sees_nobody():
  assert drawn(Full(), tokens(segment="110")) == ["xx.", "xx.", "..."]
  row = tokens(segment="1100", prefix="x..x")
  assert drawn(PrefixCausal(), row) == ["x...", "xx..", "....", "...."]


def test_decoder_tokens_see_the_inputs_of_their_own_document():
  decoder, encoder = tokens(segment="11220"), tokens(segment="1222")
  assert drawn(Full(), decoder, encoder) == [
    "x...",
    "x...",
    ".xxx",
    ".xxx",
    "....",
  ]


def test_order_is_by_index_whatever_slot_a_token_lies_in():
  # A cache: a prompt of two with a free slot, then a token of index 2.
  key = TokenInfo(
    index=jnp.array([[0, 1, 2, 2, 0]]),
    position=jnp.zeros((1, 5), int),
    segment=jnp.array([[1, 1, 0, 1, 0]]),
    prefix=jnp.array([[True, True, False, False, False]]),
  )
  query = jax.tree.map(lambda x: x[:, 3:4], key)
  for rule in (Causal(), PrefixCausal()):
    assert drawn(rule, query, key) == ["xx.x."]
  assert drawn(Window(2), query, key) == [".x.x."]


def test_a_window_without_room_is_refused():
  with pytest.raises(ValueError, match=r"Window.size \(0\) must be at least 1"):
    Window(0)


def test_near_reaches_both_ways():
  assert drawn(LocalWindow(1), tokens(segment="11111")) == [
    "xx...",
    "xxx..",
    ".xxx.",
    "..xxx",
    "...xx",
  ]


def test_a_window_with_sinks_sees_the_first_token_too():
  rule = Or((Window(2), And((Causal(), Sinks(1)))))
  assert drawn(rule, tokens(segment="11111")) == [
    "x....",
    "xx...",
    "xxx..",
    "x.xx.",
    "x..xx",
  ]


def test_a_rule_with_a_prefix_inside_is_one_of_prefix_lm():
  inside = Or((And((PrefixCausal(), Window(2))), Causal()))
  for rule, expected in ((inside, True), (And((Causal(), Window(2))), False)):
    assert reads_prefix(rule) == expected
    model = tiny.replace_stacks(tiny.palm(), rule=rule)
    assert model.row_format.name == ("prefix" if expected else "causal")
