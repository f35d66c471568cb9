"""From a plain Keras model to a small .tflite file, checked against the model it came from."""

from harp_tf.deploy.convert import to_tflite
from harp_tf.deploy.export import ExportReport, export_tflite
from harp_tf.deploy.inspect import KernelCount, file_sizes, kernel_nonzeros
from harp_tf.deploy.runtime import TFLiteClassifier
from harp_tf.deploy.sparse import sparsify
from harp_tf.deploy.verify import Verification, verify

__all__ = [
    "ExportReport",
    "KernelCount",
    "TFLiteClassifier",
    "Verification",
    "export_tflite",
    "file_sizes",
    "kernel_nonzeros",
    "sparsify",
    "to_tflite",
    "verify",
]
