"""Checks that a checkpoint of mae is what PyTorch, Lightning and TAO expect to read.

The file is opened with torch.load(weights_only=True), which executes nothing, and compared with the layout that
Lightning 2.6 and TAO give their own checkpoints. The optimizer's state must fit the weights, and load into
torch.optim.AdamW (or SGD); the scheduler's state must load into the scheduler it was written for.

Exit code 0: everything holds; one line on standard output says what the file contains.
Exit code 1: something does not; one line on standard error names the key, what was expected and what was found.
Exit code 2: wrong arguments, or no such file.
"""
import argparse
import collections
import os
import pickle
import sys
import warnings

import torch

TOP_LEVEL = {
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
    "state_dict": dict,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "tao_model": str,
}
LOOPS = ["fit_loop", "validate_loop", "test_loop", "predict_loop"]
FIT_LOOP = [
    "epoch_loop.state_dict",
    "epoch_loop.batch_progress",
    "epoch_loop.scheduler_progress",
    "epoch_loop.automatic_optimization.optim_progress",
    "epoch_loop.val_loop.batch_progress",
    "epoch_progress",
]


class Failed(Exception):
    """A property that does not hold, in one line."""


def expect(condition, message):
    if not condition:
        raise Failed(message)


def check_top_level(checkpoint):
    expect(isinstance(checkpoint, dict), f"expected a dict at the top, found {type(checkpoint).__name__}")
    for key, kind in TOP_LEVEL.items():
        expect(key in checkpoint, f"key '{key}' is missing; the keys are {', '.join(map(str, checkpoint))}")
        value = checkpoint[key]
        expect(
            isinstance(value, kind) and not isinstance(value, bool),
            f"{key}: expected {kind.__name__}, found {type(value).__name__}",
        )
    expect(checkpoint["tao_model"] == "mae", f"tao_model: expected 'mae', found {checkpoint['tao_model']!r}")
    expect(checkpoint["epoch"] >= 0, f"epoch: expected 0 or more, found {checkpoint['epoch']}")
    expect(checkpoint["global_step"] >= 0, f"global_step: expected 0 or more, found {checkpoint['global_step']}")
    version = checkpoint["pytorch-lightning_version"]
    expect(
        len(version.split(".")) >= 3 and version.split(".")[0].isdigit(),
        f"pytorch-lightning_version: expected a version such as 2.6.1, found {version!r}",
    )


def check_state_dict(state_dict):
    expect(
        isinstance(state_dict, collections.OrderedDict),
        f"state_dict: expected an OrderedDict, found {type(state_dict).__name__}",
    )
    expect(len(state_dict) > 0, "state_dict: is empty")
    for name, tensor in state_dict.items():
        expect(isinstance(name, str) and name.startswith("model."), f"state_dict: key {name!r} does not start with 'model.'")
        expect(isinstance(tensor, torch.Tensor), f"state_dict['{name}']: expected a tensor, found {type(tensor).__name__}")
        expect(tensor.device.type == "cpu", f"state_dict['{name}']: on {tensor.device} although it was mapped to the CPU")
        expect(tensor.is_contiguous(), f"state_dict['{name}']: strides {tensor.stride()} of shape {list(tensor.shape)} are not contiguous")
        expect(torch.isfinite(tensor).all().item(), f"state_dict['{name}']: has values that are not finite")


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(any(item == candidate for candidate in rest) for item in part)


def state_shapes(optimizer, step):
    """Index -> shape of the moments, after a check of each entry; empty when nothing was stepped yet."""
    shapes = {}
    for index, entry in optimizer["state"].items():
        where = f"optimizer_states[0]['state'][{index}]"
        moments = ["exp_avg", "exp_avg_sq"] if "exp_avg" in entry else ["momentum_buffer"]
        for moment in moments:
            value = entry.get(moment)
            if moment == "momentum_buffer" and value is None:
                continue
            expect(isinstance(value, torch.Tensor), f"{where}: expected a tensor '{moment}', found keys {list(entry)}")
            expect(torch.isfinite(value).all().item(), f"{where}['{moment}']: has values that are not finite")
            shape = shapes.setdefault(index, list(value.shape))
            expect(list(value.shape) == shape, f"{where}['{moment}']: shape {list(value.shape)}, but its other moment has {shape}")
        if "exp_avg" in entry:
            counted = entry.get("step")
            expect(isinstance(counted, torch.Tensor) and counted.numel() == 1, f"{where}['step']: expected a tensor with one value, found {counted!r}")
            expect(0 < counted.item() <= step, f"{where}['step']: expected 1 to global_step ({step}), found {counted.item()}")
            expect((entry["exp_avg_sq"] >= 0).all().item(), f"{where}['exp_avg_sq']: has negative values")
    return shapes


def check_optimizer(checkpoint):
    states = checkpoint["optimizer_states"]
    expect(len(states) == 1, f"optimizer_states: expected 1 entry, found {len(states)}")
    optimizer = states[0]
    for key in ("state", "param_groups"):
        expect(key in optimizer, f"optimizer_states[0]: key '{key}' is missing; the keys are {', '.join(optimizer)}")
    groups = optimizer["param_groups"]
    indices = [index for group in groups for index in group["params"]]
    expect(indices == list(range(len(indices))), "optimizer_states[0]: the groups' params do not count from 0 without a gap")
    expect(len(indices) > 0, "optimizer_states[0]: no parameter is in any group")
    unknown = set(optimizer["state"]) - set(indices)
    expect(not unknown, f"optimizer_states[0]['state']: entries {sorted(unknown)} are in no group")
    step = checkpoint["global_step"]
    if step > 0:
        expect(optimizer["state"], f"optimizer_states[0]['state']: is empty although global_step is {step}")
    shapes = state_shapes(optimizer, step)

    # PyTorch stores no names there. What must hold: every moment belongs to another weight of its shape, and inside a
    # group the weights come in the order of the model.
    weights = [list(tensor.shape) for tensor in checkpoint["state_dict"].values()]
    left = collections.Counter(map(tuple, weights))
    left.subtract(map(tuple, shapes.values()))
    for shape, count in left.items():
        expect(count >= 0, f"optimizer_states[0]: {-count} more moments of shape {list(shape)} than weights in state_dict")
    for number, group in enumerate(groups):
        order = [shapes[index] for index in group["params"] if index in shapes]
        expect(is_subsequence(order, weights), f"optimizer_states[0]: the shapes of group {number} do not follow the order of state_dict")

    if shapes and len(shapes) == len(indices):
        return load_optimizer(optimizer, shapes)
    return None


def load_optimizer(optimizer, shapes):
    """A torch optimizer that took the state over and made a step with it."""
    parameters = [[torch.nn.Parameter(torch.zeros(shapes[index])) for index in group["params"]] for group in optimizer["param_groups"]]
    kind = torch.optim.AdamW if "betas" in optimizer["param_groups"][0] else torch.optim.SGD
    target = kind([{"params": part} for part in parameters], lr=0.0)
    expected = set(target.state_dict()["param_groups"][0])
    for number, group in enumerate(optimizer["param_groups"]):
        missing = expected - set(group)
        expect(not missing, f"optimizer_states[0]['param_groups'][{number}]: {kind.__name__} expects the keys {', '.join(sorted(missing))}")
    try:
        target.load_state_dict(optimizer)
        for part in parameters:
            for parameter in part:
                parameter.grad = torch.zeros_like(parameter)
        target.step()
    except Exception as error:  # whatever torch raises is the finding
        raise Failed(f"optimizer_states[0]: torch.optim.{kind.__name__} does not take it: {error}") from None
    for part in parameters:
        for parameter in part:
            expect(torch.isfinite(parameter).all().item(), f"optimizer_states[0]: a step of {kind.__name__} with it gives values that are not finite")
    return target


def check_schedulers(checkpoint, optimizer):
    schedulers = checkpoint["lr_schedulers"]
    expect(len(schedulers) == 1, f"lr_schedulers: expected 1 entry, found {len(schedulers)}")
    state = schedulers[0]
    groups = len(checkpoint["optimizer_states"][0]["param_groups"])
    for key in ("base_lrs", "_last_lr"):
        expect(key in state, f"lr_schedulers[0]: key '{key}' is missing; the keys are {', '.join(state)}")
        expect(len(state[key]) == groups, f"lr_schedulers[0]['{key}']: {len(state[key])} values for {groups} parameter groups")
    expect(isinstance(state.get("last_epoch"), int), f"lr_schedulers[0]['last_epoch']: expected int, found {state.get('last_epoch')!r}")
    if optimizer is None:
        return
    if "milestones" in state:
        target = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1])
    else:
        expect("lr_lambdas" in state, "lr_schedulers[0]: neither 'milestones' (MultiStepLR) nor 'lr_lambdas' (LambdaLR)")
        target = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda step: 1.0] * groups)
    try:
        target.load_state_dict(state)
        target.step()
    except Exception as error:
        raise Failed(f"lr_schedulers[0]: torch's {type(target).__name__} does not take it: {error}") from None


def check_loops(checkpoint):
    loops = checkpoint["loops"]
    for name in LOOPS:
        expect(name in loops, f"loops: key '{name}' is missing; the keys are {', '.join(loops)}")
    fit = loops["fit_loop"]
    for name in FIT_LOOP:
        expect(name in fit, f"loops['fit_loop']: key '{name}' is missing; the keys are {', '.join(fit)}")
    # Lightning's own global_step is this counter, so a resume there continues at the same step.
    progress = fit["epoch_loop.automatic_optimization.optim_progress"]
    steps = progress["optimizer"]["step"]["total"]["completed"]
    expect(steps == checkpoint["global_step"], f"loops: {steps} optimizer steps, but global_step is {checkpoint['global_step']}")
    batches = fit["epoch_loop.batch_progress"]["total"]["completed"]
    expect(batches >= steps, f"loops: {batches} batches completed, fewer than the {steps} optimizer steps")
    epoch = fit["epoch_progress"]["current"]["completed"]
    expect(
        epoch in (checkpoint["epoch"], checkpoint["epoch"] + 1),
        f"loops: epoch_progress.current.completed is {epoch}, but epoch is {checkpoint['epoch']}",
    )


def check(path, epoch, step):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UserWarning, pickle.UnpicklingError) as error:
        # Behind torch's advice on how to load such a file all the same stands what is wrong with it.
        detail = " ".join(str(error).split("WeightsUnpickler error:")[-1].split("Check the documentation")[0].split())
        detail = f"{type(error).__name__}: {detail}"
        raise Failed(f"torch.load(weights_only=True) refuses it: {detail}") from None
    check_top_level(checkpoint)
    check_state_dict(checkpoint["state_dict"])
    with warnings.catch_warnings():
        # PyTorch warns of a scheduler that steps before its optimizer; here it steps only to be tried.
        warnings.simplefilter("ignore")
        optimizer = check_optimizer(checkpoint)
        check_schedulers(checkpoint, optimizer)
    check_loops(checkpoint)
    for name, wanted, found in (("epoch", epoch, checkpoint["epoch"]), ("global_step", step, checkpoint["global_step"])):
        expect(wanted is None or wanted == found, f"{name}: expected {wanted}, found {found}")

    weights = checkpoint["state_dict"].values()
    described = "no optimizer state yet" if optimizer is None else f"{type(optimizer).__name__} with {len(optimizer.param_groups)} groups"
    return (
        f"{len(weights)} tensors, {sum(tensor.numel() for tensor in weights)} parameters, epoch {checkpoint['epoch']}, "
        f"step {checkpoint['global_step']}, {described}, Lightning {checkpoint['pytorch-lightning_version']}"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", help="the checkpoint (.pth)")
    parser.add_argument("--epoch", type=int, help="the epoch it must have")
    parser.add_argument("--step", type=int, help="the global_step it must have")
    arguments = parser.parse_args(argv)
    if not os.path.isfile(arguments.file):
        parser.error(f"no such file: {arguments.file}")
    try:
        print(f"OK {arguments.file}: {check(arguments.file, arguments.epoch, arguments.step)}")
    except Failed as failure:
        print(f"FAIL {arguments.file}: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
