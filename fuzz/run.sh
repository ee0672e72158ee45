#!/usr/bin/env bash
# Runs fuzz targets one after the other, each for so many minutes, with the lowest priority; see README.md.
# Usage: run.sh MINUTES [TARGET...]
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd .. && pwd)
[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || { echo "usage: run.sh MINUTES [TARGET...]" >&2; exit 2; }
seconds=$(($1 * 60))
shift
work=${CARGO_TARGET_DIR:-$root/target}/fuzz
triple=x86_64-unknown-linux-gnu

command -v c++ >/dev/null || { echo "fuzzing needs a C++ compiler: apt-get install g++" >&2; exit 1; }
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
# A sanitizer needs unstable options. Any nightly has them, and so has a stable compiler that is told to.
if ! cargo --version | grep -q nightly; then export RUSTC_BOOTSTRAP=1; fi
# The versions of the project; what only fuzzing needs is added.
cp ../Cargo.lock Cargo.lock

targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo fuzz list)
cargo fuzz build --target $triple --target-dir "$work"

found=()
for target in "${targets[@]}"; do
  began=$SECONDS
  mkdir -p "$work/corpus/$target" "$work/found/$target"
  log=$work/$target.log
  # What is learnt goes to the first folder; the kept inputs are read only.
  status=0
  nice -n 19 "$work/$triple/release/$target" "$work/corpus/$target" "corpus/$target" \
    -max_total_time=$seconds -timeout=120 -rss_limit_mb=2048 -artifact_prefix="$work/found/$target/" >"$log" 2>&1 || status=$?
  executions=$(grep -oE '^#[0-9]+' "$log" | tail -n1)
  echo "$target: $((SECONDS - began)) s, ${executions:-#0} inputs, $([ $status = 0 ] && echo nothing found || echo "A FINDING, see $log")"
  [ $status = 0 ] || found+=("$target")
done
[ ${#found[@]} = 0 ]
