"""Measures mae's loader beside Python's in turns; scripts/bench-loader explains it."""

import ctypes
import io
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib

SCALE = (0.2, 1.0)
SUFFIXES = {".jpg", ".jpeg", ".png"}


def make_set(photos, out, count, width, height):
    """Crops of photos as JPEG of quality 90 and 4:2:0, with grain until they are as large as ImageNet's files."""
    from PIL import Image

    rng = random.Random(5)
    files = sorted(p for p in pathlib.Path(photos).rglob("*") if p.suffix.lower() in SUFFIXES)
    images = []
    for path in files:
        try:
            image = Image.open(path).convert("RGB")
        except OSError:
            continue
        if image.width >= width and image.height >= height:
            images.append(image)
    for i in range(count):
        image = images[i % len(images)]
        zoom = rng.uniform(1.0, min(image.width / width, image.height / height, 2.2))
        w, h = int(width * zoom), int(height * zoom)
        x, y = rng.randint(0, image.width - w), rng.randint(0, image.height - h)
        crop = image.resize((width, height), Image.LANCZOS, box=(x, y, x + w, y + h))
        goal = rng.uniform(60e3, 110e3) * width * height / (500 * 375)
        for grain in range(0, 40, 5):
            noise = Image.effect_noise((width, height), 64).convert("RGB")
            encoded = io.BytesIO()
            Image.blend(crop, noise, grain / 100).save(encoded, "JPEG", quality=90)
            if encoded.tell() >= goal:
                break
        folder = pathlib.Path(out) / f"class_{i % len(images):03d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:05d}.jpg").write_bytes(encoded.getvalue())


def files_of(images):
    return sorted(p for p in pathlib.Path(images).rglob("*") if p.suffix.lower() in SUFFIXES)


def measure_mae(program, images, seconds, threads=1):
    with tempfile.TemporaryDirectory() as folder:
        spec = pathlib.Path(folder) / "spec.yaml"
        spec.write_text(
            f"results_dir: {folder}/results\ntrain: {{stage: pretrain}}\n"
            f"dataset:\n  train_data_sources: {json.dumps(str(images))}\n"
            f"  val_data_sources: {json.dumps(str(images))}\n  batch_size: 64\n"
            f"  num_workers_per_gpu: {threads}\n"
            f"  augmentation: {{min_scale: {SCALE[0]}, max_scale: {SCALE[1]}}}\n"
        )
        command = [program, "bench", "loader", "-e", str(spec), "--json", "--seconds", str(seconds)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def python_loader(files):
    import torch
    from PIL import Image
    from torchvision import transforms

    torch.set_num_threads(1)
    steps = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=SCALE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            with open(files[index], "rb") as file:
                return steps(Image.open(file).convert("RGB"))

    return torch.utils.data.DataLoader(Images(), batch_size=64, shuffle=True, num_workers=0)


def measure_python(loader, seconds):
    iterator, images = iter(loader), 0
    next(iterator)
    wall, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        batch = next(iterator, None)
        if batch is None:
            iterator = iter(loader)
            continue
        images += len(batch)
    return images / (time.process_time() - cpu)


class TurboJpeg:
    """The decoder of C's libjpeg-turbo alone."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.tjInitDecompress.restype = ctypes.c_void_p
        self.handle = ctypes.c_void_p(self.library.tjInitDecompress())
        self.buffer = ctypes.create_string_buffer(1 << 26)

    def decode(self, data):
        width, height = ctypes.c_int(), ctypes.c_int()
        sampling, colors = ctypes.c_int(), ctypes.c_int()
        size = ctypes.c_ulong(len(data))
        self.library.tjDecompressHeader3(
            self.handle, data, size, *map(ctypes.byref, (width, height, sampling, colors))
        )
        self.library.tjDecompress2(self.handle, data, size, self.buffer, width, 0, height, 0, 0)

    def measure(self, files, seconds):
        contents = [path.read_bytes() for path in files[:400] if path.suffix.lower() in (".jpg", ".jpeg")]
        images, wall, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < seconds:
            for data in contents:
                self.decode(data)
            images += len(contents)
        return images / (time.process_time() - cpu)


def measure_gunzip(archive):
    cpu, size = time.process_time(), 0
    with open(archive, "rb") as file:
        unpack = zlib.decompressobj(31)
        while data := file.read(1 << 20):
            size += len(unpack.decompress(data))
    return size / (time.process_time() - cpu) / 1e6


def main():
    program, images, *rest = sys.argv[1:]
    if images == "--make-set":
        photos, out, count, width, height = rest
        make_set(photos, out, int(count), int(width), int(height))
        return
    rounds, seconds = int(rest[0]) if rest else 5, float(rest[1]) if len(rest) > 1 else 4.0
    is_archive = os.path.isfile(images)
    results = {}

    def note(name, rate, unit="images/s"):
        results.setdefault(name, []).append(rate)
        print(f"{name:10} {rate:9.1f} {unit}", flush=True)

    if is_archive:
        unpacked = tempfile.TemporaryDirectory()
        with tarfile.open(images) as archive:
            archive.extractall(unpacked.name, filter="data")
        files = files_of(unpacked.name)
    else:
        files = files_of(images)
    loader = python_loader(files)
    turbo = os.environ.get("TURBOJPEG") and TurboJpeg(os.environ["TURBOJPEG"])
    for _ in range(rounds):
        note("mae", measure_mae(program, images, seconds)["images_per_cpu_second"])
        if is_archive:
            folder = measure_mae(program, unpacked.name, seconds)
            note("mae-folder", folder["images_per_cpu_second"])
            note("gunzip", measure_gunzip(images), "MB/s")
        note("peer", measure_python(loader, seconds))
        if turbo and files[0].suffix.lower() in (".jpg", ".jpeg"):
            note("turbojpeg", turbo.measure(files, seconds))
    medians = {name: statistics.median(rates) for name, rates in results.items()}
    print("medians:", ", ".join(f"{name} {rate:.1f}" for name, rate in medians.items()))
    print(f"mae / peer = {medians['mae'] / medians['peer']:.2f}", end="")
    if "turbojpeg" in medians:
        print(f", mae / turbojpeg = {medians['mae'] / medians['turbojpeg']:.2f}", end="")
    if "mae-folder" in medians:
        print(f", archive / folder = {medians['mae'] / medians['mae-folder']:.2f}", end="")
    print()


if __name__ == "__main__":
    main()
