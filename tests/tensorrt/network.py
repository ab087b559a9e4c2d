"""Evaluates a TensorRT network on the CPU, layer by layer, to see whether the converters wrote what the program says.

Every value is checked against the shape and format TensorRT itself inferred for it.
"""

import torch


class NetworkOnCpu:
    """``library``: TensorRT's module. ``definition``: its INetworkDefinition. ``layers``: the module of that name."""

    def __init__(self, library, definition, layers):
        self.library, self.definition, self.layers = library, definition, layers
        kinds = library.DataType
        self.dtypes = {
            kinds.FLOAT: torch.float32, kinds.HALF: torch.float16, kinds.BF16: torch.bfloat16,
            kinds.INT8: torch.int8, kinds.INT32: torch.int32, kinds.INT64: torch.int64, kinds.BOOL: torch.bool,
            kinds.UINT8: torch.uint8,
        }  # fmt: skip

    def __call__(self, *inputs):
        """Return the outputs for inputs in the network's order."""
        net, values = self.definition, {}
        for index, value in enumerate(inputs):
            tensor = net.get_input(index)
            assert (value.dtype, tuple(value.shape)) == (self.dtypes[tensor.dtype], tuple(tensor.shape)), tensor.name
            values[tensor.name] = value
        assert net.num_inputs == len(inputs)
        left = {}
        waiting = [net.get_layer(index) for index in range(net.num_layers)]
        for layer in waiting:
            for name in read_by(layer):
                left[name] = left.get(name, 0) + 1
        results = [net.get_output(index).name for index in range(net.num_outputs)]
        while waiting:  # in the order they were made, which is not always one in which they can be evaluated
            later = []
            for layer in waiting:
                names = read_by(layer)
                if any(name not in values for name in names):
                    later.append(layer)
                    continue
                self._evaluate(layer, values)
                for name in names:  # banks are large: keep nothing that nobody reads any more
                    left[name] -= 1
                    if not left[name] and name not in results:
                        del values[name]
            assert len(later) < len(waiting), "a cycle, or an input that nobody computes"
            waiting = later
        return [values[name] for name in results]

    def _evaluate(self, layer, values):
        kind = self.layers.word(layer.type)
        inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
        tensors = [None if each is None else values[each.name] for each in inputs]
        odd = {"ELEMENTWISE": "ElementWise", "TOPK": "TopK", "SOFTMAX": "SoftMax"}
        name = odd.get(kind) or "".join(part.capitalize() for part in kind.split("_"))
        layer.__class__ = getattr(self.library, f"I{name}Layer")  # how the bindings give access to a kind's own fields
        found = self._value(kind, layer, tensors)
        for index, value in enumerate(found if isinstance(found, tuple) else (found,)):
            tensor = layer.get_output(index)
            dtype = self.dtypes[tensor.dtype]
            if kind == "TOPK" and index == 1:
                value = value.to(dtype)  # noqa: PLW2901 - torch's indices are int64
            shape = self.layers.sides(tensor.shape)
            assert value.dtype == dtype, f"{layer.name}: {value.dtype}, TensorRT says {dtype}"
            assert shape is None or tuple(value.shape) == shape, f"{layer.name}: {tuple(value.shape)}, not {shape}"
            values[tensor.name] = value

    def _value(self, kind, layer, tensors):
        dtype = self.dtypes[layer.get_output(0).dtype]
        if kind == "CONSTANT":
            shape = self.layers.sides(layer.shape)
            value = self.layers.weights(layer.weights, dtype)
            return torch.empty(shape, dtype=dtype) if value is None else value.reshape(shape)
        if kind == "CAST":
            return tensors[0].to(self.dtypes[layer.to_type])
        if kind not in self.layers.LAYERS:
            raise self.layers.NotEvaluatedError(kind)
        return self.layers.LAYERS[kind](layer, tensors)


def read_by(layer):
    """Return the names of what a layer reads."""
    inputs = (layer.get_input(index) for index in range(layer.num_inputs))
    return [each.name for each in inputs if each is not None]
