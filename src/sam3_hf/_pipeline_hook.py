"""Registers the task "concept-segmentation" as soon as, and only if, `transformers.pipelines` is imported.

That module takes seconds to import, and most programs never need it. So `import sam3_hf` does not import it, but leaves
a finder in `sys.meta_path` that acts when somebody else does.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

__all__ = ["install"]

_TARGET = "transformers.pipelines"


def install() -> None:
    """Registers the task now if `transformers.pipelines` is loaded, and in any case whenever it is loaded (again)."""
    if not any(isinstance(finder, _PipelinesFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PipelinesFinder())
    if _TARGET in sys.modules:
        _register()


def _register() -> None:
    # Where sam3_hf.pipelines itself is what imports transformers.pipelines it is still empty here; its last line
    # registers the task.
    register = getattr(importlib.import_module("sam3_hf.pipelines"), "register", None)
    if register is not None:
        register()


class _PipelinesFinder(importlib.abc.MetaPathFinder):
    """Finds `transformers.pipelines` as the other finders do, and has its loader register the task afterwards.

    It stays in place after the first import, so that `importlib.reload`, which makes a new registry, keeps the task.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _TARGET:
            return None
        for finder in sys.meta_path:
            find_spec = None if finder is self else getattr(finder, "find_spec", None)
            spec = find_spec(fullname, path, target) if find_spec else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _RegisteringLoader(spec.loader)
                return spec
        return None


class _RegisteringLoader(importlib.abc.Loader):
    """Loads a module with `loader`, then registers the task; all else (source, resources) is `loader`'s own."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register()

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":  # not yet set, as while being copied: looking it up here would never end
            raise AttributeError(name)
        return getattr(self._loader, name)
