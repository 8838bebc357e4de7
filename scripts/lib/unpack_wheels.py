"""Unpacks what a CPU build of mae needs from the torch and NVIDIA wheels.

Usage: unpack_wheels.py WHEEL_FOLDER TARGET

Keeps the wheels' layout (torch/lib beside nvidia/...), because the libraries find each other by it.
Exit code 0: unpacked. 1: it could not be, and one line on standard error says why.
"""
import fnmatch
import pathlib
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
    if len(sys.argv) != 3:
        print(__doc__.strip(), file=sys.stderr)
        return 1
    wheels, target = map(pathlib.Path, sys.argv[1:])
    found = sorted(wheels.glob("*.whl"))
    if not found:
        print(f"no wheel in {wheels}", file=sys.stderr)
        return 1
    for wheel in found:
        try:
            with zipfile.ZipFile(wheel) as archive:
                for info in archive.infolist():
                    if any(fnmatch.fnmatchcase(info.filename, pattern) for pattern in KEEP):
                        # extract() keeps every name inside the target and checks the sum of each file.
                        archive.extract(info, target)
        except (OSError, zipfile.BadZipFile) as error:
            print(f"{wheel.name}: {error}", file=sys.stderr)
            return 1
    return 0


sys.exit(main())
