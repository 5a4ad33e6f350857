"""Gradients added up: over tensors, shards, micro-batches and the wire, with bits that depend on the numbers alone.

Every sum is formed in float32 along one fixed tree (sums of squares: in float64 over fixed lanes), so a result depends
neither on the number of threads, nor on the CPU, nor on how the work is cut or spread. Dense CPU tensors of float32,
bfloat16 and float16 are read and written by kernels in one pass; other tensors by torch's operations, with the same
definition.
"""

from gaudi3_rt.reduce import _ops  # noqa: F401  (registers operators)
from gaudi3_rt.reduce._accumulate import accumulate_
from gaudi3_rt.reduce._buckets import pack_, unpack_
from gaudi3_rt.reduce._compress import compress, compressed_numel, decompress
from gaudi3_rt.reduce._norms import all_finite, sum_squares
from gaudi3_rt.reduce._reducer import GradientReducer
from gaudi3_rt.reduce._shards import ReducedShards, reduce_shards, reduce_shards_measured
from gaudi3_rt.reduce._tree import merge_counts, node_cover

__all__ = [
    "GradientReducer",
    "ReducedShards",
    "accumulate_",
    "all_finite",
    "compress",
    "compressed_numel",
    "decompress",
    "merge_counts",
    "node_cover",
    "pack_",
    "reduce_shards",
    "reduce_shards_measured",
    "sum_squares",
    "unpack_",
]
