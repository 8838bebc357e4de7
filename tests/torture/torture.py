"""Ends trainings at every kind of bad moment, starts them again, and compares with one that nobody disturbed.

Called by scripts/torture, which builds what it needs. Checks after each fault:

- the run never panics, and says what failed;
- `*_latest.pth`, if it is there, is whole: `mae ckpt inspect` reads every record;
- the same command, started again, ends well;
- the last checkpoint equals the undisturbed run's in every tensor and value (`mae ckpt diff`), and so do the epochs of
  status.json and the TensorBoard curves, each of which is there once.
"""

import argparse
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

SPEC = """\
results_dir: results
device: cpu
dataset:
  train_data_sources: ../train
  val_data_sources: ../val
  batch_size: 4
  num_workers_per_gpu: 2
  augmentation:
    input_size: 32
    min_scale: 0.6
    max_scale: 1.0
    auto_aug: rand-m9-mstd0.5-inc1
    re_prob: 0.25
    mixup: 0.8
    cutmix: 1.0
train:
  stage: finetune
  num_epochs: 2
  checkpoint_interval: 2
  checkpoint_interval_unit: step
  validation_interval: 1
  accum_grad_batches: 2
  seed: 12
  precision: {precision}
  checkpoint_keep_best: true
  optim:
    lr: 0.001
    lr_scheduler: cosine
    warmup_epochs: 1
model:
  arch: convnextv2_atto
  num_classes: 10
  drop_path_rate: 0.1
"""
LATEST = "results/train/convnextv2_atto_latest.pth"
COMMAND = ["train", "-e", "spec.yaml"]


class Failure(Exception):
    pass


class Torture:
    def __init__(self, mae, shim, data, folder, precision):
        self.mae, self.shim, self.folder = mae, shim, Path(folder)
        self.precision = precision
        self.env = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MAE_CACHE": str(self.folder / "cache"),
        }
        for archive, split, count in [("images_train.tar.gz", "train", 2), ("images_val.tar.gz", "val", 1)]:
            unpack(Path(data) / archive, self.folder / split, count)

    def sandbox(self, name):
        sandbox = self.folder / name
        shutil.rmtree(sandbox, ignore_errors=True)
        sandbox.mkdir()
        (sandbox / "spec.yaml").write_text(SPEC.format(precision=self.precision))
        return sandbox

    def fault_env(self, sandbox, what, at=None, sticky=False):
        env = {**self.env, "LD_PRELOAD": str(self.shim), "MAE_FAULT": what}
        env["MAE_FAULT_DIR"] = str(sandbox / "results")
        env["MAE_FAULT_COUNT"] = str(sandbox / "count")
        if at is not None:
            env["MAE_FAULT_AT"] = str(at)
        if sticky:
            env["MAE_FAULT_STICKY"] = "1"
        return env

    def run(self, sandbox, arguments, env=None, seconds=300):
        done = subprocess.run(
            [self.mae, *arguments],
            cwd=sandbox, env=env or self.env, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL,
        )
        if "panicked" in done.stderr:
            raise Failure(f"panic: {done.stderr[-2000:]}")
        return done

    def reference(self):
        sandbox = self.sandbox("whole")
        start = time.monotonic()
        done = self.run(sandbox, COMMAND, self.fault_env(sandbox, "count"))
        if done.returncode != 0:
            raise Failure(f"the undisturbed run failed: {done.stderr}")
        self.seconds = time.monotonic() - start
        self.operations = int((sandbox / "count").read_text())
        self.whole = sandbox
        self.logs = logs(sandbox)

    def latest_is_whole(self, sandbox):
        latest = sandbox / LATEST
        if not latest.is_symlink():
            return False
        done = self.run(sandbox, ["ckpt", "inspect", LATEST])
        if done.returncode != 0:
            raise Failure(f"the latest checkpoint is not whole: {done.stderr}")
        return True

    def recover(self, sandbox):
        """The same command again, undisturbed; then everything must be as if nothing had happened."""
        done = self.run(sandbox, COMMAND)
        if done.returncode != 0:
            raise Failure(f"the second run failed ({done.returncode}): {done.stderr[-2000:]}")
        done = self.run(sandbox, ["ckpt", "diff", str(self.whole / LATEST), LATEST])
        if done.returncode != 0:
            raise Failure(f"the checkpoints differ:\n{done.stdout}{done.stderr}")
        found = logs(sandbox)
        if found != self.logs:
            raise Failure(f"the logs differ:\n{found}\ninstead of\n{self.logs}")
        left = [path.name for path in (sandbox / "results/train").iterdir() if path.name.startswith(".")]
        if left:
            raise Failure(f"left over: {left}")

    def killed_after(self, sandbox, seconds):
        run = subprocess.Popen(
            [self.mae, *COMMAND], cwd=sandbox, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            run.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
        run.wait()

    def failed(self, sandbox, what, at, sticky):
        done = self.run(sandbox, COMMAND, self.fault_env(sandbox, what, at, sticky))
        if done.returncode not in (0, 1, 2):
            raise Failure(f"exit code {done.returncode}: {done.stderr[-2000:]}")
        if done.returncode != 0 and "error:" not in done.stderr:
            raise Failure(f"it failed and does not say why: {done.stderr[-2000:]}")
        return done.returncode

    def vanished(self, sandbox):
        run = subprocess.Popen(
            [self.mae, *COMMAND], cwd=sandbox, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )
        while run.poll() is None and not (sandbox / LATEST).is_symlink():
            time.sleep(0.002)
        shutil.rmtree(sandbox / "results", ignore_errors=True)
        error = run.communicate(timeout=300)[1]
        if "panicked" in error or run.returncode not in (0, 1, 2):
            raise Failure(f"exit code {run.returncode}: {error[-2000:]}")


def unpack(archive, folder, per_class):
    """The first images of each class."""
    taken = Counter()
    with tarfile.open(archive) as tar:
        for member in sorted((m for m in tar.getmembers() if m.isfile()), key=lambda m: m.name):
            label = Path(member.name).parent.name
            if taken[label] < per_class:
                taken[label] += 1
                target = folder / label / Path(member.name).name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())


def logs(sandbox):
    """Epochs of status.json with their losses, and every point of the curves, sorted."""
    epochs, losses = [], []
    for line in (sandbox / "results/train/status.json").read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("message") == "Training loop in progress":
            epochs.append(entry["epoch"])
        if entry.get("message") == "Train metrics generated.":
            losses.append(entry["kpi"]["train_loss"])
    points = []
    for path in sorted((sandbox / "results/train").glob("lightning_logs/*/events.*")):
        points += scalars(path.read_bytes())
    return {"epochs": epochs, "losses": losses, "points": sorted(points)}


def scalars(data):
    found, at = [], 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if at + 16 + length > len(data):
            break
        found += scalar(data[at + 12 : at + 12 + length])
        at += 16 + length
    return found


def fields(message):
    """The fields of a protobuf message: number and value."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, varint()
        else:
            size = {1: 8, 5: 4}.get(kind) or varint()
            yield tag >> 3, message[at : at + size]
            at += size


def scalar(event):
    event = list(fields(event))
    step = dict(event).get(2, 0)
    for number, value in event:
        if number == 5:
            for _, entry in fields(value):
                entry = dict(fields(entry))
                if 2 in entry:
                    yield_value = struct.unpack("<f", entry[2])[0]
                    return [(entry[1].decode(), step, yield_value)]
    return []


def scenarios(torture, kills, faults, rng):
    """Name and action of every scenario."""
    points = list(range(1, torture.operations + 1))
    every = points if faults is None else sorted(rng.sample(points, min(faults, len(points))))
    for index in range(kills):
        seconds = rng.uniform(0, torture.seconds * 1.05)
        yield f"kill after {seconds:.3f} s", lambda s, t=seconds: torture.killed_after(s, t)
    for at in every:
        what = rng.choice(["kill", "kill-half"])
        yield f"{what} at operation {at}", lambda s, w=what, a=at: torture.run(s, COMMAND, torture.fault_env(s, w, a))
    for what in ["ENOSPC", "EIO"]:
        for at in every:
            sticky = rng.random() < 0.5
            name = f"{what} at operation {at}{' and from then on' if sticky else ''}"
            yield name, lambda s, w=what, a=at, k=sticky: torture.failed(s, w, a, k)
    for at in {1, rng.choice(points), torture.operations}:
        yield f"read-only from operation {at} on", lambda s, a=at: torture.failed(s, "EROFS", a, True)
    yield "the results folder vanishes", torture.vanished


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mae", required=True)
    parser.add_argument("--shim", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--kills", type=int, required=True, help="kill -9 at this many random instants")
    parser.add_argument("--faults", type=int, help="faults at this many operations of each kind; without it at every one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="mae-torture-") as folder:
        torture = Torture(options.mae, options.shim, options.data, folder, options.precision)
        torture.reference()
        print(f"undisturbed: {torture.seconds:.1f} s, {torture.operations} file operations", flush=True)
        counts, failures, resumed = Counter(), 0, 0
        for name, act in scenarios(torture, options.kills, options.faults, random.Random(options.seed)):
            sandbox = torture.sandbox("parts")
            kind = name.split(" at ")[0].split(" after ")[0].split(" from ")[0]
            counts[kind] += 1
            try:
                act(sandbox)
                resumed += torture.latest_is_whole(sandbox)
                torture.recover(sandbox)
            except (Failure, subprocess.TimeoutExpired) as error:
                failures += 1
                print(f"FAILED: {name}: {error}", flush=True)
        for kind, count in counts.items():
            print(f"{kind}: {count}")
        print(f"{resumed} of {sum(counts.values())} went on from a checkpoint")
        print(f"{sum(counts.values()) - failures} passed, {failures} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
