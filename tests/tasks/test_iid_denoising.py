"""Single tokens are noised as T5 does it, and the targets are the text."""

import numpy as np
import pytest
import seqio

from tasks import windows
from tasks.iid_denoising import IIDDenoising
from tests.tasks import t5_reference
from tests.tasks.streams import BYTES, examples

EOS = 1
MASK = BYTES.vocab_size - 1


@pytest.mark.parametrize(
  ("style", "random_fraction"), [("mass_style", 0.0), ("bert_style", 0.1)]
)
def test_noise_is_that_of_t5_given_one_seed(style, random_fraction):
  objective = IIDDenoising(random_fraction=random_fraction)
  with seqio.utils.map_seed_manager(7):
    dataset = windows.transform(
      t5_reference.windows(),
      t5_reference.features(),
      function=objective.corrupt,
    )
  np.testing.assert_array_equal(
    t5_reference.whole_text(dataset), t5_reference.golden()[style]
  )


def test_targets_are_the_text_and_inputs_agree_but_for_masks():
  rows = examples(IIDDenoising(), {"inputs": 31, "targets": 40}, "x" * 3000)
  masked = total = 0
  for row in rows:
    text = row["targets"]
    assert text.tolist() == [*BYTES.encode("x" * (len(text) - 1)), EOS]
    is_mask = row["inputs"] == MASK
    assert (is_mask | (row["inputs"] == text)).all()
    masked, total = masked + is_mask.sum(), total + len(text) - 1
  assert total == 3000 and abs(masked / total - 0.15) < 4 * 0.0065


def test_what_leaves_nothing_is_refused():
  with pytest.raises(ValueError, match="2 inputs and targets leaves nothing"):
    examples(IIDDenoising(), {"inputs": 2, "targets": 9}, "text")
  with pytest.raises(ValueError, match=r"noise_density \(1.5\) must be in"):
    IIDDenoising(noise_density=1.5)
  with pytest.raises(ValueError, match=r"random_fraction \(-1\) must be in"):
    IIDDenoising(random_fraction=-1)
