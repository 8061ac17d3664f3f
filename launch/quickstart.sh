#!/usr/bin/env bash
# Pretrains a small T5 on text that every machine has, evaluates it, and lets
# it fill in blanks: about five minutes on two CPU cores after the install.
#
#   bash launch/quickstart.sh        from any directory; run it again to resume
#   bash launch/quickstart.sh --gin.run.Run.total_steps=200
#                                    any flags of `t5x_lite train`
#   bash launch/quickstart.sh --dry_run
#                                    print the commands and run none
set -euo pipefail
# shellcheck source=launch/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

case "${1:-}" in
  --help | -h) usage && exit 0 ;;
  --dry_run) dry_run=1 && shift ;;
esac

RUN="$ROOT/runs/quickstart"
# None of these is in the text that it is trained on.
SENTENCES=(
  "The drawer holds a list ___ keys and a lamp."
  "This counts the number ___ items in the drawer."
  "If that argument is not given, the default ___ used."
)

step() {
  printf '\n== %s\n' "$*"
}

step "1/4  Environment"
run make_environment base
[[ -n "$dry_run" ]] || echo "ready: $VENV"
t5x_lite="$VENV/bin/t5x_lite"
run cd "$ROOT"

step "2/4  Pretraining a small T5 by span corruption"
if [[ -f "$RUN/run.json" ]]; then
  echo "resuming $RUN (delete it to start over)"
fi
run "$t5x_lite" train --gin_file=gin/runs/quickstart.gin --model_dir="$RUN" "$@"

step "3/4  Evaluating on held-out text"
run "$t5x_lite" eval --model_dir="$RUN" --nometric_fns

step "4/4  Filling in blanks in three sentences that it never saw"
texts=()
for sentence in "${SENTENCES[@]}"; do
  texts+=("--text=$sentence")
done
run "$t5x_lite" infer --model_dir="$RUN" "${texts[@]}"

[[ -z "$dry_run" ]] || exit 0
bin="${VENV#"$ROOT/"}/bin"
cat <<EOF

Done. The run lies in $RUN (config.gin, metrics.jsonl, checkpoints, samples).
What to type next, from $ROOT:

  source $bin/activate
  tensorboard --logdir=runs                                # the curves
  t5x_lite infer --model_dir=runs/quickstart --text="A list is ___."
  t5x_lite train --model_dir=runs/quickstart --gin.run.Run.total_steps=3000
  t5x_lite tasks                                           # other objectives
  t5x_lite tasks python_docs_causal_lm                     # see what one does
EOF
