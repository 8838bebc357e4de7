"""The models of mae in plain PyTorch eager, for scripts/bench to measure beside it.

Written as one writes such models in PyTorch: modules, NCHW images, torch.autocast, fused AdamW. Names of parameters are those of
mae's, so that --check can compare the losses with recorded ones.

  python bench_peer.py --arch A --stage S --batch-size N --precision P    one training step for each line of standard input,
                                                                         then one JSON object, as `mae bench step` does
  python bench_peer.py --check GOLDENS                                   compares losses with GOLDENS/models/*.json
"""

import argparse
import contextlib
import json
import pathlib
import resource
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

CONVNEXT = {
    "convnextv2_atto": ([2, 2, 6, 2], [40, 80, 160, 320]),
    "convnextv2_femto": ([2, 2, 6, 2], [48, 96, 192, 384]),
    "convnextv2_pico": ([2, 2, 6, 2], [64, 128, 256, 512]),
    "convnextv2_nano": ([2, 2, 8, 2], [80, 160, 320, 640]),
    "convnextv2_tiny": ([3, 3, 9, 3], [96, 192, 384, 768]),
    "convnextv2_base": ([3, 3, 27, 3], [128, 256, 512, 1024]),
    "convnextv2_large": ([3, 3, 27, 3], [192, 384, 768, 1536]),
    "convnextv2_huge": ([3, 3, 27, 3], [352, 704, 1408, 2816]),
}
HIERA = {
    "hiera_tiny_224": (96, 1, [1, 2, 7, 2]),
    "hiera_small_224": (96, 1, [1, 2, 11, 2]),
    "hiera_base_224": (96, 1, [2, 3, 16, 3]),
    "hiera_large_224": (144, 2, [2, 6, 36, 4]),
    "hiera_huge_224": (256, 4, [2, 6, 36, 4]),
}
VIT = {
    "vit_base_patch16": (16, 768, 12, 12),
    "vit_large_patch16": (16, 1024, 24, 16),
    "vit_huge_patch14": (14, 1280, 32, 16),
}


def layer_norm(channels):
    return nn.LayerNorm(channels, eps=1e-6)


def patchify(images, p):
    n, c, h, w = images.shape
    x = images.reshape(n, c, h // p, p, w // p, p)
    return torch.einsum("nchpwq->nhwpqc", x).reshape(n, (h // p) * (w // p), p * p * c)


def normalized(target):
    return (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()


class LayerNorm2d(nn.LayerNorm):
    def __init__(self, channels):
        super().__init__(channels, eps=1e-6)

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GRN(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x):
        gx = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        nx = gx / (gx.mean(dim=-1, keepdim=True) + 1e-6)
        return self.gamma * (x * nx) + self.beta + x


class ConvBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = layer_norm(channels)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.grn = GRN(4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, x):
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.pwconv2(self.grn(self.act(self.pwconv1(self.norm(y)))))
        return x + y.permute(0, 3, 1, 2)


def convnext_layers(module, depths, dims):
    module.downsample_layers = nn.ModuleList([nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), LayerNorm2d(dims[0]))])
    for before, after in zip(dims, dims[1:]):
        module.downsample_layers.append(nn.Sequential(LayerNorm2d(before), nn.Conv2d(before, after, 2, 2)))
    module.stages = nn.ModuleList(
        nn.Sequential(*[ConvBlock(dim) for _ in range(depth)]) for depth, dim in zip(depths, dims)
    )


class ConvNeXt(nn.Module):
    def __init__(self, arch, classes):
        super().__init__()
        depths, dims = CONVNEXT[arch]
        convnext_layers(self, depths, dims)
        self.norm = layer_norm(dims[-1])
        self.head = nn.Linear(dims[-1], classes)

    def forward(self, images):
        x = images
        for down, stage in zip(self.downsample_layers, self.stages):
            x = stage(down(x))
        return self.head(self.norm(x.mean([-2, -1])))


class FcmaeEncoder(nn.Module):
    """The encoder of FCMAE as TAO has it: dense, masked behind the stem."""

    def __init__(self, depths, dims):
        super().__init__()
        convnext_layers(self, depths, dims)

    def forward(self, images, visible):
        x = self.downsample_layers[0](images)
        x = self.stages[0](x * visible)
        for down, stage in zip(self.downsample_layers[1:], self.stages[1:]):
            x = stage(down(x))
        return x


class FCMAE(nn.Module):
    def __init__(self, arch):
        super().__init__()
        depths, dims = CONVNEXT[arch]
        self.mask_token = nn.Parameter(torch.zeros(1, 512, 1, 1))
        self.encoder = FcmaeEncoder(depths, dims)
        self.proj = nn.Conv2d(dims[-1], 512, 1)
        self.decoder = nn.Sequential(ConvBlock(512))
        self.pred = nn.Conv2d(512, 32 * 32 * 3, 1)

    def patches(self, size):
        return (size // 32) ** 2

    def forward(self, images, noise, mask_ratio, norm_pix_loss=True):
        n, side = images.shape[0], images.shape[2] // 32
        kept = int(noise.shape[1] * (1 - mask_ratio))
        hidden = (noise.argsort(1).argsort(1) >= kept).float()
        mask = hidden.reshape(n, 1, side, side)
        visible = 1 - mask.repeat_interleave(8, 2).repeat_interleave(8, 3)
        x = self.proj(self.encoder(images, visible))
        x = x * (1 - mask) + self.mask_token * mask
        pred = self.pred(self.decoder(x)).flatten(2).transpose(1, 2)
        target = patchify(images, 32)
        if norm_pix_loss:
            target = normalized(target)
        loss = ((pred.float() - target) ** 2).mean(-1)
        return (loss * hidden).sum() / hidden.sum()


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        n, length, dim = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(n, length, dim))


class Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1 = layer_norm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = layer_norm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, dim, kernel, stride, padding):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel, stride, padding)

    def forward(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)


def sincos(dim, side):
    frequency = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float32) / (dim / 4))
    rows, cols = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    parts = []
    for places in (cols, rows):
        angle = places.reshape(-1, 1) * frequency
        parts += [angle.sin(), angle.cos()]
    return torch.cat([torch.zeros(1, dim), torch.cat(parts, 1)]).unsqueeze(0)


def decoder_layers(module, inputs, pixels):
    module.decoder_embed = nn.Linear(inputs, 512)
    module.decoder_blocks = nn.ModuleList(Block(512, 16) for _ in range(8))
    module.decoder_norm = layer_norm(512)
    module.decoder_pred = nn.Linear(512, pixels)


class ViT(nn.Module):
    def __init__(self, arch, classes):
        super().__init__()
        patch, dim, depth, heads = VIT[arch]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (224 // patch) ** 2, dim))
        self.patch_embed = PatchEmbed(dim, patch, patch, 0)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.head = nn.Linear(dim, classes)

    def forward(self, images):
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 1:].mean(1))


class MaskedViT(nn.Module):
    def __init__(self, arch):
        super().__init__()
        self.patch, dim, depth, heads = VIT[arch]
        side = 224 // self.patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(sincos(dim, side), requires_grad=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 512))
        self.decoder_pos_embed = nn.Parameter(sincos(512, side), requires_grad=False)
        self.patch_embed = PatchEmbed(dim, self.patch, self.patch, 0)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = layer_norm(dim)
        decoder_layers(self, dim, self.patch**2 * 3)

    def patches(self, size):
        return (size // self.patch) ** 2

    def forward(self, images, noise, mask_ratio, norm_pix_loss=True):
        n, length = noise.shape
        kept = int(length * (1 - mask_ratio))
        order = noise.argsort(1)
        restore = order.argsort(1)
        hidden = (restore >= kept).float()
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        x = x.gather(1, order[:, :kept, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(n, -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        tokens = self.mask_token.expand(n, length - kept, -1)
        full = torch.cat([x[:, 1:], tokens.to(x.dtype)], 1)
        full = full.gather(1, restore[:, :, None].expand(-1, -1, full.shape[2]))
        x = torch.cat([x[:, :1], full], 1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        pred = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        target = patchify(images, self.patch)
        if norm_pix_loss:
            target = normalized(target)
        loss = ((pred.float() - target) ** 2).mean(-1)
        return (loss * hidden).sum() / hidden.sum()


class UnitAttention(nn.Module):
    def __init__(self, inputs, dim, heads, stride, local):
        super().__init__()
        self.dim, self.heads, self.stride, self.local = dim, heads, stride, local
        self.qkv = nn.Linear(inputs, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, units):
        n, length, _ = x.shape
        windows = units if self.local else 1
        head = self.dim // self.heads
        qkv = self.qkv(x).reshape(n, -1, windows, 3, self.heads, head).permute(3, 0, 4, 2, 1, 5)
        q, k, v = qkv.unbind(0)
        if self.stride > 1:
            q = q.reshape(n, self.heads, windows, self.stride, -1, head).amax(3)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 3).reshape(n, -1, self.dim))


class HieraBlock(nn.Module):
    def __init__(self, inputs, dim, heads, stride, local):
        super().__init__()
        self.stride = stride
        self.norm1 = layer_norm(inputs)
        if inputs != dim:
            self.proj = nn.Linear(inputs, dim)
        self.attn = UnitAttention(inputs, dim, heads, stride, local)
        self.norm2 = layer_norm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x, units):
        y = self.norm1(x)
        if hasattr(self, "proj"):
            x = self.proj(y)
            if self.stride > 1:
                x = x.reshape(x.shape[0], self.stride, -1, x.shape[2]).amax(1)
        x = x + self.attn(y, units)
        return x + self.mlp(self.norm2(x))


def hiera_blocks(arch, pools):
    dim, heads, stages = HIERA[arch]
    blocks, ends, inputs = [], [], dim
    for stage, depth in enumerate(stages):
        for index in range(depth):
            opens = stage > 0 and index == 0
            local = (stage - 1 if opens else stage) < 2
            blocks.append(HieraBlock(inputs, dim << stage, heads << stage, 4 if opens and stage <= pools else 1, local))
            inputs = dim << stage
        ends.append(len(blocks) - 1)
    return nn.ModuleList(blocks), ends, inputs


def unroll(x, side):
    n, _, dim = x.shape
    x = x.reshape(n, side, 2, 2, 2, side, 2, 2, 2, dim)
    return x.permute(0, 4, 8, 3, 7, 2, 6, 1, 5, 9).reshape(n, -1, dim)


def reroll(x, units, side):
    n, _, dim = x.shape
    halvings = side.bit_length() - 1
    x = x.reshape(n, *[2] * (2 * halvings), units, dim)
    rows = [1 + 2 * h for h in reversed(range(halvings))]
    order = [0, 1 + 2 * halvings, *rows, *[1 + r for r in rows], 2 + 2 * halvings]
    return x.permute(order).reshape(n * units, side, side, dim)


class HieraHead(nn.Module):
    def __init__(self, dim, classes):
        super().__init__()
        self.norm = layer_norm(dim)
        self.fc = nn.Linear(dim, classes)

    def forward(self, x):
        return self.fc(self.norm(x.mean(1)))


class Hiera(nn.Module):
    def __init__(self, arch, classes):
        super().__init__()
        dim = HIERA[arch][0]
        self.pos_embed = nn.Parameter(torch.zeros(1, 56 * 56, dim))
        self.patch_embed = PatchEmbed(dim, 7, 4, 3)
        self.blocks, _, width = hiera_blocks(arch, 3)
        self.head = HieraHead(width, classes)

    def forward(self, images):
        x = unroll(self.patch_embed(images) + self.pos_embed, 7)
        for block in self.blocks:
            x = block(x, 49)
        return self.head(x)


class MaskedHiera(nn.Module):
    def __init__(self, arch):
        super().__init__()
        dim = HIERA[arch][0]
        self.pos_embed = nn.Parameter(torch.zeros(1, 56 * 56, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 512))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 14 * 14, 512))
        self.patch_embed = PatchEmbed(dim, 7, 4, 3)
        self.blocks, self.ends, width = hiera_blocks(arch, 2)
        self.encoder_norm = layer_norm(width)
        self.multi_scale_fusion_heads = nn.ModuleList(
            nn.Conv2d(dim << stage, width, kernel, kernel) for stage, kernel in ((0, 4), (1, 2))
        )
        decoder_layers(self, width, 16 * 16 * 3)

    def patches(self, size):
        return (size // 32) ** 2

    def forward(self, images, noise, mask_ratio, norm_pix_loss=True):
        n = images.shape[0]
        kept = int(49 * (1 - mask_ratio))
        shown = noise.argsort(1).argsort(1) < kept
        pixels = shown.reshape(n, 1, 7, 7).repeat_interleave(32, 2).repeat_interleave(32, 3)
        x = unroll(self.patch_embed(images * pixels) + self.pos_embed, 7)
        x = x.reshape(n, 64, 49, -1)[shown[:, None].expand(-1, 64, -1)].reshape(n, 64 * kept, -1)
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x, kept)
            if index in self.ends:
                outputs.append(x)
        fused = reroll(outputs[-1], kept, 2)
        for stage, head in enumerate(self.multi_scale_fusion_heads):
            fused = fused + head(reroll(outputs[stage], kept, 8 >> stage).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = self.decoder_embed(self.encoder_norm(fused.reshape(n, kept, 4, -1)))
        full = self.mask_token.reshape(1, 1, 1, -1).to(x.dtype).repeat(n, 49, 4, 1)
        full[shown] = x.flatten(0, 1)
        x = full.reshape(n, 7, 7, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(n, 196, -1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        pred = self.decoder_pred(self.decoder_norm(x))
        hidden = ~shown.reshape(n, 7, 7).repeat_interleave(2, 1).repeat_interleave(2, 2).reshape(n, 196)
        target = images.reshape(n, 3, 14, 16, 14, 16).permute(0, 2, 4, 1, 3, 5).reshape(n, 196, 768)[hidden]
        return ((pred[hidden].float() - normalized(target)) ** 2).mean()


def build(arch, stage, classes):
    pretrain = stage == "pretrain"
    if arch in CONVNEXT:
        return FCMAE(arch) if pretrain else ConvNeXt(arch, classes)
    if arch in HIERA:
        return MaskedHiera(arch) if pretrain else Hiera(arch, classes)
    return MaskedViT(arch) if pretrain else ViT(arch, classes)


def status(field):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return None


def measure(options):
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    base = status("VmRSS:")
    model = build(options.arch, options.stage, options.num_classes).train()
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dim() > 1:
            nn.init.trunc_normal_(parameter, std=0.02)
    decay = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    rest = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [{"params": rest, "weight_decay": 0.0}, {"params": decay, "weight_decay": 0.05}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    side, n = options.input_size, options.batch_size
    images = (torch.arange(n * 3 * side * side).float() * 0.37).sin().mul(1.5).reshape(n, 3, side, side)
    labels = torch.arange(n) % options.num_classes
    cast = contextlib.nullcontext if options.precision == "fp32" else lambda: torch.autocast("cpu", torch.bfloat16)

    def step():
        begun, cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        with cast():
            if options.stage == "pretrain":
                loss = model(images, torch.rand(n, model.patches(side)), options.mask_ratio)
            else:
                loss = F.cross_entropy(model(images).float(), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        value = loss.item()
        return 1e3 * (time.perf_counter() - begun), 1e3 * (time.process_time() - cpu), value

    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    for _ in range(options.warmup):
        step()
    print("ready", flush=True)
    value = None
    for _ in sys.stdin:
        wall, cpu, value = step()
        print(wall, cpu, flush=True)
    peak = status("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_memory_bytes": peak, "base_memory_bytes": base, "loss": value}), flush=True)


def golden_tensor(salt, name, shape, rule):
    import numpy

    value = 0xCBF29CE484222325
    for byte in (f"{salt}:{name}" if salt else name).encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    count = 1
    for side in shape:
        count *= side
    with numpy.errstate(over="ignore"):
        x = numpy.arange(count, dtype=numpy.uint64) + numpy.uint64(value) + numpy.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        x = x ^ (x >> numpy.uint64(31))
    u = (x >> numpy.uint64(11)).astype(numpy.float64) * 2.0**-53
    return torch.from_numpy(rule(u).astype(numpy.float32)).reshape(shape)


def golden_parameter(salt, name, shape):
    last, fan_in = name.split(".")[-1], torch.Size(shape).numel() / shape[0]
    if last == "gamma":
        scale = lambda w: w * 0.5
    elif last in ("beta", "bias"):
        scale = lambda w: w * 0.1
    elif len(shape) == 1:
        scale = lambda w: 1 + w * 0.1
    elif shape[0] == 1:
        scale = lambda w: w * 0.5
    else:
        scale = lambda w: w * (3 / fan_in) ** 0.5
    return golden_tensor(salt, name, shape, lambda u: scale(2 * u - 1))


def check(folder, largest):
    """The losses of golden models: this peer computes what mae computes."""
    worst = 0.0
    for path in sorted((pathlib.Path(folder) / "models").glob("*.json")):
        golden = json.loads(path.read_text())
        if "pretrain" not in golden or "arch" not in golden or path.stat().st_size > largest:
            continue
        arch, salt, n, side = golden["arch"], golden["salt"], golden["batch"], golden["size"]
        images = golden_tensor(salt, "input", [n, 3, side, side], lambda u: (2 * u - 1) * 2)
        for case in golden["pretrain"][:2]:
            model = build(arch, "pretrain", 10)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if parameter.requires_grad:
                        parameter.copy_(golden_parameter(salt, name, list(parameter.shape)))
                noise = golden_tensor(salt, "noise", [n, model.patches(side)], lambda u: u)
                loss = model(images, noise, case["mask_ratio"], case["norm_pix_loss"]).item()
            error = abs(loss - case["loss"]) / case["loss"]
            worst = max(worst, error)
            print(f"{path.name} mask {case['mask_ratio']}: loss {loss:.7f}, recorded {case['loss']:.7f}")
            assert error < 1e-5, "the peer computes another function"
        if "finetune" in golden:
            model = build(arch, "finetune", 10)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(golden_parameter(salt, name, list(parameter.shape)))
                if side == 224 or arch in CONVNEXT:
                    loss = F.cross_entropy(model(images), torch.tensor(golden["finetune"]["labels"])).item()
                    assert abs(loss - golden["finetune"]["loss"]) < 1e-5, path
    print(f"largest relative difference {worst:.1e}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="convnextv2_atto")
    parser.add_argument("--stage", default="pretrain")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--mask-ratio", type=float, default=0.75)
    parser.add_argument("--num-classes", type=int, default=1000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--check", metavar="GOLDENS")
    parser.add_argument("--largest", type=int, default=170_000, help="with --check: size in bytes of the largest file to take")
    options = parser.parse_args()
    if options.check:
        check(options.check, options.largest)
    else:
        measure(options)


if __name__ == "__main__":
    main()
