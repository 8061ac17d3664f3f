#!/usr/bin/env bash
# Runs one t5x_lite command as several processes on this machine.
#
#   bash launch/local.sh --processes=2 --devices=4 -- \
#     train --gin_file=gin/runs/quickstart.gin --model_dir=runs/two
#
# Options:
#   --processes P   processes, joined by jax.distributed (default: 2)
#   --devices D     emulated CPU devices in each (default: 1)
#                   on CPUs, a run goes on with the same bits while P x D is
#                   the same, also with 1 x D
#   --logs FOLDER   where each process writes its log (default: a new folder)
#   --dry_run       print the commands and run none
#
# Shows the first process's output. If one fails, the others are ended and the
# failing log is shown. Signals go to all, but for one that was ignored when
# this script started, as SIGHUP is under nohup, and SIGINT in a script's `... &`.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

processes=2 devices=1 logs=''
parse_options "processes devices logs" "dry_run" "$@"
set -- ${rest[@]+"${rest[@]}"}
require_count processes
require_count devices
(($#)) || fail "no command: give one after --, as in -- train --gin_file=..."

# The checkout's environment where there is one, else what is on the PATH.
python="${T5X_LITE_VENV:-$ROOT/.venv}/bin/python"
[[ -x "$python" ]] || python="$(command -v python3)"

port="$("$python" -c 'import socket
s = socket.socket()
s.bind(("localhost", 0))
print(s.getsockname()[1])')"
# The other way to emulate devices must not contradict this one.
shopt -s extglob
xla_flags="${XLA_FLAGS:-}"
xla_flags="${xla_flags//--xla_force_host_platform_device_count=+([0-9])/}"
environment=(JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$devices"
  # Several devices share the cores: see tests/conftest.py.
  JAX_CPU_ENABLE_ASYNC_DISPATCH=false
  "PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}"
  "XLA_FLAGS=$xla_flags" "T5X_LITE_COORDINATOR=localhost:$port"
  "T5X_LITE_NUM_PROCESSES=$processes")
command=("$python" -m launch.main "$@")

if [[ -n "$dry_run" ]]; then
  for ((i = 0; i < processes; i++)); do
    echo "$(quoted env "${environment[@]}" "T5X_LITE_PROCESS_ID=$i" \
      "${command[@]}") &"
  done
  exit 0
fi

[[ -n "$logs" ]] || logs="$(mktemp -d -t t5x_lite.XXXXXX)"
mkdir -p "$logs"
echo "local.sh: $processes processes x $devices devices, logs in $logs" >&2

pids=() status=0 stopped=0
stop_all() {
  kill -TERM "${pids[@]}" 2>/dev/null || true
}
trap 'status=130; stop_all' INT
# Training then saves a checkpoint and ends with status 75, as this does.
trap 'stopped=143; stop_all' TERM HUP

# Process groups of their own: a signal to this script's group must not reach
# them twice, since training takes the second one as an order to leave at once.
set -m
for ((i = 0; i < processes; i++)); do
  process=(env "${environment[@]}" "T5X_LITE_PROCESS_ID=$i" "${command[@]}")
  if ((i == 0)); then
    "${process[@]}" > >(tee "$logs/0.out") 2> >(tee "$logs/0.err" >&2) &
  else
    "${process[@]}" >"$logs/$i.out" 2>"$logs/$i.err" &
  fi
  pids+=($!)
done

# Waits for all. The first failure ends the rest, which would otherwise wait
# for it until they time out.
left=("${!pids[@]}")
while ((${#left[@]})); do
  sleep 0.2 || true # A signal to the whole group ends it too.
  running=()
  for i in "${left[@]}"; do
    if kill -0 "${pids[i]}" 2>/dev/null; then
      running+=("$i")
      continue
    fi
    code=0
    wait "${pids[i]}" || code=$?
    if ((code != 0 && status == 0)); then
      status=$code
      if ((i > 0 && code != 75)); then
        echo "local.sh: process $i failed (status $code); its log ends:" >&2
        tail -n 20 "$logs/$i.err" >&2
      fi
      stop_all
    fi
  done
  left=(${running[@]+"${running[@]}"})
done
exit "$((status ? status : stopped))"
