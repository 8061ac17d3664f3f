"""docs/families.md names every family, with differences below the limits."""

import pathlib

from t5x_lite.interop import families
from tests.interop import parity

TABLE = pathlib.Path(__file__).parents[2] / "docs" / "families.md"


def test_every_family_is_there_with_what_was_measured():
  _, _, rows = TABLE.read_text().partition("|---|---|---|---|---|---|---|\n")
  found = set()
  for line in rows.splitlines():
    family, classes, logits, gradients, _, published, ours = (
      cell.strip() for cell in line.strip("|").split("|")
    )
    found.add(family)
    assert classes and published == ours
    assert float(logits) < parity.LOGITS
    assert float(gradients) < parity.GRADIENTS
  assert found == families.by_model_type().keys()
