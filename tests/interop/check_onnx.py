"""Checks that an ONNX file of mae is valid and gives in onnxruntime the numbers that libtorch gave.

The file goes through onnx.checker (full check) and strict shape inference; then onnxruntime runs it on the images, in
batches of several sizes, and every output is compared with the expected one.

--images is an array as the model takes it, already resized: float32 [N, 3, H, W], normalised, or uint8 [N, H, W, 3] for a
model that normalises itself. It is a .npy file, or a .npz file with an array named 'images' (or only one array).
--expected is a float32 array [N, C] in a .npy file. Without the two, the file is checked and not run.

Exit code 0: everything holds; one line on standard output says how near the numbers are.
Exit code 1: something does not; one line on standard error says what.
Exit code 2: wrong arguments, or no such file.
"""
import argparse
import os
import sys

import numpy
import onnx
import onnxruntime


class Failed(Exception):
    """A property that does not hold, in one line."""


def expect(condition, message):
    if not condition:
        raise Failed(message)


def one_line(error):
    return " ".join(str(error).split())


def load_array(path, name, dtypes=(numpy.float32,)):
    try:
        loaded = numpy.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise Failed(f"{path} is not a NumPy file: {one_line(error)}") from None
    if isinstance(loaded, numpy.lib.npyio.NpzFile):
        key = name if name in loaded.files else loaded.files[0] if len(loaded.files) == 1 else None
        expect(key is not None, f"{path}: expected an array named '{name}', found {', '.join(loaded.files)}")
        loaded = loaded[key]
    expected = " or ".join(numpy.dtype(dtype).name for dtype in dtypes)
    expect(loaded.dtype in dtypes, f"{path}: expected {expected}, found {loaded.dtype}")
    expect(numpy.isfinite(loaded).all(), f"{path}: has values that are not finite")
    return loaded


def dimensions(value):
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim]


def check_graph(path, strict_shapes):
    """The model with inferred shapes, after the checks that need no run."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:  # the checker raises errors of several modules
        raise Failed(f"onnx.checker refuses it: {one_line(error)}") from None
    # Without the tensors of a second file: with them the model may be larger than one message, and shapes need none.
    model = onnx.load(path, load_external_data=False)
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:
        raise Failed(f"shape inference fails: {one_line(error)}") from None
    inputs, outputs = ([value.name for value in values] for values in (model.graph.input, model.graph.output))
    expect(inputs == ["input"], f"expected the one input 'input', found {inputs}")
    expect(outputs == ["output"], f"expected the one output 'output', found {outputs}")
    if strict_shapes:
        known = {value.name: dimensions(value) for value in [*model.graph.value_info, *model.graph.output]}
        for node in model.graph.node:
            for name in filter(None, node.output):
                expect(name in known, f"shape inference gives no shape for '{name}' ({node.op_type})")
                # The batch is the only axis that may be open.
                expect(
                    all(isinstance(dim, int) for dim in known[name][1:]) and known[name][:1] != ["?"],
                    f"shape inference leaves '{name}' ({node.op_type}) at {known[name]}",
                )
    return model


def check_numbers(path, model, images, expected, batch_sizes, max_difference):
    shape = dimensions(model.graph.input[0])
    expect(len(shape) == 4, f"input: expected 4 axes, found {shape}")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    expect(images.dtype == dtype, f"the images are {images.dtype}, but the model takes {dtype}")
    expect(list(images.shape[1:]) == shape[1:], f"the images are {list(images.shape)}, but the model's input is {shape}")
    classes = dimensions(model.graph.output[0])
    expect(list(expected.shape) == [len(images), *classes[1:]], f"expected has shape {list(expected.shape)}, but the model gives {classes} for {len(images)} images")
    if isinstance(shape[0], int):
        batch_sizes = [shape[0]]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Failed(f"onnxruntime cannot load it: {one_line(error)}") from None

    largest = 0.0
    for size in batch_sizes:
        for start in range(0, len(images), size):
            # The last batch is filled up from the front: a batch size under test is always that size.
            rows = [(start + offset) % len(images) for offset in range(size)]
            try:
                (found,) = session.run(["output"], {"input": images[rows]})
            except Exception as error:
                raise Failed(f"onnxruntime cannot run a batch of {size}: {one_line(error)}") from None
            expect(found.shape == expected[rows].shape, f"batch of {size}: onnxruntime gives shape {list(found.shape)}, expected {list(expected[rows].shape)}")
            expect(numpy.isfinite(found).all(), f"batch of {size}: onnxruntime gives values that are not finite")
            difference = numpy.abs(found.astype(numpy.float64) - expected[rows])
            largest = max(largest, float(difference.max()))
            if largest > max_difference:
                row, column = numpy.unravel_index(difference.argmax(), difference.shape)
                raise Failed(
                    f"batch of {size}, image {rows[row]}, output {column}: onnxruntime gives {found[row, column]:.7g}, "
                    f"expected {expected[rows][row, column]:.7g}; the difference {difference[row, column]:.2e} is over {max_difference:.0e}"
                )
            # With the numbers that near, another winner is only possible between equals.
            for row, winner in zip(rows, found.argmax(axis=1)):
                gap = expected[row].max() - expected[row][winner]
                expect(gap <= 2 * max_difference, f"batch of {size}, image {row}: class {winner} wins, expected {expected[row].argmax()}")
    return largest, batch_sizes


def check(arguments):
    model = check_graph(arguments.file, arguments.strict_shapes)
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    about = f"opset {opset}, {len(model.graph.node)} nodes"
    if arguments.images is None:
        return about
    images = load_array(arguments.images, "images", (numpy.float32, numpy.uint8))
    expected = load_array(arguments.expected, "expected")
    expect(len(images) > 0, f"{arguments.images}: has no images")
    largest, sizes = check_numbers(arguments.file, model, images, expected, arguments.batch_sizes, arguments.max_difference)
    return f"{len(images)} images in batches of {', '.join(map(str, sizes))}; largest difference {largest:.2e}; {about}"


def sizes(text):
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise ValueError
    return numbers


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", help="the model (.onnx)")
    parser.add_argument("--images", metavar="FILE", help="what goes in (.npy or .npz)")
    parser.add_argument("--expected", metavar="FILE", help="what must come out (.npy)")
    parser.add_argument("--max-difference", type=float, default=1e-4, metavar="X", help="largest absolute difference (default: 1e-4)")
    parser.add_argument("--batch-sizes", type=sizes, default=[1, 3, 8], metavar="N,N", help="batch sizes to try (default: 1,3,8; a model with a fixed batch is run with that)")
    parser.add_argument("--strict-shapes", action="store_true", help="also: shape inference leaves no axis but the batch unknown")
    arguments = parser.parse_args(argv)
    if (arguments.images is None) != (arguments.expected is None):
        parser.error("--images and --expected belong together")
    for path in filter(None, (arguments.file, arguments.images, arguments.expected)):
        if not os.path.isfile(path):
            parser.error(f"no such file: {path}")
    try:
        print(f"OK {arguments.file}: {check(arguments)}")
    except Failed as failure:
        print(f"FAIL {arguments.file}: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
