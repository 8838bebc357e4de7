"""Tests of the checks themselves: each must pass on a good file, and fail, for the right reason, on a broken one.

Usage: test_checks.py   (run by scripts/test with the python of scripts/python-env)

MAE_GOLDENS=DIR  checkpoints that the real Lightning wrote; default: goldens beside the workspace, if they are there
"""
import collections
import contextlib
import copy
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

import check_onnx
import check_pth

HERE = pathlib.Path(__file__).resolve().parent
GOLDENS = pathlib.Path(os.environ.get("MAE_GOLDENS") or HERE.parents[2] / "shared" / "goldens")


def run(script, *arguments):
    """Exit code, standard output, standard error. In this process: an import of torch takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = script.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def progress(count):
    return {"total": {"ready": count, "completed": count}, "current": {"ready": count, "completed": count}}


def good_checkpoint():
    """A checkpoint in Lightning's layout, of a model with two weights, after two steps of a real AdamW."""
    weight, bias = torch.nn.Parameter(torch.ones(4, 3)), torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.AdamW([{"params": [bias], "weight_decay": 0.0}, {"params": [weight]}], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [88, 96])
    for _ in range(2):
        (weight.sum() + bias.square().sum() + bias.sum()).backward()
        optimizer.step()
    scheduler.step()
    batch = {"total": {"ready": 2, "completed": 2}, "current": {"ready": 2, "completed": 2}, "is_last_batch": True}
    fit = {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": 2},
        "epoch_loop.batch_progress": batch,
        "epoch_loop.scheduler_progress": progress(1),
        "epoch_loop.automatic_optimization.optim_progress": {"optimizer": {"step": progress(2), "zero_grad": progress(2)}},
        "epoch_loop.val_loop.batch_progress": batch,
        "epoch_progress": {"total": {"ready": 1, "completed": 0}, "current": {"ready": 1, "completed": 0}},
    }
    return {
        "epoch": 0,
        "global_step": 2,
        "pytorch-lightning_version": "2.6.1",
        "state_dict": collections.OrderedDict([("model.weight", weight.detach()), ("model.bias", bias.detach())]),
        "loops": {"fit_loop": fit, "validate_loop": {}, "test_loop": {}, "predict_loop": {}},
        "callbacks": {},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "tao_model": "mae",
    }


class CheckPth(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = pathlib.Path(folder.name) / "model.pth"

    def refused(self, change, reason, *arguments):
        checkpoint = copy.deepcopy(good_checkpoint())
        change(checkpoint)
        torch.save(checkpoint, self.file)
        code, out, err = run(check_pth, self.file, *arguments)
        self.assertEqual((code, out, err.count("\n")), (1, "", 1), err)
        self.assertTrue(err.startswith(f"FAIL {self.file}: "), err)
        self.assertIn(reason, err)

    def test_good(self):
        torch.save(good_checkpoint(), self.file)
        code, out, err = run(check_pth, self.file, "--epoch", 0, "--step", 2)
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(out, f"OK {self.file}: 2 tensors, 16 parameters, epoch 0, step 2, AdamW with 2 groups, Lightning 2.6.1\n")

    def test_keys(self):
        for key in good_checkpoint():
            with self.subTest(key):
                self.refused(lambda c: c.pop(key), f"key '{key}' is missing")
        self.refused(lambda c: c.update(tao_model="classification"), "tao_model: expected 'mae'")
        self.refused(lambda c: c.update(epoch="0"), "epoch: expected int, found str")
        self.refused(lambda c: None, "global_step: expected 3, found 2", "--step", 3)

    def test_state_dict(self):
        weights = lambda c: c["state_dict"]
        self.refused(lambda c: c.update(state_dict=dict(weights(c))), "expected an OrderedDict")
        self.refused(lambda c: weights(c).update({"bias": torch.zeros(1)}), "'bias' does not start with 'model.'")
        self.refused(lambda c: weights(c)["model.bias"].fill_(float("nan")), "not finite")
        self.refused(lambda c: weights(c).update({"model.weight": torch.ones(3, 4).t()}), "are not contiguous")

    def test_optimizer(self):
        state = lambda c: c["optimizer_states"][0]["state"]
        groups = lambda c: c["optimizer_states"][0]["param_groups"]
        self.refused(lambda c: state(c).clear(), "is empty although global_step is 2")
        self.refused(lambda c: state(c)[1].update(exp_avg=torch.zeros(3, 4), exp_avg_sq=torch.zeros(3, 4)), "more moments of shape [3, 4]")
        self.refused(lambda c: state(c)[1].update(exp_avg=torch.zeros(4)), "but its other moment has")
        self.refused(lambda c: state(c)[0].update(step=torch.tensor(9.0)), "expected 1 to global_step (2), found 9.0")
        self.refused(lambda c: groups(c)[1].update(params=[2]), "do not count from 0")
        self.refused(lambda c: groups(c)[0].pop("eps"), "AdamW expects the keys eps")

    def test_optimizer_order(self):
        def swap(checkpoint):
            optimizer = checkpoint["optimizer_states"][0]
            optimizer["param_groups"] = [dict(optimizer["param_groups"][0], params=[0, 1])]
            checkpoint["lr_schedulers"][0].update(base_lrs=[1e-3], _last_lr=[1e-3])

        self.refused(swap, "the shapes of group 0 do not follow the order of state_dict")

    def test_scheduler(self):
        scheduler = lambda c: c["lr_schedulers"][0]
        self.refused(lambda c: scheduler(c).update(_last_lr=[1e-3]), "1 values for 2 parameter groups")
        self.refused(lambda c: scheduler(c).pop("milestones"), "neither 'milestones'")

    def test_loops(self):
        fit = lambda c: c["loops"]["fit_loop"]
        self.refused(lambda c: c["loops"].pop("predict_loop"), "key 'predict_loop' is missing")
        self.refused(lambda c: fit(c)["epoch_loop.automatic_optimization.optim_progress"]["optimizer"].update(step=progress(7)), "7 optimizer steps, but global_step is 2")
        self.refused(lambda c: fit(c)["epoch_progress"]["current"].update(completed=5), "completed is 5, but epoch is 0")

    def test_code_is_not_executed(self):
        self.refused(lambda c: c.update(extra=print), "Unsupported global: GLOBAL print")

    def test_no_checkpoint(self):
        self.file.write_bytes(b"not a checkpoint")
        self.assertEqual(run(check_pth, self.file)[0], 1)
        self.assertEqual(run(check_pth, self.file.with_name("missing.pth"))[0], 2)

    def test_as_a_program(self):
        torch.save(good_checkpoint(), self.file)
        for step, code in ((2, 0), (3, 1)):
            command = [sys.executable, HERE / "check_pth.py", self.file, "--step", str(step)]
            self.assertEqual(subprocess.run(command, capture_output=True).returncode, code)

    def test_files_of_lightning(self):
        files = [file for file in GOLDENS.glob("checkpoints/lightning_tiny_full/*/model_*.pth") if not file.is_symlink()]
        if not files:
            self.skipTest(f"no checkpoints of Lightning in {GOLDENS}")
        for file in files:
            with self.subTest(file.name):
                code, out, err = run(check_pth, file)
                self.assertEqual((code, err), (0, ""))


def good_model(batch="batch_size", height=4, output="output", flatten_axis=1, flatten_input="pooled"):
    """Mean over the pixels, then a linear layer: [N, 3, 4, 4] -> [N, 2]; with it, the function in NumPy."""
    weight = numpy.arange(6, dtype=numpy.float32).reshape(2, 3) - 2.5
    bias = numpy.array([0.5, -1.0], dtype=numpy.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", [flatten_input], ["features"], axis=flatten_axis),
        helper.make_node("Gemm", ["features", "weight", "bias"], [output], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, height, 4])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, 2])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, lambda images: images.mean(axis=(2, 3)) @ weight.T + bias


class CheckOnnx(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file, self.images, self.expected = (pathlib.Path(folder.name) / name for name in ("model.onnx", "images.npy", "expected.npy"))
        self.input = numpy.random.default_rng(0).standard_normal((10, 3, 4, 4)).astype(numpy.float32)

    def check(self, change=lambda expected: expected, arguments=(), **model):
        built, function = good_model(**model)
        onnx.save(built, self.file)
        numpy.save(self.images, self.input)
        numpy.save(self.expected, change(function(self.input)))
        return run(check_onnx, self.file, "--images", self.images, "--expected", self.expected, *arguments)

    def refused(self, reason, *arguments, **model):
        code, out, err = self.check(*arguments, **model)
        self.assertEqual((code, out, err.count("\n")), (1, "", 1), err)
        self.assertTrue(err.startswith(f"FAIL {self.file}: "), err)
        self.assertIn(reason, err)

    def test_good(self):
        code, out, err = self.check(arguments=["--strict-shapes"])
        self.assertEqual((code, err), (0, ""))
        self.assertRegex(out, r"^OK .*: 10 images in batches of 1, 3, 8; largest difference \d\.\d+e-\d+; opset 17, 3 nodes\n$")

    def test_fixed_batch(self):
        code, out, _ = self.check(batch=4)
        self.assertEqual(code, 0)
        self.assertIn("in batches of 4;", out)

    def test_archive_of_arrays(self):
        self.check()
        archive = self.images.with_suffix(".npz")
        numpy.savez(archive, images=self.input, other=self.input[:1])
        self.assertEqual(run(check_onnx, self.file, "--images", archive, "--expected", self.expected)[0], 0)

    def test_numbers(self):
        self.refused("is over 1e-04", lambda expected: expected + numpy.float32(2e-4))
        self.refused("the difference", lambda expected: expected[::-1])
        self.refused("not finite", lambda expected: expected * numpy.float32("nan"))
        self.refused("expected float32, found float64", lambda expected: expected.astype(numpy.float64))
        self.refused("expected has shape [10, 1]", lambda expected: expected[:, :1])

    def test_graph(self):
        self.refused("expected the one output 'output'", output="logits")
        self.refused("the images are [10, 3, 4, 4], but the model's input is", height=8)
        self.refused("onnx.checker refuses it", flatten_input="nowhere")
        self.refused("onnxruntime cannot run a batch of 3", flatten_axis=0)

    def test_graph_alone(self):
        self.check()
        code, out, _ = run(check_onnx, self.file)
        self.assertEqual((code, out), (0, f"OK {self.file}: opset 17, 3 nodes\n"))
        self.assertEqual(run(check_onnx, self.file, "--images", self.images)[0], 2)

    def test_dtypes(self):
        self.input = numpy.clip(self.input * 50 + 128, 0, 255).astype(numpy.uint8)
        self.refused("the images are uint8, but the model takes float32", lambda expected: expected.astype(numpy.float32))

    def test_no_model(self):
        self.check()
        self.file.write_bytes(b"not a model")
        code, _, err = run(check_onnx, self.file, "--images", self.images, "--expected", self.expected)
        self.assertEqual((code, err.count("\n")), (1, 1), err)
        self.file.unlink()
        self.assertEqual(run(check_onnx, self.file, "--images", self.images, "--expected", self.expected)[0], 2)


if __name__ == "__main__":
    unittest.main()
