# Shared by the scripts: messages, paths, and the pinned versions. Sourced, never run.
set -euo pipefail

MAE_TORCH_VERSION=2.11.0
MAE_CUPTI_VERSION=13.0.85
MAE_CUDART_VERSION=13.0.96

MAE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
MAE_CACHE=${MAE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mae}

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

# die MESSAGE [REMEDY]: one message that names the thing, one line that mends it.
die() {
  printf '\033[31merror:\033[0m %s\n' "$1" >&2
  [ $# -lt 2 ] || printf '  help: %s\n' "$2" >&2
  exit 1
}

need() {
  command -v "$1" >/dev/null 2>&1 || die "'$1' was not found on PATH." "$2"
}

# The help text of a script is the comment block at its top.
show_help() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$1"; }
