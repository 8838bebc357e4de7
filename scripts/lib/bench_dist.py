"""Runs the measurements of scripts/bench-dist and prints them."""

import argparse
import collections
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def torchrun(ranks, *command):
    """The JSON lines that `ranks` processes print."""
    words = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone"]
    words += ["--nproc-per-node", str(ranks), *map(str, command)]
    run = subprocess.run(words, env=os.environ | ONE_THREAD, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{run.stderr[-3000:]}")
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def ddp_step(target, rounds):
    figures = collections.defaultdict(list)
    for _ in range(rounds):
        for ranks in (1, 2):
            for name, value in torchrun(ranks, target / "examples/ddp_step")[0].items():
                figures[f"mae {ranks} {name}"].append(value)
            for name, value in torchrun(ranks, sys.executable, ROOT / "scripts/lib/ddp_step.py")[0].items():
                figures[f"PyTorch {ranks} {name}"].append(value)
    median = {name: statistics.median(values) for name, values in figures.items()}
    print("forward and backward of 31.5 M parameters, milliseconds:")
    print("  ranks  program  alone  averaged after  averaged during")
    for ranks in (1, 2):
        row = [median[f"mae {ranks} {name}_ms"] for name in ("no_communication", "average_after", "reducer")]
        print("  {}      mae      {:5.0f}  {:14.0f}  {:15.0f}".format(ranks, *row))
        row = [median[f"PyTorch {ranks} {name}_ms"] for name in ("no_communication", "ddp")]
        print("  {}      PyTorch  {:5.0f}                  {:15.0f}".format(ranks, *row))
    ours, theirs = median["mae 2 reducer_ms"], median["PyTorch 2 ddp_ms"]
    print(f"  mae's time on two ranks over PyTorch's: {ours / theirs:.3f}")
    ours, theirs = median["mae 1 no_communication_ms"] / ours, median["PyTorch 1 no_communication_ms"] / theirs
    print(f"  scaling from one rank to two: mae {ours:.3f}, PyTorch {theirs:.3f}, ratio {ours / theirs:.3f}\n", flush=True)


def train_step(target, arch, batch):
    print(f"a training step of {arch}, {batch} images a rank:")
    print("  strategy   ranks  milliseconds  MB a rank  scaling")
    alone = {}
    for strategy, ranks in [("none", 1), ("none", 2), ("ddp", 2), ("fsdp", 2),
                            ("none-bf16", 1), ("none-bf16", 2), ("ddp-bf16", 2), ("fsdp-bf16", 2)]:
        lines = torchrun(ranks, target / "examples/train_step", strategy, arch, batch)
        step = max(line["step_ms"] for line in lines)
        memory = max(line["peak_mb"] for line in lines)
        precision = strategy.partition("-")[2]
        if ranks == 1:
            alone[precision] = step
        print(f"  {strategy:10} {ranks}      {step:12.0f}  {memory:9}  {alone[precision] / step:.3f}", flush=True)


SPEC = """
results_dir: results
device: cpu
dataset:
  train_data_sources: train
  val_data_sources: train
  batch_size: 4
  num_workers_per_gpu: 1
  augmentation: {input_size: 32, auto_aug: null, mixup: 0.0, cutmix: 0.0}
train:
  stage: finetune
  num_gpus: 2
  num_epochs: 2
  max_restarts: 1
  checkpoint_interval_unit: step
  checkpoint_interval: 2
model: {arch: convnextv2_atto, num_classes: 10}
"""


def recovery(target):
    """From the death of a rank to the next training step."""
    with tempfile.TemporaryDirectory() as folder:
        seen = collections.Counter()
        with tarfile.open(ROOT / "datasets/fashion_mnist_8k/images_train.tar.gz") as archive:
            for member in archive:
                name = pathlib.PurePath(member.name)
                if member.isfile() and seen[name.parent] < 8:
                    seen[name.parent] += 1
                    path = pathlib.Path(folder, "train", name.parent.name, name.name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.extractfile(member).read())
        pathlib.Path(folder, "spec.yaml").write_text(SPEC)
        times = collections.defaultdict(list)
        for _ in range(5):
            shutil.rmtree(pathlib.Path(folder, "results"), ignore_errors=True)
            marks = {}
            run = subprocess.Popen(
                [target.resolve() / "mae", "train", "-e", "spec.yaml"], cwd=folder, text=True, stderr=subprocess.PIPE,
                env=os.environ | ONE_THREAD | {"MAE_FAULT": "kill@1:30"})
            for line in run.stderr:
                for mark in ("MAE_FAULT: ", "was killed by signal", "Resuming from", "Execution status: PASS"):
                    if mark in line:
                        marks.setdefault(mark, time.monotonic())
            if run.wait() or len(marks) < 4:
                sys.exit(f"the run did not recover: {marks}")
            died = marks["MAE_FAULT: "]
            times["noticed, and the other rank ended"].append(marks["was killed by signal"] - died)
            times["both loaded the last checkpoint"].append(marks["Resuming from"] - died)
    print("\nafter the death of one of two ranks, seconds until:")
    for what, seconds in times.items():
        print(f"  {what:36} {statistics.median(seconds):.2f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--part", choices=["ddp", "step", "recovery"])
    arguments = parser.parse_args()
    parts = {
        "ddp": lambda: ddp_step(arguments.target, arguments.rounds),
        "step": lambda: train_step(arguments.target, arguments.arch, arguments.batch),
        "recovery": lambda: recovery(arguments.target),
    }
    for name, measure in parts.items():
        if arguments.part in (None, name):
            measure()


if __name__ == "__main__":
    main()
