"""The shell scripts: sound and helpful; those of one machine."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import sysconfig
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([
  *LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), LAUNCH.parent / ".ci" / "run",
  pathlib.Path(__file__).parent / "stand_ins" / "tmux",
])  # fmt: skip
# Where the extra test puts its tools; on the PATH only of who activated it.
TOOLS = pathlib.Path(sysconfig.get_path("scripts"))


# Not what the suite itself was started with.
CHOOSES_NOTHING = {
  name: value
  for name, value in os.environ.items()
  if name not in ("PYTHON", "T5X_LITE_VERSIONS")
}


def bash(script, *arguments, cwd=None, **environment):
  return subprocess.run(
    ["bash", str(LAUNCH / script), *arguments],
    cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    env=CHOOSES_NOTHING | environment, timeout=60,
  )  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
  done = subprocess.run(
    [TOOLS / "shellcheck", "-x", "-P", "SCRIPTDIR/..", script],
    cwd=LAUNCH.parent, capture_output=True, text=True,
  )  # fmt: skip
  assert not done.returncode, done.stdout


def test_local_prints_one_command_a_process(tmp_path):
  done = bash(
    "local.sh", "--processes", "3", "--devices=2", "--dry_run", "--",
    "train", "--gin.TASK=a b", cwd=tmp_path,
    XLA_FLAGS="--xla_force_host_platform_device_count=8 --other",
  )  # fmt: skip
  lines = done.stdout.splitlines()
  assert len(lines) == 3
  for i, line in enumerate(lines):
    assert "JAX_NUM_CPU_DEVICES=2" in line
    assert "T5X_LITE_NUM_PROCESSES=3" in line
    assert f"T5X_LITE_PROCESS_ID={i}" in line
    assert "train '--gin.TASK=a b'" in line
    assert "host_platform_device_count" not in line and "--other" in line
  ports = {line.partition("localhost:")[2].split()[0] for line in lines}
  assert len(ports) == 1


@pytest.mark.parametrize(
  ["arguments", "message"],
  [
    (["--processes=two", "--", "train"], "--processes (two) must be"),
    (["--procs=2"], "unknown option --procs=2"),
    ([], "no command"),
  ],
)
def test_local_explains_mistakes(arguments, message):
  done = bash("local.sh", *arguments)
  assert done.returncode == 2
  assert message in done.stderr


@pytest.fixture
def fake_venv(tmp_path):
  """Makes an environment whose python does as a shell script says."""

  def make(script):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/usr/bin/env bash\n{script}\n")
    python.chmod(0o755)
    return str(tmp_path / "venv")

  return make


def test_local_ends_all_when_one_fails(tmp_path, fake_venv):
  # Process 1 fails, and process 0 would wait for it.
  venv = fake_venv("""case "${T5X_LITE_PROCESS_ID:-}" in
    0) exec sleep 50 ;;
    1) echo broken >&2; exit 7 ;;
    *) echo 12345 ;;  # The question for a free port.
  esac""")
  done = bash(
    "local.sh", "--processes=2", f"--logs={tmp_path}/logs", "--", "train",
    T5X_LITE_VENV=venv,
  )  # fmt: skip
  assert done.returncode == 7
  assert "process 1 failed (status 7)" in done.stderr
  assert "broken" in done.stderr


@pytest.mark.parametrize(
  ["number", "status"], [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_local_passes_signals_on(number, status, tmp_path, fake_venv):
  # Each process says that it has started and, on a signal, that it ends.
  venv = fake_venv(f"""[[ -n "${{T5X_LITE_PROCESS_ID:-}}" ]] || exec echo 12345
  trap 'echo end >>{tmp_path}/ends; exit 0' TERM
  echo start >>{tmp_path}/starts
  while true; do sleep 0.1; done""")
  running = subprocess.Popen(
    ["bash", str(LAUNCH / "local.sh"), f"--logs={tmp_path}/logs", "--", "x"],
    env=os.environ | {"T5X_LITE_VENV": venv},
    start_new_session=True, stderr=subprocess.DEVNULL,
  )  # fmt: skip
  wait_for(tmp_path / "starts", "start\n" * 2)
  os.killpg(running.pid, number)  # As a terminal does on Ctrl-C.
  assert running.wait(timeout=30) == status
  assert (tmp_path / "ends").read_text() == "end\n" * 2


def test_local_in_the_background_leaves_ctrl_c_to_the_foreground(
  tmp_path, fake_venv
):
  # A script's `command &` starts with SIGINT ignored: the terminal sends it to
  # the whole group, background jobs included.
  venv = fake_venv(f"""[[ -n "${{T5X_LITE_PROCESS_ID:-}}" ]] || exec echo 12345
  echo start >>{tmp_path}/starts
  while true; do sleep 0.1; done""")
  running = subprocess.Popen(
    ["bash", "-c", 'trap "" INT; exec "$@"', "bash",
     "bash", str(LAUNCH / "local.sh"), f"--logs={tmp_path}/logs", "--", "x"],
    env=os.environ | {"T5X_LITE_VENV": venv},
    start_new_session=True, stderr=subprocess.DEVNULL,
  )  # fmt: skip
  wait_for(tmp_path / "starts", "start\n" * 2)
  os.killpg(running.pid, signal.SIGINT)
  with pytest.raises(subprocess.TimeoutExpired):
    running.wait(timeout=1)
  os.killpg(running.pid, signal.SIGTERM)
  assert running.wait(timeout=30) == 143


def wait_for(path, text, seconds=30):
  """Waits until a file holds a text."""
  end = time.monotonic() + seconds
  while not path.exists() or path.read_text() != text:
    assert time.monotonic() < end, f"{path} does not hold {text!r}"
    time.sleep(0.05)


@pytest.mark.parametrize(
  "script",
  ["local.sh", "tmux.sh", "tpu_vm.sh", "gke.sh", "slurm.sbatch",
   "quickstart.sh"],
)  # fmt: skip
def test_every_launcher_has_a_page_of_help(script, tmp_path):
  done = bash(script, "--help", cwd=tmp_path)
  assert not done.returncode and not done.stderr
  assert script in done.stdout and "--dry_run" in done.stdout
  assert "shellcheck" not in done.stdout and "SBATCH" not in done.stdout
  assert len((LAUNCH / script).read_text().splitlines()) <= 150


def test_tmux_prints_what_it_would_run(tmp_path):
  done = bash("tmux.sh", "--dry_run", "start", "train", "--gin.A=a b;")
  assert not done.returncode, done.stderr
  assert "-m launch.autoresume -- " in done.stdout
  assert "/t5x_lite train '--gin.A=a b;'" in done.stdout
  assert "tmux -L t5x_lite start-server" in done.stdout
  for action in ("logs", "status", "stop"):
    assert bash("tmux.sh", "--dry_run", action).stdout
  done = bash("tmux.sh", "begin")
  assert done.returncode == 2 and "unknown action begin" in done.stderr


def test_quickstart_prints_what_it_would_run(tmp_path):
  done = bash("quickstart.sh", "--dry_run", "--gin.A=a b", cwd=tmp_path)
  assert not done.returncode, done.stderr
  lines = done.stdout.splitlines()
  commands = [line for line in lines if "bin/t5x_lite" in line]
  assert [line.split()[1] for line in commands] == ["train", "eval", "infer"]
  assert commands[0].endswith(" '--gin.A=a b'")
  assert "make_environment base" in lines


def test_environment_says_which_python_it_needs(tmp_path):
  old = tmp_path / "python3"
  old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1\nexit 1')
  old.chmod(0o755)
  link_tools(tmp_path)
  done = bash(
    "test.sh", PATH=str(tmp_path), HOME=str(tmp_path), PYENV_ROOT="",
    T5X_LITE_VENV=str(tmp_path / "venv"),
  )  # fmt: skip
  assert done.returncode == 1
  assert "No Python 3.11, 3.12, 3.13 found" in done.stderr
  assert "Python 3.8.1" in done.stderr


def link_tools(folder):
  """Puts what the scripts call into a folder, and no Python."""
  for tool in ("bash", "cat", "cksum", "dirname", "head", "sed"):
    (folder / tool).symlink_to(shutil.which(tool))


def interpreter(path, version):
  """Makes a python that says it is of a version, and runs nothing else."""
  major, minor = version.split(".")
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f"""#!/usr/bin/env bash
    exec {sys.executable} -c 'import sys
sys.version_info = ({major}, {minor}, 0)
exec(sys.argv.pop(1))' "${{@:2}}"
""")
  path.chmod(0o755)


@pytest.mark.parametrize(
  ["versions", "on_the_path", "found"],
  [
    ("pinned", {"python3": "3.11"}, "python3"),
    ("pinned", {"python3": "3.9", "python3.13": "3.13"}, "python3.13"),
    ("newest", {"python3": "3.11", "python3.12": "3.12"}, "python3.12"),
    ("newest", {"python3": "3.14", "python3.13": "3.13"}, "python3.13"),
    ("newest", {"python3": "3.11"}, "versions/3.12.7/bin/python3"),
    # A shim that runs nothing, as pyenv's for a version that is not chosen.
    ("newest", {"python3": None, "python3.12": None}, "3.12.7/bin/python3"),
  ],
)
def test_the_first_python_that_runs_and_fits_is_found(
  versions, on_the_path, found, tmp_path
):
  (tmp_path / "bin").mkdir()
  link_tools(tmp_path / "bin")
  for name, version in on_the_path.items():
    if version is None:
      shim = tmp_path / "bin" / name
      shim.write_text("#!/bin/sh\necho pyenv: command not found >&2\nexit 127")
      shim.chmod(0o755)
    else:
      interpreter(tmp_path / "bin" / name, version)
  for version in ("3.10.1", "3.12.7"):
    interpreter(
      tmp_path / "pyenv" / "versions" / version / "bin" / "python3",
      version.rpartition(".")[0],
    )
  done = subprocess.run(
    ["bash", "-c", f"source {LAUNCH}/env.sh; find_python"],
    capture_output=True, text=True, env=CHOOSES_NOTHING | {
      "PATH": f"{tmp_path}/bin", "T5X_LITE_VERSIONS": versions,
      "PYENV_ROOT": str(tmp_path / "pyenv"), "HOME": str(tmp_path),
    },
  )  # fmt: skip
  assert done.stdout.strip().endswith(found), done.stderr
  assert done.stdout.startswith(str(tmp_path))


def test_versions_are_pinned_or_newest():
  done = bash("test.sh", T5X_LITE_VERSIONS="latest")
  assert done.returncode == 1
  assert "T5X_LITE_VERSIONS (latest) must be pinned or newest" in done.stderr


def test_environment_says_that_venv_is_missing(tmp_path):
  bare = tmp_path / "python3"
  bare.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\n')
  bare.chmod(0o755)
  done = bash("test.sh", PYTHON=str(bare), T5X_LITE_VENV=str(tmp_path / "venv"))
  assert done.returncode == 1
  assert "has no venv module" in done.stderr
  assert "python3-venv" in done.stderr
