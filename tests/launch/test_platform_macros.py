"""What macros that say "auto" are on a CPU and on an accelerator."""

import pytest

from launch import config, environment, main, options, plan, session
from t5x_lite.nn.transformer import Transformer

SMALL = "gin/models/palm/tiny.gin"


def loaded(bindings=(), **settings):
  """Returns the dtype of a model, and whether its layers are scanned."""
  config.load([SMALL], ["VOCAB_SIZE=64", *bindings], **settings)
  transformer = config.build(Transformer)
  return transformer.dtype, transformer.decoder.scan


@pytest.mark.parametrize(
  ["has_accelerator", "expected"],
  [(False, ("float32", False)), (True, ("bfloat16", True))],
)
def test_whoever_loads_a_model_gets_what_suits_the_platform(
  monkeypatch, has_accelerator, expected
):
  monkeypatch.setattr(environment, "has_accelerator", lambda: has_accelerator)
  assert loaded() == expected


def test_what_the_user_says_stays():
  bindings = ["DTYPE=float16", "SCAN=False"]
  assert loaded(bindings, accelerator=True) == ("float16", False)


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\n"])
def test_a_run_keeps_what_it_was_started_with(tmp_path, damage):
  saved = tmp_path / "config.gin"
  loaded(accelerator=False)
  saved.write_bytes(damage + config.text().encode())
  elsewhere = {"accelerator": True, "started_with": saved}
  assert loaded(**elsewhere) == ("float32", False)
  saved.write_bytes(damage)  # It says nothing.
  assert loaded(**elsewhere) == ("bfloat16", True)


def test_a_plan_is_of_an_accelerator(monkeypatch):
  monkeypatch.setattr(environment, "has_accelerator", lambda: False)
  values = options.flags_of("plan", plan)
  flags = [f"--gin_file={SMALL}", "--topology=v5e:2x2"]
  assert options.parse("plan", values, flags) == []
  session.load(values)
  assert config.build(Transformer).dtype == "bfloat16"


def test_microbatches_that_are_chosen_later_are_described_as_one(capsys):
  command = [
    "describe", "--gin_file=gin/runs/quickstart.gin", "--vocab_size=1000",
  ]  # fmt: skip
  printed = []
  for pieces in ("auto", "1"):
    assert main.main([*command, f"--gin.run.Run.microbatches={pieces}"]) == 0
    printed.append(capsys.readouterr().out)
  assert printed[0] == printed[1]
