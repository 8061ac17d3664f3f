"""An inspection names the places of a text, and its pictures can be opened."""

import json

import numpy as np
import pytest
import seqio

from t5x_lite.inference import inspection_pictures
from t5x_lite.inference.inspection import inspect
from tests import tiny

BYTES = seqio.ByteVocabulary(extra_ids=2)


def build(name):
  model = tiny.ALL[name]()
  transformer = model.transformer.clone(vocab_size=BYTES.vocab_size)
  return type(model)(transformer=transformer)


@pytest.fixture(scope="module")
def inspected():
  model = build("t5")
  params = tiny.random_params(model)
  return inspect(
    model, params, BYTES, "a<extra_id_0>c", "<extra_id_0>b", top_k=3
  )


def test_places_have_their_pieces(inspected):
  assert inspected.tokens == {
    "encoder": ["a", "<extra_id_0>", "c"],
    "decoder": ["<start>", "<extra_id_0>", "b"],
  }
  assert inspected.read == "decoder"
  assert [len(layer) for layer in inspected.lens] == [3] * (tiny.LAYERS + 1)
  for words in inspected.lens[-1]:
    probabilities = [p for _, p in words]
    assert probabilities == sorted(probabilities, reverse=True)


def test_json_holds_what_the_traces_hold(inspected):
  found = json.loads(json.dumps(inspected.as_json()))
  maps = np.array(found["attention"]["decoder"])
  assert maps.shape == (tiny.LAYERS, tiny.HEADS, 3, 3)
  between = inspected.attention_between(2, 1)
  np.testing.assert_allclose(maps[:, :, 2, 1], between)
  assert list(found["cross_attention"]) == ["decoder"]
  with pytest.raises(ValueError, match="place 3 must be one of the 3 tokens"):
    inspected.attention_between(3, 0)


def test_text_has_a_line_for_each_layer(inspected):
  lines = inspected.as_text().splitlines()
  assert sum(line.startswith("  2 ") for line in lines) == 3


@pytest.mark.parametrize("name", ["palm", "prefix_lm", "encoder"])
def test_every_architecture_is_inspected(name):
  model = build(name)
  found = inspect(model, tiny.random_params(model), BYTES, "ab", top_k=1)
  side = "encoder" if name == "encoder" else "decoder"
  assert found.tokens[side][-2:] == ["a", "b"]


def test_pictures_are_written(inspected, tmp_path):
  from PIL import Image

  paths = inspection_pictures.draw(inspected, tmp_path)
  assert {path.name for path in paths} == {
    "distances.png", "lens.png", "encoder_attention.png",
    "decoder_attention.png", "decoder_cross_attention.png",
  }  # fmt: skip
  for path in paths:
    with Image.open(path) as image:
      assert min(image.size) > 50 and len(image.getcolors(1 << 24)) > 10


def test_a_text_without_tokens_is_refused():
  model = build("palm")
  with pytest.raises(ValueError, match="no tokens"):
    inspect(model, {}, BYTES, "")
