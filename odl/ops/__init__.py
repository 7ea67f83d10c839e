"""The operators, one a file. Importing this package imports every one of them and so fills the registry.

A new operator is a file here and a template of the same name under `templates/kernels/`; nothing else names it.
Files that begin with an underscore are shared helpers, not operators.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    if not _module.name.startswith("_"):
        import_module(f"{__name__}.{_module.name}")
