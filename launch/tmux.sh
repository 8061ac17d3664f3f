#!/usr/bin/env bash
# Runs one t5x_lite command in tmux on this machine, where it outlives the login,
# and starts it again when it crashes (launch/autoresume.py).
#
#   bash launch/tmux.sh start train --gin_file=gin/runs/quickstart.gin \
#     --model_dir=runs/first
#   bash launch/tmux.sh logs
#
# Actions:
#   start COMMAND...  start a t5x_lite command, and return
#   logs              follow its output (`tmux -L t5x_lite attach` shows it too)
#   status            whether it runs, or the status that it ended with
#   stop              end it (training saves a checkpoint first), and wait
# Options:
#   --dry_run         print the commands and run none
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Of the command that runs: its output, and the script that runs it.
LOG=runs/tmux/log
COMMAND=runs/tmux/command.sh

parse_action "" "dry_run" "$@"
set -- ${rest[@]+"${rest[@]}"}
cd "$ROOT"
tmux=(tmux -L t5x_lite)

# Prints what tmux knows of the command, in a format of tmux's.
ask() {
  run "${tmux[@]}" list-panes -t t5x_lite -F "$1"
}

start() {
  (($#)) || fail "start needs a command: start train --gin_file=..."
  local bin script dead=''
  if [[ -z "$dry_run" ]]; then
    dead="$(ask '#{pane_dead}' 2>/dev/null || true)"
  fi
  [[ "$dead" != 0 ]] || fail "a command is still running: stop it first"
  run mkdir -p "$(dirname "$LOG")"
  # A file, since tmux would take an argument with ; at its end apart. `exec`: the
  # pane's process is the one that `stop` signals, and that passes signals on.
  # tee outlives it, or the last lines were lost.
  bin="${T5X_LITE_VENV:-.venv}/bin"
  script="exec > >(trap '' HUP; exec tee -a $LOG) 2>&1
exec $(quoted "$bin/python" -m launch.autoresume -- "$bin/t5x_lite" "$@")"
  feed "$script" cp /dev/stdin "$COMMAND"
  if [[ "$dead" == 1 ]]; then
    run "${tmux[@]}" respawn-pane -t t5x_lite "bash $COMMAND"
  else
    # remain-on-exit: `status` shows how a command has ended.
    run "${tmux[@]}" start-server ';' set-option -g remain-on-exit on ';' \
      new-session -d -s t5x_lite "bash $COMMAND"
  fi
}

case "$action" in
  start) start "$@" ;;
  logs) run tail -n 100 -F "$LOG" ;;
  status)
    ask '#{?pane_dead,ended with status #{pane_dead_status},running}'
    run tail -n 2 "$LOG"
    ;;
  stop)
    if [[ -n "$dry_run" ]]; then
      ask '#{pane_pid}'
      echo "kill -TERM PID"
      exit
    fi
    if [[ "$(ask '#{pane_dead}' 2>/dev/null || true)" != 0 ]]; then
      echo "no command is running"
      exit
    fi
    pid="$(ask '#{pane_pid}')"
    kill -TERM "$pid"
    while [[ "$(ask '#{pane_dead}')" == 0 ]]; do
      sleep 0.2
    done
    ;;
  *) fail "unknown action $action (--help lists them)" ;;
esac
