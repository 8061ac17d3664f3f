"""launch/tpu_vm.sh, through a stand-in of gcloud with two workers."""

import json
import sys
import time

import pytest

from tests.launch.conftest import NASTY

TPU = ("launch/tpu_vm.sh", "--name=t", "--zone=z", "--poll=0")


@pytest.fixture
def workers(cloud, tmux):
  """Makes the workers: their environment is complete, and trains by sleeping.

  The command writes its arguments down, and on SIGTERM ends with status 75.
  """
  # As `make_environment tpu` leaves it.
  fingerprint = cloud.shell("source launch/env.sh && fingerprint")
  homes = [cloud.path / "worker-0", cloud.path / "worker-1"]
  for home in homes:
    venv = home / "t5x_lite" / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / ".installed-tpu").write_text(fingerprint)
    command = venv / "bin" / "t5x_lite"
    command.write_text(f"""#!/usr/bin/env bash
      trap 'echo saved; exit 75' TERM
      printf '%s\\0' "$@" >{home}/arguments
      echo "worker of $HOME"
      while true; do sleep 0.05; done""")
    command.chmod(0o755)
    python = venv / "bin" / "python"
    python.write_text(f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
  return homes


def wait_for(path, ready):
  """Waits until a file's text is as it should be, and returns the text."""
  end = time.monotonic() + 30
  while not path.exists() or not ready(path.read_text()):
    assert time.monotonic() < end, f"{path} is not as expected"
    time.sleep(0.05)
  return path.read_text()


def arguments(home):
  """Returns what the command on a worker was given, once it has started."""
  text = wait_for(home / "arguments", lambda text: text.endswith("\0"))
  return text.split("\0")[:-1]


def test_a_command_runs_on_all_workers_until_it_is_stopped(cloud, workers):
  cloud.run(*TPU, "--type=v5p-16", "up", "train", *NASTY)
  verbs = [tuple(call[2:4]) for call in cloud.calls()]
  queue, vm = "queued-resources", "tpu-vm"
  assert verbs == [
    (queue, "describe"), (vm, "describe"), (queue, "create"),
    *[(queue, "describe")] * 3, (vm, "scp"), (vm, "ssh"), (vm, "ssh"),
  ]  # fmt: skip
  create = cloud.calls()[2]
  assert "--accelerator-type=v5p-16" in create and "--node-id=t" in create
  assert "--runtime-version=v2-alpha-tpuv5" in create
  for home in workers:
    assert arguments(home) == ["train", *NASTY]
    assert (home / "t5x_lite/launch/tmux.sh").exists()  # The whole checkout.
    assert not (home / "t5x_lite/.git").exists()

  status = cloud.run(*TPU, "status").splitlines()
  assert status.count("running") == 2 and "ACTIVE" in status
  error = cloud.run(*TPU, "start", "train", "--second", status=2)
  assert "a command is still running: stop it first" in error
  cloud.run(*TPU, "stop")
  assert cloud.run(*TPU, "stop") == "no command is running\n" * 2
  assert cloud.run(*TPU, "status").count("ended with status 75") == 2
  for home in workers:
    log = home / "t5x_lite/runs/tmux/log"
    wait_for(log, f"worker of {home}\nsaved\n".__eq__)
    (home / "arguments").unlink()

  # The same workers take the next command.
  cloud.run(*TPU, "start", "train", "--second")
  for home in workers:
    assert arguments(home) == ["train", "--second"]
  assert cloud.run(*TPU, "status").splitlines().count("running") == 2
  cloud.run(*TPU, "stop")


def test_what_is_there_already_is_reused(cloud):
  (cloud.path / "state.json").write_text(
    json.dumps({"queued": {"t": ["PROVISIONING", "ACTIVE"]}})
  )
  cloud.run(*TPU, "create")
  (cloud.path / "state.json").write_text(json.dumps({"tpus": {"t": "READY"}}))
  cloud.run(*TPU, "create")
  assert all(call[3] == "describe" for call in cloud.calls())


@pytest.mark.parametrize("ended", [["SUSPENDED"], ["SUSPENDING", "FAILED"]])
def test_after_a_preemption_a_new_tpu_is_requested(cloud, ended):
  (cloud.path / "state.json").write_text(json.dumps({"queued": {"t": ended}}))
  cloud.run(*TPU, "--type=v6e-16", "--spot", "create")
  verbs = [call[3] for call in cloud.calls() if call[3] != "describe"]
  assert verbs == ["delete", "create"]
  (create,) = (call for call in cloud.calls() if call[3] == "create")
  assert "--spot" in create


def test_a_request_that_fails_ends_the_wait(cloud):
  (cloud.path / "state.json").write_text(
    json.dumps({"coming": ["WAITING_FOR_RESOURCES", "FAILED"]})
  )
  error = cloud.run(*TPU, "--type=v4-16", "create", status=1)
  assert "the request is FAILED" in error
  assert [call[3] for call in cloud.calls()].count("create") == 1


def test_what_gcloud_refuses_is_shown(cloud):
  cloud.tool(
    "gcloud", "echo 'ERROR: (gcloud) You are not logged in.' >&2; exit 1"
  )
  error = cloud.run(*TPU, "--type=v4-16", "create", status=1)
  assert "no state of t:" in error and "You are not logged in" in error


def test_a_tpu_is_deleted(cloud):
  cloud.run(*TPU, "--type=v4-16", "create")
  cloud.run(*TPU, "delete")
  assert json.loads((cloud.path / "state.json").read_text())["tpus"] == {}


@pytest.mark.parametrize(
  ["words", "message"],
  [
    (["create"], "give --name, --zone"),
    (["--name=t", "--zone=z", "crate"], "unknown action crate"),
    (["--name=t", "--zone=z", "create"], "give --type"),
    (["--name=t", "--zone=z", "--type=v9-8", "create"], "--type (v9-8)"),
    (["--name=t", "--zone=z", "up"], "up needs a command"),
    (["--name=t", "--zone=z", "start"], "start needs a command"),
    (["--name"], "--name needs a value"),
    ([], "no action"),
  ],
)
def test_a_mistake_is_explained_in_a_line(words, message, cloud):
  error = cloud.run("launch/tpu_vm.sh", *words, status=2)
  assert message in error and error.count("\n") == 1
  assert not [call for call in cloud.calls() if call[3] != "describe"]


@pytest.mark.parametrize(
  "words",
  [["start", "train", *NASTY], ["logs", "1"], ["stop"], ["status"], ["delete"]],
  ids=lambda words: words[0],
)
def test_a_dry_run_prints_the_very_commands_and_runs_none(words, cloud):
  printed = cloud.run(*TPU, "--dry_run", *words)
  assert not cloud.calls()
  cloud.tool("gcloud", "printf '%s\\0' \"$@\" >>$CLOUD/words")
  written = cloud.path / "words"
  cloud.shell(printed)
  as_printed = written.read_text()
  written.unlink()
  cloud.run(*TPU, *words)
  assert written.read_text() == as_printed


def test_a_dry_run_of_all_at_once_prints_them_in_order(cloud):
  printed = cloud.run(
    *TPU, "--type=v4-16", "--spot", "--dry_run", "up", "train"
  )
  lines = [line for line in printed.splitlines() if line[:6] == "gcloud"]
  request, copy, setup, start = lines
  assert not cloud.calls()
  assert "create t --zone=z --node-id=t --accelerator-type=v4-16" in request
  assert request.endswith("--runtime-version=tpu-ubuntu2204-base --spot")
  assert "scp" in copy and "--worker=all" in copy
  assert "make_environment tpu" in setup
  assert "bash t5x_lite/launch/tmux.sh start train" in start
