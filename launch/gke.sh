#!/usr/bin/env bash
# Runs t5x_lite on Google Kubernetes Engine.
#
#   bash launch/gke.sh --name=xl --image=IMAGE --accelerator=tpu-v5p-slice \
#     --topology=2x2x4 run \
#     train --gin_file=gin/runs/t5_1_1_xl.gin --model_dir=gs://bucket/t5_xl
#   bash launch/gke.sh --name=xl logs
#
# Actions:
#   run COMMAND...     start one run on all hosts of TPU slices (gke_run.yaml)
#   study COMMAND...   start the arms of a study, a pod each (gke_study.yaml)
#   logs [INDEX]       follow a host of each slice, or an arm (default: 0)
#   status             the pods and their states
#   stop run|study     end it and remove it (training saves a checkpoint first)
# Options:
#   --name NAME        of the run or study
#   --image IMAGE      container image with t5x_lite (docs/launch.md)
#   --accelerator TYPE tpu-v5p-slice, ...; for a study also nvidia-l4, ...
#   --topology AxB[xC] chips of a slice, for TPUs; hosts follow from it
#   --chips N          chips of a host, or GPUs of an arm (default: 4, or 1)
#   --slices N         slices of a run (default: 1)
#   --arms N           arms of a study, as `t5x_lite ablate --dry_run` says
#   --claim NAME       claim of a volume that all arms share, as /shared
#   --max_restarts N   of a run, or of an arm, beside preemptions (default: 10)
#   --service_account NAME   of the cluster (default: default)
#   --spot             only nodes that are cheaper and may be preempted
#   --namespace NAME, --context NAME   of kubectl (default: its own)
#   --dry_run          print the command with the manifest, and run nothing
#
# The arms of a study are planned before and gathered afterwards with --jobs=0,
# on a machine with the same volume.

# Variables that the manifests name.
# shellcheck disable=SC2016,SC2034
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name='' image='' accelerator='' topology='' chips='' slices=1 arms='' claim=''
max_restarts=10 service_account=default spot='' namespace='' context=''
parse_action "name image accelerator topology chips slices arms claim \
max_restarts service_account namespace context" "spot dry_run" "$@"
set -- ${rest[@]+"${rest[@]}"}
require name
[[ "$name" =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
  fail "--name ($name) must be up to 40 of a-z, 0-9 and -, from a letter on"
kubectl=(kubectl ${context:+"--context=$context"}
  ${namespace:+"--namespace=$namespace"})

# Prints words as a list that YAML and JSON read as the same words, and whose $
# Kubernetes keeps.
json_list() {
  local word list='' tab=$'\t'
  for word in "$@"; do
    word="$(printf '%s\n' "$word" | sed -e 's/["\\]/\\&/g' -e 's/\$/$$/g' \
      -e "s/$tab/\\\\t/g" -e '$!s/$/\\n/' | tr -d '\n')"
    list+="${list:+, }\"$word\""
  done
  echo "[$list]"
}

# Prints a manifest, with the variables' values in place of their names.
fill() {
  local _text _filled='' _variable
  _text="$(<"$ROOT/launch/$1")"
  while [[ "$_text" == *'${'* ]]; do
    _filled+="${_text%%'${'*}"
    _text="${_text#*'${'}"
    _variable="${_text%%'}'*}"
    _text="${_text#*'}'}"
    _filled+="${!_variable}"
  done
  printf '%s\n' "$_filled$_text"
}

# Sets what the manifests say of the machines: node_selector, limits, hosts.
choose_machines() {
  local selector=''
  case "$accelerator" in
    tpu-*)
      require topology
      [[ "$topology" =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] ||
        fail "--topology ($topology) must be as 4x4, or 2x2x4"
      chips="${chips:-4}"
      require_count chips
      local all=$((${topology//x/*}))
      ((all % chips == 0)) ||
        fail "--topology ($topology) has $all chips, not hosts of --chips ($chips)"
      hosts=$((all / chips)) limits="{\"google.com/tpu\": $chips}"
      selector="\"cloud.google.com/gke-tpu-accelerator\": \"$accelerator\", "
      selector+="\"cloud.google.com/gke-tpu-topology\": \"$topology\""
      ;;
    nvidia-*)
      [[ "$action" == study ]] ||
        fail "run takes TPUs, not --accelerator ($accelerator): see slurm.sbatch"
      chips="${chips:-1}"
      require_count chips
      hosts=1 limits="{\"nvidia.com/gpu\": $chips}"
      selector="\"cloud.google.com/gke-accelerator\": \"$accelerator\""
      ;;
    *) fail "--accelerator ($accelerator) must be as tpu-v5p-slice or nvidia-l4" ;;
  esac
  node_selector="{$selector${spot:+, \"cloud.google.com/gke-spot\": \"true\"}}"
}

launch() {
  (($# > 1)) || fail "$action needs a command: $action train --gin_file=..."
  require image accelerator
  require_count slices
  require_count max_restarts
  choose_machines
  arguments="$(json_list "${@:2}")"
  feed "$(fill "$1")" "${kubectl[@]}" create --filename=-
}

case "$action" in
  run) launch gke_run.yaml "$@" ;;
  study)
    require arms claim
    require_count arms
    launch gke_study.yaml "$@"
    ;;
  logs)
    selector="app.kubernetes.io/instance=$name"
    selector+=",batch.kubernetes.io/job-completion-index=${1:-0}"
    run "${kubectl[@]}" logs --follow --tail=100 "--selector=$selector"
    ;;
  status)
    run "${kubectl[@]}" get pods "--selector=app.kubernetes.io/instance=$name"
    ;;
  stop)
    case "${1:-}" in
      run) run "${kubectl[@]}" delete jobset "$name" ;;
      study) run "${kubectl[@]}" delete job "$name" ;;
      *) fail "stop what: stop run, or stop study" ;;
    esac
    ;;
  *) fail "unknown action $action (--help lists them)" ;;
esac
