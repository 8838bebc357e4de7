#!/usr/bin/env python3
"""Checks an exported model against our own results.

usage: onnx_runtime.py FOLDER

FOLDER holds model.onnx and, for each batch size N given in batches.json, input.N.f32 and output.N.f32: little-endian
float32, row-major. The model must pass onnx's full check and strict shape inference, leave no shape unknown but the
batch, and give outputs within the tolerance in onnxruntime.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime


def unknown_shapes(graph):
    """Names of results without a shape, or with a dimension that is neither a number nor the batch."""
    known = {}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            known[value.name] = all(d.HasField("dim_value") or d.dim_param == "batch_size" for d in tensor.shape.dim)
    return [name for node in graph.node for name in node.output if not known.get(name, False)]


def main():
    folder = Path(sys.argv[1])
    path = folder / "model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    # Without our own annotations too: then the operators' rules alone must give every shape.
    model = onnx.load(str(path), load_external_data=False)
    declared = {v.name: v.type for v in model.graph.value_info}
    names = [tensor.name for tensor in model.graph.initializer]
    assert len(names) == len(set(names)), "initializers with the same name"
    assert not unknown_shapes(model.graph), unknown_shapes(model.graph)
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    unknown = unknown_shapes(inferred.graph)
    for value in inferred.graph.value_info:
        assert value.name in unknown or value.type == declared[value.name], f"{value.name}: {value.type} {declared[value.name]}"

    spec = json.loads((folder / "batches.json").read_text())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in spec["batches"]:
        images = np.fromfile(folder / f"input.{batch}.f32", "<f4").reshape(batch, *spec["image"])
        expected = np.fromfile(folder / f"output.{batch}.f32", "<f4").reshape(batch, -1)
        (found,) = session.run(["output"], {"input": images})
        assert found.shape == expected.shape, (found.shape, expected.shape)
        assert np.isfinite(expected).all() and expected.std() > 1e-3, "the outputs say nothing"
        worst = max(worst, float(np.abs(found - expected).max()))
    assert worst <= spec["tolerance"], f"onnxruntime differs by {worst}, more than {spec['tolerance']}"
    print(f"{spec['name']}: largest difference {worst:.2e}; shapes that only our annotations give: {unknown}")


if __name__ == "__main__":
    main()
