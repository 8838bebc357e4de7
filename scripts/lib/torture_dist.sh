# shellcheck shell=bash
# Sourced by scripts/torture-dist: several processes with a fault at a random place, again and again.

# torture_dist MAE FOLDER [RUNS [SEED]]: every run of four ranks must end within the timeout and a margin, in an error that
# says so in status.json, or in a restart that finishes with the bits of a run without a fault. Nothing may be left running.
torture_dist() {
  local mae=$1 folder=$2 runs=${3:-50} seed=${4:-$RANDOM}
  local timeout=8 margin=10 bad=0 i
  RANDOM=$seed
  note "dist: $runs runs of four ranks in $folder, seed $seed"
  mkdir -p "$folder"
  torture_dist_data "$folder"
  # What a run without a fault gives, with whole models and with a model in shares.
  local -A reference
  local strategy
  for strategy in ddp fsdp; do
    rm -rf "$folder/results"
    ( cd "$folder" && torture_dist_train "$mae" "$folder" "" "train.distributed_strategy=$strategy" > "reference_$strategy.log" 2>&1 ) \
      || die "the run without a fault failed: see $folder/reference_$strategy.log"
    reference[$strategy]=$(torture_dist_digest "$folder/results/train")
  done

  for ((i = 1; i <= runs; i++)); do
    strategy=ddp
    [ $((i % 2)) = 1 ] || strategy=fsdp
    torture_dist_once "$mae" "$folder" "$i" "$strategy" "${reference[$strategy]}" "$timeout" "$margin" || bad=$((bad + 1))
  done
  [ "$bad" = 0 ] || die "$bad of $runs runs ended badly (seed $seed)" "the logs are in $folder"
  say "dist: $runs runs of four ranks ended as they should"
}

# A few images of the demo, as a folder.
torture_dist_data() {
  [ -d "$1/train" ] && return
  python3 - "$MAE_ROOT/datasets/fashion_mnist_8k/images_train.tar.gz" "$1/train" <<'PY'
import collections, os, sys, tarfile
seen = collections.Counter()
with tarfile.open(sys.argv[1]) as archive:
    for member in archive:
        if member.isfile() and seen[os.path.dirname(member.name)] < 8:
            seen[os.path.dirname(member.name)] += 1
            path = os.path.join(sys.argv[2], member.name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as out:
                out.write(archive.extractfile(member).read())
PY
  cat > "$1/spec.yaml" <<'YAML'
results_dir: results
device: cpu
dataset:
  train_data_sources: train
  val_data_sources: train
  batch_size: 2
  num_workers_per_gpu: 1
  augmentation: {input_size: 32, auto_aug: null, mixup: 0.0, cutmix: 0.0}
train:
  stage: finetune
  num_gpus: 4
  num_epochs: 2
  checkpoint_interval_unit: step
  checkpoint_interval: 4
  comm_timeout: 8
  optim: {lr: 0.001, lr_scheduler: cosine}
model: {arch: convnextv2_atto, num_classes: 10}
YAML
}

# torture_dist_train MAE FOLDER FAULT [OVERRIDE...]
torture_dist_train() {
  local mae=$1 folder=$2 fault=$3
  shift 3
  if [ -n "$fault" ]; then export MAE_FAULT=$fault; else unset MAE_FAULT; fi
  # The full path is how what is left running would be found.
  # Whatever hangs is ended, and counts as a bad end.
  OMP_NUM_THREADS=1 timeout -s KILL 300 "$mae" train -e spec.yaml "results_dir=$folder/results" "$@"
}

# The tensors of the last checkpoint, model and optimizer, without the paths that the file also holds.
torture_dist_digest() {
  python3 - "$1/convnextv2_atto_latest.pth" <<'PY'
import hashlib, sys, zipfile
digest = hashlib.sha256()
with zipfile.ZipFile(sys.argv[1]) as file:
    for name in sorted(name for name in file.namelist() if "/data/" in name):
        digest.update(name.encode() + file.read(name))
print(digest.hexdigest())
PY
}

torture_dist_once() {
  local mae=$1 folder=$2 run=$3 strategy=$4 reference=$5 timeout=$6 margin=$7
  local kinds=(kill stop exit exception hang disk images) kind rank operation restarts fault='' code=0 log
  kind=${kinds[RANDOM % 7]} rank=$((RANDOM % 4)) operation=$((RANDOM % 55)) restarts=$((RANDOM % 2))
  # A model in shares has about eight times the operations.
  [ "$strategy" = ddp ] || operation=$((operation * 8 + RANDOM % 8))
  log=$folder/run_$run.log
  local overrides=("train.max_restarts=$restarts" "train.distributed_strategy=$strategy")
  rm -rf "$folder/results"
  mkdir -p "$folder/results"
  case $kind in
    disk) # room for the first checkpoint at most
      restarts=0
      mount -t tmpfs -o size=$((RANDOM % 60 + 2))m tmpfs "$folder/results" 2>/dev/null || return 0 ;;
    images) # more unreadable images than are allowed
      restarts=0
      cp -r "$folder/train" "$folder/broken"
      find "$folder/broken" -type f | sort | awk "NR % 9 == $rank" | while read -r file; do echo broken > "$file"; done
      overrides+=("dataset.train_data_sources=broken") ;;
    *) fault=$kind@$rank:$operation ;;
  esac
  # Each line gets its time: the fault says when it struck.
  ( cd "$folder" && torture_dist_train "$mae" "$folder" "$fault" "${overrides[@]}" 2>&1 ) \
    | while IFS= read -r line; do printf '%(%s)T %s\n' -1 "$line"; done > "$log" || code=$?
  local ended struck problem=''
  ended=$(date +%s)
  struck=$(awk '/MAE_FAULT: / {print $1; exit}' "$log")
  if [ "$code" = 137 ]; then
    problem="it hangs"
  elif [ "$code" = 0 ]; then
    [ "$kind" != images ] || problem="unreadable images were not noticed"
    [ -n "$problem" ] || [ "$(torture_dist_digest "$folder/results/train")" = "$reference" ] || problem="other bits than without a fault"
  else
    [ "$restarts" = 0 ] || problem="the restart did not finish"
    [ "$kind" = disk ] || tail -n 1 "$folder/results/train/status.json" | grep -q '"status": "FAILURE"' || problem="status.json has no FAILURE"
    [ -z "$struck" ] || [ $((ended - struck)) -le $((timeout + margin)) ] || problem="ended $((ended - struck)) s after the fault"
  fi
  pgrep -f "$folder/results" >/dev/null && problem="a process was left"
  if [ "$kind" = disk ]; then umount "$folder/results"; fi
  rm -rf "$folder/broken"
  note "run $run: $strategy, $kind, rank $rank, operation $operation, restarts $restarts: exit $code${problem:+, BUT $problem}"
  [ -z "$problem" ]
}
