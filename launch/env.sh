# Makes the virtual environment; sourced by quickstart.sh and test.sh.
#
#   T5X_LITE_VERSIONS  "pinned" (the default): those of constraints.txt, or
#                      "newest": those of constraints-newest.txt
#   T5X_LITE_VENV      where the environment lies (default: .venv in the
#                      checkout, or .venv-newest)
#   PYTHON             the interpreter to make it with (default: a fitting one)
# shellcheck shell=bash

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

VERSIONS="${T5X_LITE_VERSIONS:-pinned}"
case "$VERSIONS" in
  pinned)
    VENV="$ROOT/.venv"
    CONSTRAINTS="$ROOT/constraints.txt"
    PYTHONS=(3.11 3.12 3.13)
    ;;
  newest)
    VENV="$ROOT/.venv-newest"
    CONSTRAINTS="$ROOT/constraints-newest.txt"
    PYTHONS=(3.12 3.13) # JAX 0.11 and later do not run on 3.11.
    ;;
  *) die "T5X_LITE_VERSIONS ($VERSIONS) must be pinned or newest" ;;
esac
VENV="${T5X_LITE_VENV:-$VENV}"
[[ "$VENV" == /* ]] || VENV="$PWD/$VENV"

# Tells whether an interpreter is there, runs, and is one of $PYTHONS. A name on
# the PATH may be a shim of pyenv's that runs nothing.
fits() {
  # shellcheck disable=SC2016 # The $ is Python's.
  "$1" -c 'import sys
sys.exit("%d.%d" % sys.version_info[:2] not in sys.argv[1:])' \
    "${PYTHONS[@]}" 2>/dev/null
}

# Prints the first interpreter that fits: on the PATH, or among pyenv's.
find_python() {
  local name kept="${PYENV_ROOT:-${HOME:-}/.pyenv}/versions"
  for name in ${PYTHON:+"$PYTHON"} python3 "${PYTHONS[@]/#/python}" python \
    "$kept"/*/bin/python3; do
    if fits "$name"; then
      command -v "$name"
      return
    fi
  done
  die "No Python $(printf '%s, ' "${PYTHONS[@]}" | sed 's/, $//') found" \
    "(python3 is: $(python3 --version 2>&1 | head -n 1))." \
    "Install one, or name it: PYTHON=/path/to/python3.12 bash $0"
}

# Prints what an installation depends on, in one number.
fingerprint() {
  cat "$CONSTRAINTS" "$ROOT/pyproject.toml" | cksum
}

# Turns pip's output into a line for each package and for each long wait.
show_progress() {
  awk '
    /^(Collecting|Processing) / {
      sub(/.*\//, "", $2)
      sub(/(-[0-9]|[][<>=!~;]).*/, "", $2)
      printf "  %3d  %s\n", ++n, $2; fflush()
    }
    /^ *Downloading .*\([0-9]+(\.[0-9]+)? [MG]B\)/ {
      size = substr($(NF - 1), 2) + 0
      if (size > 50 || $NF == "GB)") {
        printf "       downloading %s %s\n", size, substr($NF, 1, 2); fflush()
      }
    }
    /^Installing collected packages/ && n {
      printf "       unpacking %d packages\n", n; fflush()
    }'
}

# run_pip ARGUMENTS...: installs, showing progress; its log on failure.
run_pip() {
  local log="$VENV/install.log"
  if ! "$VENV/bin/python" -m pip install --disable-pip-version-check \
    --no-input "$@" 2>&1 | tee "$log" | show_progress; then
    tail -n 20 "$log" >&2
    die "pip failed; the whole log is $log"
  fi
}

# make_environment base|EXTRA: makes it, or updates it, or finds it complete.
make_environment() {
  local extra="$1" python stamp="$VENV/.installed-$1" target="$ROOT"
  if [[ -f "$stamp" && "$(cat "$stamp")" == "$(fingerprint)" ]]; then
    return
  fi
  if [[ ! -x "$VENV/bin/python" ]]; then
    python="$(find_python)" || exit 1
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
      die "$python has no venv module." \
        "On Debian and Ubuntu: sudo apt-get install python3-venv"
    fi
    echo "Making $VENV with $("$python" --version)"
    "$python" -m venv "$VENV" || die "Could not make $VENV"
  fi
  echo "Installing $(basename "$CONSTRAINTS") into $VENV (once; some minutes)"
  [[ "$extra" == base ]] || target="${ROOT}[$extra]"
  run_pip -c "$CONSTRAINTS" -e "$target"
  fingerprint >"$VENV/.installed-base"
  fingerprint >"$stamp"
}
