"""What is started again, when, and how often."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch import autoresume

# Ends with the statuses of its file, one a run, each "STATUS" or "STATUS+", a
# plus with one more checkpoint.
FAKE = """
cd "$(dirname "$0")"
read -r status <statuses && sed -i 1d statuses
echo "$status" >>ran
if [[ "$status" == *+ ]]; then
  mkdir -p "run/checkpoints/$(wc -l <ran)"
fi
[[ "$status" != 137 ]] || kill -KILL $$
exit "${status%+}"
"""


@pytest.fixture(autouse=True)
def handlers():
  """Gives the tests back their own signal handlers."""
  numbers = (*autoresume._STOPPING, signal.SIGUSR1, signal.SIGUSR2)
  before = {number: signal.getsignal(number) for number in numbers}
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.fixture
def run(tmp_path, capfd):
  """Runs the fake command; returns status, runs that were made, and lines."""

  def run_fake(statuses, *flags, model_dir=True):
    script = tmp_path / "fake.sh"
    script.write_text(FAKE)
    (tmp_path / "statuses").write_text("\n".join(statuses.split()) + "\n")
    (tmp_path / "ran").write_text("")
    words = ["bash", str(script)]
    if model_dir:
      words.append(f"--model_dir={tmp_path}/run")
    flags = ("--backoff_seconds=0.01", *flags)
    status = autoresume.main([*flags, "--", *words])
    ran = (tmp_path / "ran").read_text().split()
    return status, len(ran), capfd.readouterr().err.splitlines()

  return run_fake


@pytest.mark.parametrize("status", [0, 2, 130])
def test_what_is_done_or_wrong_or_interrupted_is_not_started_again(run, status):
  assert run(f"{status} 0") == (status, 1, [])


def test_a_preempted_run_goes_on_at_once_however_often(run):
  status, runs, lines = run("75+ 75+ 75+ 75+ 0", "--backoff_seconds=300",
                            "--max_failures=2")  # fmt: skip
  assert (status, runs) == (0, 5)
  assert lines[0] == (
    "autoresume: preempted (status 75), newest checkpoint 1: starts again"
  )
  assert len(lines) == 4


def test_crashes_in_a_row_without_progress_are_given_up(run):
  status, runs, lines = run("1 137 69 0", "--max_failures=3")
  assert (status, runs) == (69, 3)
  assert "crashed (status 1), newest checkpoint none" in lines[0]
  assert "in 0.01 s (failure 1 of 3 without progress)" in lines[0]
  assert "(status 137, SIGKILL)" in lines[1]
  assert "in 0.02 s (failure 2 of 3" in lines[1]
  assert "(status 69)" in lines[2] and "gives up after 3 failures" in lines[2]


def test_progress_starts_the_count_anew(run):
  status, runs, lines = run("1 1+ 1 1+ 134 1+ 0", "--max_failures=3")
  assert (status, runs) == (0, 7)
  assert not any("gives up" in line or "0.04" in line for line in lines)


def test_a_preemption_without_progress_counts_as_a_crash(run):
  assert run("75 75 0", "--max_failures=2")[:2] == (75, 2)
  # Without a run's directory, nothing is known of progress.
  assert run("75 75 75 0", "--max_failures=2", model_dir=False)[:2] == (0, 4)


def test_an_older_checkpoint_is_no_progress(run, tmp_path):
  for name in ("90", "95.corrupt-1", "99.orbax-checkpoint-tmp-3"):
    (tmp_path / "run" / "checkpoints" / name).mkdir(parents=True)
  status, runs, lines = run("1+ 1+ 0", "--max_failures=2")
  assert (status, runs) == (1, 2)
  assert "newest checkpoint 90" in lines[1]


def test_a_directory_that_cannot_be_read_is_no_progress(run, monkeypatch):
  def iterdir(path):
    raise OSError(f"{path}: Stale file handle")

  monkeypatch.setattr(type(autoresume.epath.Path("/")), "iterdir", iterdir)
  status, runs, lines = run("1+ 1+ 1+ 0", "--max_failures=3")
  assert (status, runs) == (1, 3)
  unread = [line for line in lines if "Stale file handle" in line]
  assert len(unread) == 3 and "counts as no progress" in unread[0]
  assert "gives up after 3 failures" in lines[-1]


@pytest.mark.parametrize(
  ["flags", "message"],
  [
    (["--max_failures=0", "--", "true"], "--max_failures (0) must be"),
    (["--max_failures=x", "--", "true"], "--max_failures: invalid int"),
    (["--backoff_seconds=-1", "--", "true"], "--backoff_seconds (-1) must be"),
    ([], "required: COMMAND"),
  ],
)
def test_mistakes_are_one_line_and_status_2(flags, message, capsys):
  with pytest.raises(SystemExit) as left:
    autoresume.main(flags)
  assert left.value.code == 2
  assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_command_that_is_not_there_is_status_2(capsys):
  assert autoresume.main(["--", "no-such-command"]) == 2
  said = capsys.readouterr().err
  assert said == "autoresume: no-such-command: No such file or directory\n"


# Starts, and on a signal writes its number and ends as a run that is preempted.
WAITING = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def end(number, frame):
  with (folder / "ends").open("a") as file:
    file.write(f"{number} ")
  if number != signal.SIGUSR1:
    sys.exit(int(sys.argv[2]))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
  signal.signal(number, end)
with (folder / "starts").open("a") as file:
  file.write("start ")
time.sleep(60)
"""


def start(tmp_path, status, *flags):
  with (tmp_path / "said").open("w") as said:
    return subprocess.Popen(
      [sys.executable, "-m", "launch.autoresume", *flags, "--",
       sys.executable, "-c", WAITING, str(tmp_path), str(status)],
      cwd=pathlib.Path(__file__).parents[2], start_new_session=True,
      stderr=said,
    )  # fmt: skip


def wait_for(path, text):
  end = time.monotonic() + 30
  while not path.exists() or text not in path.read_text():
    assert time.monotonic() < end, f"{path} does not hold {text!r}"
    time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_command_once_and_it_is_not_started_again(
  tmp_path, number
):
  running = start(tmp_path, os.EX_TEMPFAIL)
  wait_for(tmp_path / "starts", "start ")
  os.kill(running.pid, signal.SIGUSR1)  # Passed on, and not an end.
  wait_for(tmp_path / "ends", "10 ")
  os.killpg(running.pid, number)  # As a terminal does on Ctrl-C.
  assert running.wait(timeout=30) == os.EX_TEMPFAIL
  assert (tmp_path / "ends").read_text() == f"10 {number} "
  assert (tmp_path / "starts").read_text() == "start "


def test_a_signal_between_two_starts_ends_at_once(tmp_path):
  running = start(tmp_path, 1, "--backoff_seconds=60")
  wait_for(tmp_path / "starts", "start ")
  child = pathlib.Path(f"/proc/{running.pid}/task/{running.pid}/children")
  os.kill(int(child.read_text()), signal.SIGTERM)
  wait_for(tmp_path / "said", "starts again in 60 s")
  running.send_signal(signal.SIGTERM)
  assert running.wait(timeout=30) == os.EX_TEMPFAIL
  assert (tmp_path / "starts").read_text() == "start "


def test_a_signal_that_does_not_stop_is_not_kept_for_the_next_start(tmp_path):
  running = start(tmp_path, os.EX_TEMPFAIL, "--backoff_seconds=2")
  wait_for(tmp_path / "starts", "start ")
  child = pathlib.Path(f"/proc/{running.pid}/task/{running.pid}/children")
  os.kill(int(child.read_text()), signal.SIGKILL)
  wait_for(tmp_path / "said", "starts again in 2 s")
  running.send_signal(signal.SIGUSR1)
  wait_for(tmp_path / "starts", "start start ")
  running.send_signal(signal.SIGTERM)
  assert running.wait(timeout=30) == os.EX_TEMPFAIL
  assert (tmp_path / "ends").read_text() == f"{signal.SIGTERM} "
  assert "status 138" not in (tmp_path / "said").read_text()
