"""From a plain Keras model to a small .tflite file, checked against the model it came from."""

from harp_tf.deploy.arm_rewrite import rewrite_for_arm
from harp_tf.deploy.arm_sparse import Finding, arm_sparse_report
from harp_tf.deploy.bench import Latency, latency, litert_benchmark
from harp_tf.deploy.convert import to_tflite
from harp_tf.deploy.export import ExportReport, export_tflite
from harp_tf.deploy.inspect import KernelCount, file_sizes, kernel_nonzeros, memory_bytes
from harp_tf.deploy.kit import check_kit, write_kit
from harp_tf.deploy.quantize import WEIGHT_TYPES, quantize_weights
from harp_tf.deploy.runtime import TFLiteClassifier
from harp_tf.deploy.sparse import sparsify
from harp_tf.deploy.variants import FORMS, Trial, Variant, export_variants
from harp_tf.deploy.verify import Verification, verify

__all__ = [
    "FORMS",
    "WEIGHT_TYPES",
    "ExportReport",
    "Finding",
    "KernelCount",
    "Latency",
    "TFLiteClassifier",
    "Trial",
    "Variant",
    "Verification",
    "arm_sparse_report",
    "check_kit",
    "export_tflite",
    "export_variants",
    "file_sizes",
    "kernel_nonzeros",
    "latency",
    "litert_benchmark",
    "memory_bytes",
    "quantize_weights",
    "rewrite_for_arm",
    "sparsify",
    "to_tflite",
    "verify",
    "write_kit",
]
