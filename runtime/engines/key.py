"""The digest of a whole exported program: every operation with all its arguments, every shape, every constant's bytes.

torch-TensorRT's own cache key leaves the arguments out (clamp to 6 and clamp to 1 share an engine); this one must not.
What it does not know how to write down unmistakably is refused instead of being hashed by its ``repr``.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

from runtime.engines.target import Target, digest_of
from runtime.errors import EngineError

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
#: torch's own enumerations, whose texts are their names.
_NAMED = (torch.dtype, torch.device, torch.layout, torch.memory_format)


def engine_key(program: ExportedProgram, target: Target, options: Mapping[str, Any]) -> str:
    """Return the key of the engine for ``program`` on ``target``, compiled with the backend's ``options`` (JSON)."""
    return digest_of({"program": digest_program(program), "target": target.marks(), "options": dict(options)})


def digest_program(program: ExportedProgram) -> str:
    """Return the sha256 of an exported program, the same in every process: node and argument names do not count.

    Raises ``EngineError`` for an argument of a kind that cannot be written down.
    """
    digest = hashlib.sha256()
    signature = program.graph_signature
    names = [(spec.kind.name, spec.target) for spec in signature.input_specs]
    _feed(digest, "signature", [kind for kind, _ in names], [spec.kind.name for spec in signature.output_specs])
    _feed_graph(digest, program.graph_module)
    for kind, target in names:
        if kind != "USER_INPUT":
            value = program.state_dict.get(target) if target else None
            value = program.constants.get(target) if value is None and target else value
            _feed(digest, kind)
            _feed_constant(digest, value, str(target))
    return digest.hexdigest()


def _feed_graph(digest: Any, module: torch.fx.GraphModule) -> None:
    numbers = {node: number for number, node in enumerate(module.graph.nodes)}
    for node in module.graph.nodes:
        _feed(digest, "node", node.op)
        if node.op == "get_attr":
            held = operator.attrgetter(str(node.target))(module)
            if isinstance(held, torch.fx.GraphModule):
                _feed_graph(digest, held)
            else:
                _feed_constant(digest, held, str(node.target))
        elif node.op == "call_function":
            _feed(digest, _name(node.target))
        _feed(digest, _plain(node.args, numbers), _plain(node.kwargs, numbers))
        _feed(digest, _layout(node.meta.get("val")))


def _plain(value: Any, numbers: Mapping[torch.fx.Node, int]) -> Any:
    """Return an argument as a structure of texts that no other argument has."""
    if isinstance(value, torch.fx.Node):
        return ("node", numbers[value])
    if isinstance(value, _PLAIN):
        return (type(value).__name__, repr(value))
    if isinstance(value, _NAMED):
        return ("torch", str(value))
    if isinstance(value, Mapping):
        return ("map", [(str(key), _plain(each, numbers)) for key, each in value.items()])
    if isinstance(value, slice):
        return ("slice", [_plain(each, numbers) for each in (value.start, value.stop, value.step)])
    if isinstance(value, Sequence):
        return ("list", [_plain(each, numbers) for each in value])
    raise EngineError(
        f"engine key: expected an argument that can be written down, found {type(value).__name__} {str(value)[:80]}: "
        "this program has no safe key; run this detector with backend eager, and report it"
    )


def _layout(value: Any) -> Any:
    """Return shape, dtype, strides and device of a node's result, nested as the result is."""
    if isinstance(value, torch.Tensor):
        sides = [list(map(str, each)) for each in (value.shape, value.stride())]
        return ("tensor", *sides, str(value.dtype), value.device.type)
    if isinstance(value, (tuple, list)):
        return [_layout(each) for each in value]
    return type(value).__name__


def _name(target: Callable[..., Any] | str) -> str:
    if isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - the only name of an overload's class
        return str(target)  # aten.clamp.default
    if isinstance(target, str):
        return target
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', type(target).__name__)}"


def _feed_constant(digest: Any, value: Any, name: str) -> None:
    if not isinstance(value, torch.Tensor):
        raise EngineError(f"engine key: expected constant {name} to be a tensor, found {type(value).__name__}")
    _feed(digest, _layout(value))
    data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(data.numpy().tobytes())


def _feed(digest: Any, *values: Any) -> None:
    # The repr of nested tuples, lists and texts is unambiguous; the zero ends it.
    digest.update(repr(values).encode() + b"\0")
