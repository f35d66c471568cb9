"""Time of a fully-connected layer by how its kernel is stored: dense, as non-zeros per row, as blocks of four per row.

Command: python -m benchmarks.sparse_dense [--runs=400] [--zeros 0.9 0.97 ...]
Random masks, of single weights and of blocks of four along the input. "chosen" is the form that `sparsify` takes. One
image, one thread, files timed in turn. Writes benchmarks/results/sparse_dense/x86.json.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

from harp_tf.deploy import TFLiteClassifier, latency, sparsify, to_tflite
from harp_tf.deploy.encoding import encode_rows
from harp_tf.deploy.flatbuffer import add_buffer, kernel_readers, read_model, weight_tensors, write_model
from harp_tf.deploy.sparse_dense import BLOCK, compute_sparse
from harp_tf.run_dir import surroundings

SIZES = ((512, 12), (256, 256), (1152, 128), (1024, 1024), (4096, 1024))  # inputs and outputs


def layer(inputs: int, outputs: int, zeros: float, block: int) -> keras.Model:
    """One fully-connected layer with a random mask of single weights or of blocks along the input."""
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((inputs,)), layers.Dense(outputs, activation="relu")])
    mask = np.repeat(rng.random((inputs // block, outputs)) >= zeros, block, axis=0)
    model.layers[0].kernel.assign(rng.normal(0, 0.1, (inputs, outputs)) * mask)
    return model


def stored(dense: bytes, block: int) -> bytes:
    """A dense file with its kernel stored as `encode_rows` does, whether that is faster or not."""
    file = read_model(dense)
    (weight,) = weight_tensors(file)
    tensor, readers = file.subgraphs[0].tensors[weight.index], kernel_readers(file, weight)
    kernel = file.buffers[tensor.buffer].data.view(np.float32).reshape(tuple(tensor.shape))
    values, tensor.sparsity = encode_rows(kernel, block)
    tensor.buffer = add_buffer(file, values)
    compute_sparse(file, readers)
    return write_model(file)


def measure(inputs: int, outputs: int, zeros: float, block: int, runs: int) -> dict:
    """Bytes, times and the largest difference of an output to Keras, of all forms of one layer."""
    model = layer(inputs, outputs, zeros, block)
    dense = to_tflite(model)
    forms = {"dense": dense, "rows": stored(dense, 1), "blocks": stored(dense, BLOCK)}
    chosen = sparsify(dense)
    name = next((form for form, data in forms.items() if data == chosen), "unpacked when loaded")
    images = np.random.default_rng(1).normal(size=(5, inputs)).astype(np.float32)
    wanted = model(images).numpy()
    errors = [
        np.abs(TFLiteClassifier(data, xnnpack=xnnpack).logits(images[:count]) - wanted[:count]).max()
        for data in forms.values()
        for xnnpack in (True, False)
        for count in (1, 5)
    ]
    times = latency(forms, threads=(1,), runs=runs)
    return {
        "inputs": inputs,
        "outputs": outputs,
        "zeros": zeros,
        "mask": "single weights" if block == 1 else f"blocks of {block}",
        "chosen": name,
        "largest_difference": float(max(errors)),
        "forms": {
            row.name: {"median_us": 1000 * row.median_ms, "ratio": row.ratio, "file_bytes": len(forms[row.name])}
            for row in times
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--zeros", type=float, nargs="+", default=[0.7, 0.9, 0.95, 0.97, 0.99, 0.997])
    arguments = parser.parse_args()
    rows = []
    for inputs, outputs in SIZES:
        for block in (1, BLOCK):
            for zeros in arguments.zeros:
                row = measure(inputs, outputs, zeros, block, arguments.runs)
                ratios = ", ".join(f"{name} {form['ratio']:.2f}" for name, form in row["forms"].items())
                print(f"{inputs} x {outputs}, {zeros:.1%} zeros, {row['mask']}: {ratios}; chosen: {row['chosen']}")
                rows.append(row)
    record = {
        "command": " ".join(["python -m benchmarks.sparse_dense", *sys.argv[1:]]),
        "load_average": round(os.getloadavg()[0], 2),
        **surroundings(),
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / "sparse_dense" / "x86.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
