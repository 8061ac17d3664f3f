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

# Of the command that runs: its output, the script that runs it, the process to
# signal, and how it ended (tmux itself does not always know).
LOG=runs/tmux/log
COMMAND=runs/tmux/command.sh
PID=runs/tmux/pid
END=runs/tmux/end

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
  # A file, since tmux would take an argument with ; at its end apart. tee
  # outlives the command, or the last lines were lost.
  bin="${T5X_LITE_VENV:-.venv}/bin"
  script="exec > >(trap '' HUP; exec tee -a $LOG) 2>&1
rm -f $END
(echo \$BASHPID >$PID
exec $(quoted "$bin/python" -m launch.autoresume -- "$bin/t5x_lite" "$@"))
echo \"ended with status \$?\" >$END"
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
    dead="$(ask '#{pane_dead}')"
    case "$dead" in
      0) echo running ;;
      1) cat "$END" || echo "killed" ;;
      *) echo "$dead" ;; # Of a dry run.
    esac
    run tail -n 2 "$LOG"
    ;;
  stop)
    if [[ -n "$dry_run" ]]; then
      echo "kill -TERM \"\$(cat $PID)\""
      exit
    fi
    if [[ "$(ask '#{pane_dead}' 2>/dev/null || true)" != 0 ]]; then
      echo "no command is running"
      exit
    fi
    kill -TERM "$(cat "$PID")"
    while [[ "$(ask '#{pane_dead}')" == 0 ]]; do
      sleep 0.2
    done
    ;;
  *) fail "unknown action $action (--help lists them)" ;;
esac
