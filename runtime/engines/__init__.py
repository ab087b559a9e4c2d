"""Compiled engines: one exported program per detector and frame shape, compiled ahead, cached, proven before use.

``runtime.engines.engine`` runs a frame through the eager graph or through a program from here, behind one call. Nothing
here compiles while a station inspects: `edgead build` does, and `edgead run` before it starts the host. A worker loads
what was built and approved for its template (``choice``), or answers eagerly.

``target``, ``folder``, ``cache``, ``approvals`` and ``ahead`` never import torch: the command line asks them whether
anything is to be built at all. The other files do.
"""
