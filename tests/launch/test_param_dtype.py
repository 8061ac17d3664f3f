"""Parameters in bfloat16, through the command line."""

import json

from launch import main
from tests.launch.test_runs import folder, train  # noqa: F401


def test_parameters_kept_in_bfloat16_train_resume_and_generate(folder):  # noqa: F811
  kept = """--gin.model.Model.param_dtype='bfloat16'"""
  whole, halves = folder / "bfloat16", folder / "bfloat16_halves"
  assert train(folder, halves, kept) == 0
  for model_dir in (whole, halves):
    assert train(folder, model_dir, kept, "--gin.run.Run.total_steps=4") == 0
  one, other = (
    [
      [record["loss"], record["param_norm"]]
      for record in map(
        json.loads, (run / "metrics.jsonl").read_text().splitlines()
      )
      if record["kind"] == "train"
    ]
    for run in (whole, halves)
  )
  assert len(one) == 4 and one == other
  for command in ("eval", "infer --text=A --max_new_tokens=2"):
    assert main.main([*command.split(), f"--model_dir={halves}"]) == 0
