#!/usr/bin/env bash
# Runs t5x_lite on every worker of a Cloud TPU VM.
#
#   bash launch/tpu_vm.sh --name=tpu1 --zone=us-central2-b --type=v4-32 up \
#     train --gin_file=gin/runs/quickstart.gin --model_dir=gs://bucket/run1
#   bash launch/tpu_vm.sh --name=tpu1 --zone=us-central2-b logs
#
# Actions:
#   up COMMAND...     create or reuse, set up, start the command: all at once
#   create            create the TPU, or reuse the one of that name
#   setup             copy this checkout to every worker, install its packages
#   start COMMAND...  start a t5x_lite command on every worker, and return
#   logs [WORKER]     follow a worker's log (default: 0)
#   status            what every worker is doing
#   stop              end the command (training saves a checkpoint first)
#   delete            delete the TPU and what is on it
# Options:
#   --name NAME --zone ZONE [--project PROJECT]
#   --type TYPE       accelerator type, for create (v4-8, v5litepod-16, ...)
#   --version IMAGE   its software (default: tpu-ubuntu2204-base)
#   --spot            cheaper, may be taken away at any time
#   --dry_run         print the commands and do nothing
#
# --model_dir must be a folder that all workers reach (gs://...).
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder=t5x_lite # On the workers, in the home directory.

usage() {
  sed -n '2,/^set -euo/{/^set/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
}

fail() {
  echo "tpu_vm.sh: $*" >&2
  exit 2
}

name='' zone='' project='' type='' version=tpu-ubuntu2204-base spot='' dry_run=''
while (($#)); do
  case "$1" in
    --name=* | --zone=* | --project=* | --type=* | --version=*)
      option="${1%%=*}" && value="${1#*=}" && shift
      set -- "$option" "$value" "$@"
      ;;
    --name) name="${2:?needs a value}" && shift 2 ;;
    --zone) zone="${2:?needs a value}" && shift 2 ;;
    --project) project="${2:?needs a value}" && shift 2 ;;
    --type) type="${2:?needs a value}" && shift 2 ;;
    --version) version="${2:?needs a value}" && shift 2 ;;
    --spot) spot=1 && shift ;;
    --dry_run) dry_run=1 && shift ;;
    --help | -h) usage && exit 0 ;;
    -*) fail "unknown option $1 (--help lists them)" ;;
    *) break ;;
  esac
done
action="${1:-}"
[[ -n "$action" ]] || fail "no action (--help lists them)"
shift
[[ -n "$name" && -n "$zone" ]] || fail "give --name and --zone"
where=("$name" "--zone=$zone")
[[ -z "$project" ]] || where+=("--project=$project")

# Runs a command, or prints it.
run() {
  if [[ -n "$dry_run" ]]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

tpu() {
  run gcloud compute tpus tpu-vm "$@"
}

# on WORKER COMMAND: runs a shell command on a worker, or on all.
on() {
  tpu ssh "${where[@]}" "--worker=$1" "--command=$2"
}

create() {
  if [[ -z "$dry_run" ]] && gcloud compute tpus tpu-vm describe \
    "${where[@]}" --format='value(state)' 2>/dev/null | grep -q READY; then
    echo "tpu_vm.sh: $name is there already" >&2
    return
  fi
  [[ -n "$type" ]] || fail "create needs --type (v4-8, v5litepod-16, ...)"
  tpu create "${where[@]}" "--accelerator-type=$type" "--version=$version" \
    ${spot:+--spot}
}

setup() {
  local archive=t5x_lite.tgz
  if [[ -z "$dry_run" ]]; then
    archive="$(mktemp -t t5x_lite.XXXXXX)"
    # What git tracks, and new files that it does not ignore.
    git -C "$root" ls-files -z --cached --others --exclude-standard |
      tar -C "$root" --null -T - -czf "$archive"
  fi
  tpu scp "$archive" "${where[0]}:$folder.tgz" "${where[@]:1}" --worker=all
  [[ -n "$dry_run" ]] || rm -f "$archive"
  # The images' own Python may be older than 3.11.
  on all "set -e; mkdir -p $folder; tar -xzf $folder.tgz -C $folder; \
cd $folder; source launch/env.sh; \
(find_python >/dev/null 2>&1) || (sudo apt-get update -q && \
sudo apt-get install -q -y python3.11 python3.11-venv); make_environment tpu"
}

start() {
  (($#)) || fail "start needs a command: start train --gin_file=..."
  local command
  printf -v command '%q ' .venv/bin/t5x_lite "$@"
  on all "cd $folder; if [ -f pid ] && kill -0 \$(cat pid) 2>/dev/null; then \
echo 'a command is still running: stop it first' >&2; exit 1; fi; \
nohup setsid $command >log 2>&1 </dev/null & echo \$! >pid"
}

case "$action" in
  up)
    create
    setup
    start "$@"
    [[ -n "$dry_run" ]] || echo "tpu_vm.sh: started; follow it with" \
      "bash launch/tpu_vm.sh --name=$name --zone=$zone logs" >&2
    ;;
  create | setup | start) "$action" "$@" ;;
  logs) on "${1:-0}" "tail -n 100 -F $folder/log" ;;
  status)
    on all "cd $folder; if kill -0 \$(cat pid) 2>/dev/null; then \
echo running; else echo stopped; fi; tail -n 2 log"
    ;;
  stop) on all "kill -TERM \$(cat $folder/pid)" ;;
  delete) tpu delete "${where[@]}" --quiet ;;
  *) fail "unknown action $action (--help lists them)" ;;
esac
