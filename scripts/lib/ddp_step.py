"""The peer of mae-dist/examples/ddp_step.rs: the same network under PyTorch's DistributedDataParallel.

Started by torchrun on gloo; rank 0 prints one line of JSON.
"""

import json
import statistics
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

WIDTH, HIDDEN, LAYERS, BATCH, ROUNDS = 1024, 2560, 6, 64, 15


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = torch.nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


def median(step):
    times = []
    for count in range(ROUNDS + 3):
        dist.barrier()
        start = time.perf_counter()
        step()
        if count >= 3:
            times.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(times), 1)


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    network = torch.nn.Sequential(*[Block() for _ in range(LAYERS)])
    parallel = DistributedDataParallel(network, gradient_as_bucket_view=True)
    images = torch.randn(BATCH, WIDTH)

    def step(model):
        network.zero_grad(set_to_none=True)
        model(images).square().mean().backward()

    def alone():
        with parallel.no_sync():
            step(network)

    result = {"no_communication_ms": median(alone), "ddp_ms": median(lambda: step(parallel))}
    if dist.get_rank() == 0:
        print(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
