"""Unpacks what a CPU build of mae needs from the torch and NVIDIA wheels.

Usage: unpack_wheels.py WHEEL_FOLDER TARGET

Keeps the wheels' layout (torch/lib beside nvidia/...), because the libraries find each other by it.
"""
import fnmatch
import pathlib
import shutil
import sys
import zipfile

KEEP = [
    "torch/include/*",
    "torch/lib/libtorch.so",
    "torch/lib/libtorch_cpu.so",
    "torch/lib/libc10.so",
    "torch/lib/libgomp*",
    "torch/lib/libarm_compute*",
    "torch/lib/libopenblas*",
    "torch/lib/libgfortran*",
    "torch.libs/*",
    "nvidia/*/lib/libcupti.so.*",
    "nvidia/*/lib/libcudart.so.*",
    "torch-*.dist-info/licenses/*",
]


def main() -> int:
    wheels, target = map(pathlib.Path, sys.argv[1:3])
    found = sorted(wheels.glob("*.whl"))
    if not found:
        print(f"no wheel in {wheels}", file=sys.stderr)
        return 1
    for wheel in found:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                if info.is_dir() or not any(fnmatch.fnmatchcase(info.filename, p) for p in KEEP):
                    continue
                path = target / info.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, open(path, "wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
    return 0


sys.exit(main())
