"""The ``tensorrt`` and ``tensorrt-rtx`` backends: one engine for the whole program, or an error that says why not.

torch-TensorRT's converters write the network; TensorRT builds it; ``program`` runs it through TensorRT's own bindings.
Nothing here imports ``torch_tensorrt`` or ``tensorrt`` before it must: neither imports without NVIDIA's libraries.
"""
