# Shared by the launch scripts: places, options, errors and dry runs.
#
#   T5X_LITE_VENV  the virtual environment (default: .venv in the checkout)
# shellcheck shell=bash

# shellcheck disable=SC2034 # Used by the scripts.
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
SCRIPT="${0##*/}"
# Set by --dry_run.
dry_run=''

die() {
  printf '%s\n' "$@" >&2
  exit 1
}

# Reports a mistake of the user's, in one line.
fail() {
  echo "$SCRIPT: $*" >&2
  exit 2
}

# Prints the comment at the top of the script.
usage() {
  sed -n '2,${/^#/!q;/^#SBATCH/d;s/^# \{0,1\}//;p;}' "$0"
}

# parse_options VALUES FLAGS ARGUMENTS...: sets a variable for each option, and
# `rest` to the arguments from the first that is none. VALUES are the names of
# options with a value (--name=VALUE or --name VALUE), FLAGS those without.
parse_options() {
  local _values=" $1 " _flags=" $2 " _option
  shift 2
  while [[ "${1:-}" == -* ]]; do
    _option="${1#--}" && _option="${_option%%=*}"
    if [[ "$1" == -- ]]; then
      shift
      break
    elif [[ "$1" == --help || "$1" == -h ]]; then
      usage
      exit 0
    elif [[ "$_values" == *" $_option "* && "$1" == *=* ]]; then
      printf -v "$_option" %s "${1#*=}"
    elif [[ "$_values" == *" $_option "* ]]; then
      (($# > 1)) || fail "--$_option needs a value"
      printf -v "$_option" %s "$2"
      shift
    elif [[ "$_flags" == *" $_option "* && "$1" == "--$_option" ]]; then
      printf -v "$_option" 1
    else
      fail "unknown option $1 (--help lists them)"
    fi
    shift
  done
  rest=("$@")
}

# The same for a script with actions: sets `action`, and `rest` to what follows.
parse_action() {
  parse_options "$@"
  [[ -n "${rest[0]:-}" ]] || fail "no action (--help lists them)"
  action="${rest[0]}"
  rest=("${rest[@]:1}")
}

# require NAMES...: refuses options that are missing, all in one line.
require() {
  local _name _missing=''
  for _name in "$@"; do
    [[ -n "${!_name}" ]] || _missing+="${_missing:+, }--$_name"
  done
  [[ -z "$_missing" ]] || fail "give $_missing (--help explains)"
}

# require_count NAME: refuses an option that is no whole number from 1.
require_count() {
  [[ "${!1}" =~ ^[1-9][0-9]*$ ]] ||
    fail "--$1 (${!1}) must be a whole number, 1 or more"
}

# Prints a command as a line that any shell reads back as the same words.
quoted() {
  local word line='' quote="'\\''"
  for word in "$@"; do
    if [[ -z "$word" || "$word" == *[^A-Za-z0-9_./:,=@%+-]* ]]; then
      word="'${word//\'/$quote}'"
    fi
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Runs a command, or prints it where --dry_run is given.
run() {
  if [[ -n "$dry_run" ]]; then
    quoted "$@"
  else
    "$@"
  fi
}

# feed TEXT COMMAND...: the same with a text as the command's input.
feed() {
  if [[ -n "$dry_run" ]]; then
    printf "%s <<'END'\n%s\nEND\n" "$(quoted "${@:2}")" "$1"
  else
    printf '%s\n' "$1" | "${@:2}"
  fi
}
