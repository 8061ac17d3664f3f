"""Architectures take the tasks that make sense, and say why not the others."""

import pytest

from t5x_lite import row_formats


@pytest.mark.parametrize(
  ("names", "takers"),
  [
    (("inputs", "targets"), ("encoder_decoder", "causal", "prefix")),
    (("targets",), ("causal", "prefix")),
    (("targets", "weights"), ("causal", "prefix")),
    (("inputs", "targets", "weights"), ("encoder",)),
    (("inputs", "targets", "positions"), ("prefix",)),
    (
      ("inputs", "targets", "weights", "token_types", "next_sentence"),
      ("encoder",),
    ),
  ],
)
def test_only_pairs_that_make_sense_are_taken(names, takers):
  for architecture in row_formats.ALL:
    if architecture in takers:
      row_formats.ALL[architecture].check(names)
    else:
      with pytest.raises(ValueError, match=f"{architecture} cannot take"):
        row_formats.ALL[architecture].check(names)


@pytest.mark.parametrize(
  ("names", "architecture", "reason"),
  [
    (("targets",), "encoder_decoder", "no inputs to encode.*use a prefix_lm"),
    (("targets",), "encoder", "no inputs to read; use an mlm task"),
    (("inputs", "targets"), "encoder", "not aligned; use an mlm task"),
    (("inputs", "targets", "weights"), "causal", "a decoder would copy"),
    (("inputs",), "causal", "features must be targets; or .*, not inputs$"),
    (("targets", "label"), "causal", "not label, targets"),
    (("inputs", "targets", "positions"), "causal", "its blanks .GLM. are seen"),
    (("inputs", "targets", "positions"), "encoder", "use architecture prefix"),
  ],
)
def test_refusals_say_why_in_one_line(names, architecture, reason):
  with pytest.raises(ValueError, match=reason) as error:
    row_formats.ALL[architecture].check(names)
  assert "\n" not in str(error.value)
