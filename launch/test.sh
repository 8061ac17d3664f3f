#!/usr/bin/env bash
# Runs the test suite, in an environment that it makes if need be.
#
#   bash launch/test.sh                     everything
#   bash launch/test.sh -m 'not slow'       what takes seconds
#   bash launch/test.sh tests/nn -x         any arguments of pytest
#
# T5X_LITE_VERSIONS=newest runs it with the newest packages (Python 3.12 and
# later), all but the tests that compare with PyTorch.
set -euo pipefail
# shellcheck source=launch/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

options=()
if [[ "$VERSIONS" == newest ]]; then
  make_environment test
  options=(--without-torch)
else
  make_environment dev
fi
# Arguments are relative to the checkout, wherever this is called from.
cd "$ROOT"
# A process per core. A file's tests share what they compile: they stay together.
exec "$VENV/bin/python" -m pytest \
  --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder \
  --max-worker-restart=1 \
  "${options[@]}" "$@"
