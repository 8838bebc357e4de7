"""Draws what timm 1.0.26 and torchvision 0.26 draw at random, and writes histograms: NAME -> {edges, counts, draws}.

A value falls into bin i when i edges are not above it, so there is one more bin than edges.

Usage: python make.py > timm.json
"""

import json
import random
import sys

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import auto_augment_transform, rand_augment_transform
from timm.data.mixup import Mixup, cutmix_bbox_and_lam
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import ColorJitter, RandomResizedCrop

DRAWS = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
random.seed(1)
np.random.seed(2)
torch.manual_seed(3)
result = {}


def keep(name, values, bins=20):
    """`bins` bins that are about equally full; fewer for values that are few."""
    values = np.asarray(values, dtype=np.float64)
    distinct = np.unique(values)
    if len(distinct) <= bins:
        edges = (distinct[1:] + distinct[:-1]) / 2
    else:
        edges = np.unique(np.quantile(values, np.arange(1, bins) / bins))
        # Half a step beside the drawn values, so that rounding does not decide.
        edges = edges + 1e-7
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    result[name] = {"edges": edges.tolist(), "counts": counts.tolist(), "draws": len(values)}


def keep_window(name, boxes, height, width):
    top, left, h, w = np.asarray(boxes, dtype=np.float64).T
    keep(name + ".area", h * w / (height * width))
    keep(name + ".aspect", w / h)
    keep(name + ".top", (top / np.maximum(height - h, 1))[h < height])
    keep(name + ".left", (left / np.maximum(width - w, 1))[w < width])


for name, scale, ratio in [("crop", (0.1, 1.0), (3 / 4, 4 / 3)), ("crop_2", (0.1, 2.0), (0.75, 1.33))]:
    image = torch.empty(1, 300, 400)
    keep_window(name, [RandomResizedCrop.get_params(image, scale, ratio) for _ in range(DRAWS)], 300, 400)

boxes, hits = [], []
erasing = RandomErasing(probability=0.25, mode="const", device="cpu")
ones = torch.ones(1, 30, 40)
for _ in range(DRAWS):
    image = ones.clone()
    erasing(image)
    rows = (image[0] == 0).any(1).nonzero()
    hits.append(len(rows) > 0)
    if hits[-1]:
        columns = (image[0] == 0).any(0).nonzero()
        boxes.append((int(rows[0]), int(columns[0]), len(rows), len(columns)))
keep("erasing.happens", hits)
keep_window("erasing", boxes, 30, 40)

parameters = dict(translate_const=100, img_mean=(124, 116, 104))
image = Image.new("RGB", (8, 8))
for policy in ["rand-m9-mstd0.5-inc1", "rand-m6-mstd101-n3-p0.7", "rand-m8-tweights", "original-mstd0.5", "v0", "3a"]:
    applied, arguments, resamples = [], {}, []

    def record(name):
        def function(image, *args, **kwargs):
            applied.append(name)
            if args:
                arguments.setdefault(name, []).append(float(args[0]))
            if isinstance(kwargs.get("resample"), tuple):
                resamples.append(int(random.choice(kwargs["resample"]) == Image.Resampling.BICUBIC))
            return image

        return function

    is_rand = policy.startswith("rand")
    transform = (rand_augment_transform if is_rand else auto_augment_transform)(policy, dict(parameters))
    ops = transform.ops if is_rand else [op for ops in transform.policy for op in ops]
    for op in ops:
        op.aug_fn = record(op.name)
    for _ in range(DRAWS):
        transform(image)
    names = sorted(set(applied))
    counts = [applied.count(name) for name in names]
    result[policy + ".ops"] = {"names": names, "counts": counts, "draws": DRAWS}
    for name, values in arguments.items():
        if len(values) > DRAWS // 50 and len(set(values)) > 1:
            keep(f"{policy}.{name}", values)
    if resamples:
        keep(policy + ".resample", resamples)

orders, factors = [], []
for _ in range(DRAWS):
    order, *values, _ = ColorJitter.get_params((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), None)
    order = [int(i) for i in order if i < 3]
    orders.append(order[0] * 2 + (order[1] > order[2]))
    factors.append(values[0])
keep("jitter.order", orders)
keep("jitter.factor", factors)

for name, minmax in [("mixup", None), ("minmax", (0.2, 0.8))]:
    mixup = Mixup(0.8, 1.0, minmax, prob=0.9, switch_prob=0.4, num_classes=2)
    kinds, lams, areas, tops, rights = [], [], [], [], []
    for _ in range(DRAWS):
        lam, cut = mixup._params_per_batch()
        kinds.append(0 if lam == 1.0 else 2 if cut else 1)
        if kinds[-1] == 1:
            lams.append(lam)
        elif kinds[-1] == 2:
            (top, bottom, left, right), lam = cutmix_bbox_and_lam((1, 3, 30, 40), lam, minmax, True)
            areas.append(lam)
            tops.append(top)
            rights.append(right)
    keep(name + ".kind", kinds)
    keep(name + ".lam", lams)
    keep(name + ".area", areas)
    keep(name + ".top", tops)
    keep(name + ".right", rights)

json.dump(result, sys.stdout, separators=(",", ":"))
print()
