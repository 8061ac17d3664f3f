#!/usr/bin/env bash
# Runs t5x_lite on every worker of a Cloud TPU VM, in tmux.
#
#   bash launch/tpu_vm.sh --name=tpu1 --zone=us-east5-a --type=v5p-32 up \
#     train --gin_file=gin/runs/t5_1_1_xl.gin --model_dir=gs://bucket/t5_xl
#   bash launch/tpu_vm.sh --name=tpu1 --zone=us-east5-a logs
#
# Actions:
#   up COMMAND...     create or reuse, set up, start the command: all at once
#   create            request the TPU, or reuse the one of that name, and wait
#   setup             copy this checkout to every worker, install its packages
#   start COMMAND...  start a t5x_lite command on every worker, and return
#   logs [WORKER]     follow a worker's log (default: 0)
#   status            the state of the TPU and of every worker's command
#   stop              end the command (training saves a checkpoint first)
#   delete            delete the request, its TPU and what is on it
# Options:
#   --name NAME --zone ZONE [--project PROJECT]
#   --type TYPE       accelerator type, for create: v4-32, v5p-32, v6e-16, ...
#   --version IMAGE   its software (default: the image for the type)
#   --spot            cheaper, may be preempted at any time
#   --poll SECONDS    between two looks at the queue (default: 30)
#   --dry_run         print the commands for a TPU yet to be made, and run none
#
# The request waits in Google's queue; Ctrl-C leaves it there, and `up` or
# `create` goes on waiting. After a preemption the same `up` requests a new TPU
# and resumes the run. --model_dir must be a folder that all workers reach (gs://).
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

FOLDER=t5x_lite # On the workers, in the home directory.

name='' zone='' project='' type='' version='' spot='' poll=30
parse_action "name zone project type version poll" "spot dry_run" "$@"
set -- ${rest[@]+"${rest[@]}"}
require name zone
[[ "$action" != up && "$action" != start ]] || (($#)) ||
  fail "$action needs a command: $action train --gin_file=..."
where=("$name" "--zone=$zone" ${project:+"--project=$project"})

tpu() {
  run gcloud compute tpus tpu-vm "$@"
}

queue() {
  run gcloud compute tpus queued-resources "$@"
}

# on WORKER COMMAND: runs a shell command on a worker, or on all.
on() {
  tpu ssh "${where[@]}" "--worker=$1" "--command=$2"
}

# state KIND FIELD: prints the state of the tpu-vm or of the queued-resources of
# that name; nothing if there is none.
state() {
  local answer
  if answer="$(gcloud compute tpus "$1" describe "${where[@]}" \
    "--format=value($2)" --verbosity=error 2>&1)"; then
    echo "$answer"
  else
    [[ "$answer" == *NOT_FOUND* ]] || die "$SCRIPT: no state of $name:" "$answer"
  fi
}

request() {
  require type
  if [[ -z "$version" ]]; then
    case "$type" in
      v2-* | v3-* | v4-*) version=tpu-ubuntu2204-base ;;
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      *) fail "--type ($type) has no known image: give --version too" ;;
    esac
  fi
  queue create "${where[@]}" "--node-id=$name" "--accelerator-type=$type" \
    "--runtime-version=$version" ${spot:+--spot}
}

create() {
  if [[ -n "$dry_run" ]]; then
    request
    return
  fi
  local now said='' requested=''
  while true; do
    now="$(state queued-resources state.state)"
    case "$now" in
      ACTIVE) return ;;
      '' | FAILED | SUSPENDED)
        [[ -z "$requested" ]] || die "$SCRIPT: the request is ${now:-gone}"
        if [[ -n "$now" ]]; then
          echo "$SCRIPT: the earlier request is $now: making a new one" >&2
          queue delete "${where[@]}" --force --quiet
        elif [[ "$(state tpu-vm state)" == READY ]]; then
          return # Made without the queue.
        fi
        request
        requested=1
        continue
        ;;
    esac
    [[ "$now" == "$said" ]] || echo "$SCRIPT: $name is $now" >&2
    said="$now"
    sleep "$poll"
  done
}

setup() {
  local archive=t5x_lite.tgz
  [[ -n "$dry_run" ]] || archive="$(mktemp -t t5x_lite.XXXXXX)"
  # What git tracks, and new files that it does not ignore.
  # shellcheck disable=SC2016 # The $ are the inner shell's.
  run bash -o pipefail -c 'git -C "$0" ls-files -z --cached --others \
--exclude-standard | tar -C "$0" --null -T - -czf "$1"' "$ROOT" "$archive"
  tpu scp "$archive" "$name:$FOLDER.tgz" "${where[@]:1}" --worker=all
  run rm -f "$archive"
  # The images' own Python may be older than 3.11.
  on all "set -e; mkdir -p $FOLDER; tar -xzf $FOLDER.tgz -C $FOLDER; \
cd $FOLDER; source launch/env.sh; \
(find_python >/dev/null 2>&1) || (sudo apt-get update -q && \
sudo apt-get install -q -y python3.11 python3.11-venv); make_environment tpu"
}

# there WORKER ARGUMENTS...: runs launch/tmux.sh on a worker, or on all.
there() {
  on "$1" "bash $FOLDER/launch/tmux.sh $(quoted "${@:2}")"
}

case "$action" in
  up)
    create
    setup
    there all start "$@"
    [[ -n "$dry_run" ]] || echo "$SCRIPT: started; follow it with" \
      "bash launch/tpu_vm.sh --name=$name --zone=$zone logs" >&2
    ;;
  create | setup) "$action" ;;
  start | stop) there all "$action" "$@" ;;
  logs) there "${1:-0}" logs ;;
  status)
    queue describe "${where[@]}" "--format=value(state.state)" || true
    there all status
    ;;
  delete) queue delete "${where[@]}" --force --quiet ;;
  *) fail "unknown action $action (--help lists them)" ;;
esac
