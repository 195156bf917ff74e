"""Names that a package finds when they are first used (PEP 562), so that importing the package imports no other.

Knows nothing of what they are."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def found_on_first_use(
    package: str, modules: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Makes the `__getattr__` and the `__dir__` of a package, which find its public names and its submodules.

    Args:
        package: The package's `__name__`.
        modules: Each submodule, such as "clone" or "longform.speech", and the names that the package has from it.

    Returns:
        The two functions, for the package's `__init__.py` to assign."""
    homes = {name: module for module, names in modules.items() for name in names}
    namespace = vars(sys.modules[package])

    def find(name: str) -> Any:
        try:
            module = import_module(f".{homes.get(name, name)}", package)
        except ModuleNotFoundError as error:
            if error.name != f"{package}.{name}":  # a package that a module of ours needs
                raise
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
        value = namespace[name] = getattr(module, name) if name in homes else module
        return value

    return find, lambda: sorted({*namespace, *homes})
