"""What a row of options reads, it writes, and nothing else is let through."""

import pytest

from t5x_lite.interop import families
from t5x_lite.interop.config import Config
from t5x_lite.interop.options import Option, Options, four_widths

SIZES = {"width": 12, "layers": 2, "heads": 3, "words": 7, "positions": 5}
OPTIONS = Options(
  rows=[
    Option("words", "vocab_size"),
    Option("width", "width"),
    Option("layers", "stack.num_layers"),
    Option("heads", "attention.num_heads"),
    Option("positions", "position.max_length"),
    Option("hidden", "mlp.hidden", four_widths),
    Option("afn", "mlp.activation", "gelu_new"),
    Option("bias", ("attention.projections.use_bias", "mlp.use_bias"), False),
    Option("drop", ("layer.dropout_rate", "stack.dropout_rate"), 0.25),
    Option(
      "first", "layer.norm_placement", True, names={True: "pre", False: "post"}
    ),
  ],
  always={"rotary": False},
)


def read(options):
  config = Config({**SIZES, **options}, "config.json", None)
  transformer = OPTIONS.read(config)
  config.finish()
  return transformer


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"hidden": 5, "afn": "relu", "bias": True, "drop": 0.5, "first": False},
  ],
)
def test_what_is_read_is_written(options):
  defaults = {
    "hidden": 48, "afn": "gelu_new", "bias": False, "drop": 0.25, "first": True
  }  # fmt: skip
  assert OPTIONS.write(read(options)) == {**SIZES, **defaults, **options}


def test_one_option_gives_several_settings():
  stack = read({"bias": True}).decoder
  assert stack.layer.attention.projections.use_bias and stack.layer.mlp.use_bias
  assert stack.layer.attention.head_dim == 4  # Of no option: width / heads.


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"rotary": True}, "rotary is True"),
    ({"afn": "swoosh"}, "afn is 'swoosh'"),
    ({"bias": 1}, "bias is 1, not true or false"),
    ({"drop": "much"}, "drop is 'much', not a number"),
    ({"heads": 5}, r"width \(12\) must be divisible by heads \(5\)"),
    ({"windows": 4}, "windows = 4"),
  ],
)
def test_other_options_are_refused_by_name(options, words):
  with pytest.raises(ValueError, match=words):
    read(options)


def test_a_family_names_each_option_once():
  for model_type, family in families.by_model_type().items():
    if hasattr(family, "OPTIONS"):
      names = [row.theirs for row in family.OPTIONS.rows]
      assert len(set(names)) == len(names), model_type
