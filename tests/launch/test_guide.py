"""docs/launch.md: its commands run as dry runs, and its numbers are right."""

import pathlib
import re
import shlex

import pytest

from launch import describe, main, options
from t5x_lite.accounting import costs
from t5x_lite.devices import meshes
from t5x_lite.devices.layout import Layout
from tests import guides

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = guides.commands("launch.md")
LAUNCHERS = ("tpu_vm.sh", "gke.sh", "slurm.sbatch", "tmux.sh")
RUNS = ("t5_1_1_xl", "palm_8b")


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("run", RUNS)
def test_every_launcher_has_an_example_of_both_runs(launcher, run):
  ours = [c for c in COMMANDS if f"launch/{launcher}" in c]
  assert [c for c in ours if f"--gin_file=gin/runs/{run}.gin" in c]


@pytest.mark.parametrize(
  "command",
  [c for c in COMMANDS if "launch/" in c],
  ids=lambda command: re.search(r"launch/(\w+)", command)[1],
)
def test_a_command_runs_as_a_dry_run(command, cloud):
  dry = re.sub(r"(launch/\S+)", r"\1 --dry_run", command)
  assert cloud.shell(dry)
  assert {call[0] for call in cloud.calls()} <= {"sbatch"}


def test_what_the_machines_run_is_understood():
  seen = 0
  for command in COMMANDS:
    words = shlex.split(command)
    start = [i for i, word in enumerate(words) if word in main.COMMANDS]
    if not start:
      continue
    name, *flags = words[start[0] :]
    module = __import__(f"launch.{name}", fromlist=["define"])
    flags = [flag.replace("%a", "1") for flag in flags]
    values = options.flags_of(name, module)
    assert options.parse(name, values, flags) == []
    assert all((ROOT / file).is_file() for file in values.gin_file)
    seen += 1
  assert seen >= 15


@pytest.mark.parametrize("run", RUNS)
def test_the_bytes_of_a_step_are_what_describe_predicts(run):
  text = (guides.DOCS / "launch.md").read_text()
  (row,) = re.findall(rf"^\| `{run}` \| .*$", text, re.M)
  stated = [float(number) for number in re.findall(r"([\d.]+) GiB", row)]
  values = options.flags_of("describe", describe)
  options.parse("describe", values, [f"--gin_file=gin/runs/{run}.gin"])
  given = describe.settings(values)
  model = given.pop("model")

  def gib(platform=None, devices=1):
    layout = None if devices == 1 else Layout(mesh={"fsdp": -1})
    with meshes.absent(devices):
      found = costs.device_bytes(
        model, **given, platform=platform, layout=layout
      )
    return found["total"] / 2**30

  # The first as the command does.
  chips = (("tpu", 16), ("tpu", 32), ("gpu", 8), ("gpu", 16))
  expected = [gib(), *(gib(*one) for one in chips)]
  # Other versions of JAX keep other values for the backward pass: 2% here.
  assert stated == pytest.approx(expected, abs=0.6, rel=0.03)


def test_the_image_has_what_the_package_needs():
  dockerfile = guides.files("launch.md")["Dockerfile"]
  project = (ROOT / "pyproject.toml").read_text()
  (extra,) = re.findall(r"/t5x_lite\[(\w+)\]", dockerfile)
  assert f"\n{extra} = [" in project
  assert (ROOT / "constraints.txt").is_file()
  python = re.search(r"FROM python:(\S+)-slim", dockerfile)[1]
  assert python in (ROOT / "launch" / "env.sh").read_text()
