"""The command `t5x_lite plan`: what it prints and what it refuses."""

import json
import subprocess
import sys

import pytest

from launch import main
from t5x_lite.accounting import topologies
from t5x_lite.training import planned_step

TINY = """
include "models/llama/7b.gin"
WIDTH = 32
NUM_LAYERS = 2
NUM_HEADS = 4
HEAD_DIM = 8
HIDDEN = 64
VOCAB_SIZE = 128
"""


@pytest.fixture
def flags(tmp_path):
  (tmp_path / "tiny.gin").write_text(TINY)
  return [
    "plan",
    f"--gin_file={tmp_path}/tiny.gin",
    "--gin_file=gin/mesh/fsdp.gin",
    "--lengths=targets=32",
  ]


def test_json_is_one_object_with_all_that_a_script_asks_for(flags, capsys):
  given = [*flags, "--topology=v5e:2x2", "--batch_size=8", "--json"]
  assert main.main(given) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["method"] == "compiled"
  assert found["dtype"] == "bfloat16"
  assert found["layout"] == {"fsdp": 4}
  # So small a step fits: only what is cheap is computed again.
  assert found["remat"] == "dots_and_context" and found["kernel"]
  assert found["bytes"].keys() == {
    "parameters", "optimizer", "temporaries", "peak", "capacity",
  }  # fmt: skip
  for name in ("mfu", "compute_s", "link_s"):
    assert found[name] > 0
  assert {"kind", "axes", "count", "bytes", "seconds"} == set(
    found["collectives"][0]
  )


@pytest.fixture
def no_compiler(monkeypatch):
  """Leaves plans to arithmetic."""
  monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)


def test_the_page_names_what_takes_memory_and_time(flags, capsys, no_compiler):
  given = [*flags, "--topology=h100x8", "--batch_size=16"]
  assert main.main([*given, "--gin.DTYPE=float32"]) == 0
  page = capsys.readouterr().out
  for part in (
    "training, batch 16, targets 32", "h100x8, 8 devices", "mesh fsdp 8",
    "float32", "arithmetic (", "parameters", "optimizer", "temporaries",
    "peak", "capacity", "MFU", "all-gather over fsdp", "decoder/mlp",
  ):  # fmt: skip
    assert part in page


def test_what_does_not_fit_says_so_and_what_would_help(capsys, no_compiler):
  given = ["plan", "--gin_file=gin/models/llama/7b.gin", "--topology=h100x8"]
  assert main.main([*given, "--batch_size=64", "--lengths=targets=2048"]) == 0
  page = capsys.readouterr().out
  assert "It does not fit: 1." in page
  assert "--search" in page and "gin/mesh/fsdp.gin" in page


@pytest.mark.parametrize(
  ["given", "message"],
  [
    ([], "give --topology"),
    (["--topology=v5p:4x4x5"], "--topology=v5p:4x4x5 is none that exists; did"),
    (["--topology=h100x9"], "did you mean h100x8"),
    (["--topology=v5e:4x4", "--slices=0"], "slices"),
    (["--topology=v5e:2x2", "--batch_size=6"], "batch_size (6) must be"),
    (
      ["--topology=v5e:2x2", "--gin.layout.Layout.mesh={'fsdp': 3}"],
      "fsdp (3) = 3 does not match 4 devices",
    ),
    (["--topology=v5e:2x2", "--lengths=target=8"], "target"),
    (["--topology=v5e:2x2", "extra"], "takes only flags"),
  ],
)
def test_mistakes_are_one_line_before_anything_is_compiled(
  given, message, flags, capsys, monkeypatch
):
  monkeypatch.setattr(planned_step, "compile_step", None)
  assert main.main([*flags, *given]) == 2
  printed = capsys.readouterr()
  assert printed.out == ""
  assert message in printed.err and printed.err.count("\n") == 1


def test_a_plan_loads_neither_tensorflow_nor_seqio_and_prints_no_noise(flags):
  code = (
    "import sys; from launch import main; "
    "status = main.main(sys.argv[1:]); "
    "print(status, {'tensorflow', 'seqio'} & set(sys.modules))"
  )
  given = [*flags, "--topology=v5e:1x1", "--batch_size=2", "--decode"]
  ran = subprocess.run(
    [sys.executable, "-c", code, *given],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  assert ran.stdout.endswith("0 set()\n")
  assert "step" in ran.stdout
  noise = [line for line in ran.stderr.splitlines() if "t5x_lite: " not in line]
  assert not noise
