"""Lets `mae bench step` and bench_peer.py take turns, and compares them. See scripts/bench."""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

CASES = [
    f"{arch}:{precision}:{batch}"
    for arch, batch in (("convnextv2_atto", 16), ("convnextv2_tiny", 8), ("vit_base_patch16", 8), ("hiera_tiny_224", 8))
    for precision in ("fp32", "bf16")
]
PEER = pathlib.Path(__file__).with_name("bench_peer.py")


class Side:
    """One program, which makes a step when it is told to."""

    def __init__(self, command):
        self.command = [str(part) for part in command]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.wall, self.cpu = [], []

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: {' '.join(self.command)} ended with code {self.process.wait()}")
        return line

    def ready(self):
        while self.line().strip() != "ready":
            pass

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        wall, cpu = map(float, self.line().split())
        self.wall.append(wall)
        self.cpu.append(cpu)

    def finish(self):
        self.process.stdin.close()
        report = json.loads(self.line())
        self.process.wait()
        report["step_ms"], report["step_cpu_ms"] = statistics.median(self.wall), statistics.median(self.cpu)
        return report


def options_of(case):
    arch, precision, batch, *more = case.split(":")
    stage = "finetune" if "finetune" in more else "pretrain"
    common = ["--arch", arch, "--stage", stage, "--precision", precision, "--batch-size", batch]
    return common, ["--sparse-encoder"] if "sparse" in more else []


def run(case, arguments):
    common, ours_only = options_of(case)
    if arguments.threads:
        common += ["--threads", str(arguments.threads)]
    ours = Side([arguments.mae, "bench", "step", *common, *ours_only, "--device", "cpu", "--json", "--on-demand"])
    ours.ready()
    peer = Side([sys.executable, PEER, *common])
    peer.ready()
    for turn in range(arguments.steps):
        for side in (ours, peer) if turn % 2 == 0 else (peer, ours):
            side.step()
    ratios = sorted(theirs / mine for mine, theirs in zip(ours.wall, peer.wall))
    cpu_ratios = sorted(theirs / mine for mine, theirs in zip(ours.cpu, peer.cpu))
    ours, peer = ours.finish(), peer.finish()
    above = [side["peak_memory_bytes"] - side["base_memory_bytes"] for side in (ours, peer)]
    batch = int(common[7])
    return {
        "case": case,
        "steps": len(ratios),
        "threads": ours["threads"],
        "native_precision": ours["native_precision"],
        "images_per_second": batch * 1e3 / ours["step_ms"],
        "peer_images_per_second": batch * 1e3 / peer["step_ms"],
        # Of neighbouring steps, which the machine treated alike.
        "speed_ratio": statistics.median(ratios),
        "speed_ratio_range": [ratios[0], ratios[-1]],
        "cpu_time_ratio": statistics.median(cpu_ratios),
        "gflops_per_second": ours["flops_per_second"] / 1e9,
        "peak_memory_mb": ours["peak_memory_bytes"] / 1e6,
        "peer_peak_memory_mb": peer["peak_memory_bytes"] / 1e6,
        "memory_above_libraries_mb": above[0] / 1e6,
        "peer_memory_above_libraries_mb": above[1] / 1e6,
        "memory_ratio": above[1] / above[0],
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mae", required=True)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json")
    parser.add_argument("cases", nargs="*")
    arguments = parser.parse_args()
    head = f"{'case':38} {'mae':>9} {'PyTorch':>9} {'ratio':>6} {'(range)':>13} {'CPU':>6}   {'memory MB':>13} {'ratio':>6}"
    print(f"{head}\n{'':38} {'images/s':>9} {'images/s':>9} {'':>6} {'':>13} {'ratio':>6}   {'above libs':>13}")
    results = []
    for case in arguments.cases or CASES:
        result = run(case, arguments)
        results.append(result)
        low, high = result["speed_ratio_range"]
        memory = f"{result['memory_above_libraries_mb']:.0f}/{result['peer_memory_above_libraries_mb']:.0f}"
        print(
            f"{case:38} {result['images_per_second']:9.2f} {result['peer_images_per_second']:9.2f}"
            f" {result['speed_ratio']:6.2f} {f'({low:.2f}-{high:.2f})':>13} {result['cpu_time_ratio']:6.2f}"
            f"   {memory:>13} {result['memory_ratio']:6.2f}",
            flush=True,
        )
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
