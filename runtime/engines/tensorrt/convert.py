"""From an exported program to TensorRT's network, by torch-TensorRT's lowering and converters, and to an engine.

The whole program becomes one network: what has no converter is an error that names it, never a piece left to torch.
torch-TensorRT's public functions build and at once load an engine, which takes a GPU; the same steps are taken one by
one here, so that every one of them but the last runs, and is tested, without one. Import only where ``torch_tensorrt``
has been imported (``native``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from runtime.engines.lint import lint
from runtime.engines.tensorrt.fit import fit
from runtime.engines.tensorrt.native import without_gpu
from runtime.engines.tensorrt.options import OPTIONS, check_options
from runtime.errors import EngineError

#: Where torch-TensorRT forwards what TensorRT itself says.
_LOGGER = "torch_tensorrt [TensorRT Conversion Context]"
#: Said without harm: two layers of one name, and an attempt to fold a constant on a GPU that is not there.
_HARMLESS = ("ILayer::setName", "catchCudaError")


@dataclass(frozen=True)
class Network:
    """``interpreter``: torch-TensorRT's, holding the finished network and its builder."""

    interpreter: Any

    @property
    def definition(self) -> Any:
        """TensorRT's INetworkDefinition."""
        return self.interpreter.ctx.net

    def bindings(self) -> dict[str, list[dict[str, Any]]]:
        """Return {"inputs", "outputs"}: name, shape and dtype of each in the program's order, as TensorRT sees them.

        Raises ``EngineError`` where TensorRT could not infer an output's shape.
        """
        net = self.definition
        inputs = [_binding(net.get_input(index)) for index in range(net.num_inputs)]
        return {"inputs": inputs, "outputs": [_binding(net.get_output(index)) for index in range(net.num_outputs)]}


def converted(program: ExportedProgram) -> Network:
    """Return the network of a program: fitted, linted, lowered, converted; ``EngineError`` names what is in the way."""
    fitted = fit(program)
    findings = lint(fitted)
    if findings:
        raise EngineError(f"tensorrt: {len(findings)} operation(s) it cannot be trusted with: {_listed(findings)}")
    return network(lowered(fitted))


def settings() -> Any:
    """Return torch-TensorRT's settings for ``OPTIONS``, every name checked."""
    from torch_tensorrt.dynamo import CompilationSettings, convert_exported_program_to_serialized_trt_engine

    check_options(OPTIONS, convert_exported_program_to_serialized_trt_engine)
    check_options(OPTIONS, CompilationSettings)
    return CompilationSettings(**OPTIONS)


def lowered(program: ExportedProgram) -> GraphModule:
    """Return the program after torch-TensorRT's decompositions and passes: the graph its converters see."""
    from torch_tensorrt.dynamo.lowering import get_decompositions, post_lowering, pre_export_lowering

    with without_gpu(), torch.no_grad():
        chosen = settings()
        program = pre_export_lowering(program, chosen)
        table = get_decompositions(
            chosen.enable_experimental_decompositions, chosen.decompose_attention, chosen.use_distributed_mode_trace
        )
        program = program.run_decompositions(table)
        module: GraphModule = post_lowering(program.module(), chosen)
    return module


def unsupported(module: GraphModule) -> dict[str, str]:
    """Return operation -> why, for each one of a lowered graph that no converter takes."""
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS
    from torch_tensorrt.dynamo.conversion._ConverterRegistry import DYNAMO_ATEN_CONVERTERS

    with without_gpu():
        DYNAMO_CONVERTERS.set_compilation_settings(settings())
        found: dict[str, str] = {}
        for node in module.graph.nodes:
            if node.op != "call_function":
                continue
            packet = DYNAMO_CONVERTERS.get(node)
            if packet is None:
                found[str(node.target)] = "its arguments" if DYNAMO_ATEN_CONVERTERS.get(node.target) else "no converter"
            elif packet[2]["requires_output_allocator"]:
                found[str(node.target)] = "a result whose size depends on the data"
    return found


def network(module: GraphModule) -> Network:
    """Convert a lowered graph; ``EngineError`` names operations that do not convert, or has TensorRT's own words."""
    missing = unsupported(module)
    if missing:
        raise EngineError(
            f"tensorrt: expected a converter for every operation, found {_listed(missing.items())}: write them "
            "otherwise (docs/tensorrt.md), or set worker.backend to inductor"
        )
    _check_outputs(module)
    from torch_tensorrt import Input
    from torch_tensorrt.dynamo.conversion._conversion import infer_module_output_dtypes
    from torch_tensorrt.dynamo.conversion._TRTInterpreter import TRTInterpreter

    with without_gpu(), torch.no_grad():
        inputs = [Input(shape=tuple(each.shape), dtype=each.dtype) for each in _inputs(module)]
        interpreter = TRTInterpreter(
            module, inputs, output_dtypes=infer_module_output_dtypes(module), compilation_settings=settings()
        )
        with _said() as said:
            try:
                interpreter._construct_trt_network_def()  # noqa: SLF001 - run() would go on and load the engine
            except Exception as error:
                raise EngineError(f"tensorrt: conversion failed: {_listed(said) or _named(error)}") from error
    if said:
        raise EngineError(f"tensorrt: TensorRT refuses the network: {_listed(said)}")
    made = Network(interpreter)
    made.bindings()
    return made


def plan(made: Network, capabilities: Sequence[str] = ()) -> bytes:
    """Build the network and return the serialised engine; ``capabilities``: for TensorRT-RTX, such as "SM89".

    Raises ``EngineError`` with TensorRT's words.
    """
    import tensorrt

    interpreter = made.interpreter
    with without_gpu():
        config = interpreter._populate_trt_builder_config()  # noqa: SLF001 - the options, as torch-TensorRT says them
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            config.set_compute_capability(getattr(tensorrt.ComputeCapability, name), index)
    with _said() as said:
        blob = interpreter.builder.build_serialized_network(made.definition, config)
    if blob is None:
        raise EngineError(f"tensorrt: the engine could not be built: {_listed(said) or 'no reason given'}")
    return bytes(blob)


def _inputs(module: GraphModule) -> Iterator[Tensor]:
    for node in module.graph.nodes:
        if node.op == "placeholder":
            yield node.meta["val"]


def _check_outputs(module: GraphModule) -> None:
    """Refuse outputs that never were computed, or are one tensor twice: converters drop or bypass them."""
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    returned: list[Node] = []
    torch.fx.map_arg(output.args[0], returned.append)
    passed = [node.name for node in returned if node.op != "call_function"]
    if passed or len(set(returned)) != len(returned):
        raise EngineError(
            f"tensorrt: expected different, computed outputs, found {', '.join(node.name for node in returned)}: "
            "return a tensor of its own for each"
        )


def _binding(tensor: Any) -> dict[str, Any]:
    try:
        shape = [int(side) for side in tensor.shape]
    except ValueError as error:  # how TensorRT says that the network is invalid: a shape of length -1
        raise EngineError(f"tensorrt: TensorRT could not infer the shape of {tensor.name}") from error
    return {"name": tensor.name, "shape": shape, "dtype": str(tensor.dtype).rpartition(".")[2].lower()}


@contextmanager
def _said() -> Iterator[list[str]]:
    """Collect what TensorRT complains about instead of printing it."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if not any(each in text for each in _HARMLESS):
                lines.append(text)

    logger, collector = logging.getLogger(_LOGGER), Collector(logging.ERROR)
    before = logger.propagate, logger.level
    logger.propagate, logger.level = False, logging.ERROR
    logger.addHandler(collector)
    try:
        yield lines
    finally:
        logger.removeHandler(collector)
        logger.propagate, logger.level = before


def _listed(values: Any) -> str:
    """Return the first few of findings, complaints or (operation, why) pairs as one line."""
    texts = [f"{each[0]} ({each[1]})" if isinstance(each, tuple) else " ".join(str(each).split()) for each in values]
    more = f"; and {len(texts) - 3} more" if len(texts) > 3 else ""  # noqa: PLR2004 - what one line holds
    return "; ".join(texts[:3]) + more


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
