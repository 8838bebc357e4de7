# shellcheck shell=bash disable=SC2034
# Shared by the scripts: messages, paths, and the pinned versions. Sourced, never run.
set -euo pipefail

# The versions are exact: tch and torch-sys bind this libtorch and no other.
MAE_TORCH_VERSION=2.11.0
MAE_CUPTI_VERSION=13.0.85
MAE_CUDART_VERSION=13.0.96

MAE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
MAE_CACHE=${MAE_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set: set it, or MAE_CACHE}/.cache}/mae}
case "$MAE_CACHE" in /*) ;; *) MAE_CACHE=$PWD/$MAE_CACHE ;; esac

# A shell that was open while rustup ran does not know cargo yet.
if ! command -v cargo >/dev/null 2>&1 && [ -x "${CARGO_HOME:-${HOME:-}/.cargo}/bin/cargo" ]; then
  PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
fi

# Threads that wait give their core away. libgomp's default is to spin, which on a busy machine makes a run many times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

# Colours only where a person reads them.
if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\033[1m' red=$'\033[31m' dim=$'\033[2m' plain=$'\033[0m'
else
  bold='' red='' dim='' plain=''
fi

say() { printf '%s==>%s %s\n' "$bold" "$plain" "$*" >&2; }
note() { printf '    %s%s%s\n' "$dim" "$*" "$plain" >&2; }

# die MESSAGE [REMEDY]: one message that names the thing, one line that mends it.
die() {
  printf '%serror:%s %s\n' "$red" "$plain" "$1" >&2
  [ $# -lt 2 ] || printf '  help: %s\n' "$2" >&2
  exit 1
}

# need COMMAND REMEDY
need() {
  command -v "$1" >/dev/null 2>&1 || die "'$1' was not found on PATH." "$2"
}

need_python() {
  need python3 "install it: apt-get install python3 python3-pip"
  python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip." "install it: apt-get install python3-pip"
}

# need_disk FOLDER GB WHAT REMEDY: refuses early, because a full disk in the middle of a download tells nothing.
need_disk() {
  local free
  free=$(df -Pk "$1" | awk 'NR == 2 {print int($4 / 1048576)}')
  [ "$free" -ge "$2" ] || die "$3 needs $2 GB of free disk in $1, and there are $free GB." "$4"
}

# explain_pip LOG WHAT COMMAND OFFLINE: what pip said, in one line; COMMAND tries again, OFFLINE does without a network.
explain_pip() {
  local log=$1 cause
  cause=$(grep -oEi 'connection refused|name or service not known|temporary failure in name resolution|network is unreachable|timed out|ProxyError|SSLError' "$log" | head -n 1 || true)
  if grep -qi 'no space left' "$log"; then
    die "the disk is full: pip could not store $2." "free some, or set MAE_CACHE to a folder on another disk; then $3"
  elif [ -n "$cause" ] || grep -qE 'Retrying|ConnectionError' "$log"; then
    die "no network: pip could not reach its package index${cause:+ ($cause)}." "$3 once there is one (or pip's proxy or mirror is set); offline: $4"
  else
    die "pip could not get $2: $(grep -m 1 '^ERROR' "$log" || tail -n 1 "$log")" "check that 'python3 -m pip download --no-deps torch==$MAE_TORCH_VERSION' works; or $4"
  fi
}

# lock_cache NAME: one set-up of NAME at a time; the second waits for the first and finds its work done.
lock_cache() {
  mkdir -p "$MAE_CACHE" 2>/dev/null || die "the cache folder $MAE_CACHE cannot be made." "set MAE_CACHE to a folder you can write to"
  [ -w "$MAE_CACHE" ] || die "the cache folder $MAE_CACHE cannot be written to." "set MAE_CACHE to a folder you can write to"
  command -v flock >/dev/null 2>&1 || return 0
  exec 9>"$MAE_CACHE/$1.lock"
  flock -n 9 || { say "waiting for another set-up that works in $MAE_CACHE"; flock 9; }
}

# duration SECONDS: 4 s, 1 min 05 s
duration() {
  if [ "$1" -lt 60 ]; then printf '%d s' "$1"; else printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); fi
}

# The help text of a script is the comment block at its top.
show_help() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p;}' "$1"; }

# stage NAME COMMAND...: runs one stage under a heading; its time goes into the table of stage_table.
stages=()
stage() {
  local name=$1 begun=$SECONDS
  shift
  printf '\n' >&2
  say "$name: $*"
  "$@" || { stages+=("failed after $(duration $((SECONDS - begun)))|$name"); stage_table; die "the stage '$name' failed." "$*"; }
  stages+=("$(duration $((SECONDS - begun)))|$name")
}

stage_table() {
  local row
  printf '\n' >&2
  for row in "${stages[@]}"; do printf '  %-14s %s\n' "${row%%|*}" "${row#*|}" >&2; done
}
