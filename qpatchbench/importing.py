"""Importing code from outside; what goes wrong is said with the plugin, the file and the line.

Imports no torch and nothing of this package but its errors.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from qpatchbench.errors import PluginError, suggestion


def imported(name: str, who: str) -> ModuleType:
    """Import the module `name`.

    Args:
        name: dotted name of a module on the Python path.
        who: what the message begins with, for example "plugin loud cannot be imported".

    Raises:
        PluginError: it cannot be imported; names file and line.
    """
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{who}: {reason(error, name)}") from error


def imported_file(path: Path, who: str) -> ModuleType:
    """Import the .py file `path` under its stem, so that "stem:Class" in its entries can be imported.

    Raises:
        PluginError: there is no such file, another module has that name, or it cannot be imported.
    """
    if not path.is_file():
        raise PluginError(f"{who}: there is no file {path}")
    _refuse_rival(path, who)
    if path.stem in sys.modules:  # given twice
        return sys.modules[path.stem]
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None, "a .py file always has a loader"
    assert spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[path.stem]
        raise PluginError(f"{who}: {reason(error, path.stem, path)}") from error
    return module


def component_class(target: str, who: str) -> type[Any]:
    """The class that "module:Class" names.

    Raises:
        PluginError: its module cannot be imported, or has no such class.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise PluginError(f"{who}: expected module:Class as its target, found {target!r}")
    module = imported(module_name, f"{who} cannot be imported from {target}")
    found = getattr(module, attribute, None)
    if not isinstance(found, type):
        classes = [name for name, value in vars(module).items() if _is_own(value, module)]
        what = "none" if found is None else f"{type(found).__name__} {attribute}"
        near = suggestion(attribute, classes) if classes else " The module defines no class."
        place = module.__file__ or module_name
        raise PluginError(f"{who}: expected a class {attribute} in {place}, found {what}.{near}")
    return found


def require_complete(component: type[Any], who: str) -> None:
    """Refuse an abstract class.

    Raises:
        PluginError: says which methods it misses.
    """
    missing = sorted(getattr(component, "__abstractmethods__", ()))
    if missing:
        what = f"the {'method' if len(missing) == 1 else 'methods'} {', '.join(missing)}"
        raise PluginError(f"{who}: expected {what} in {component.__name__} ({place_of(component)}), found none")


def place_of(component: type[Any]) -> str:
    """File and line of a class, as "file:line"; its module's name where there is no source."""
    try:
        return f"{inspect.getsourcefile(component)}:{inspect.getsourcelines(component)[1]}"
    except (OSError, TypeError):
        return component.__module__


def reason(error: BaseException, name: str, path: Path | None = None) -> str:
    """Why a module cannot be imported: "file:line: Error: message", the line being the plugin's own.

    Args:
        error: what its import raised.
        name: of the module.
        path: its file, where that is known.
    """
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        return f"there is no module {error.name!r} on the Python path"
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    place = _place(error, name) or (f"{path}: " if path else "")
    return f"{place}{type(error).__name__}: {text}" if text else f"{place}{type(error).__name__}"


def _place(error: BaseException, name: str) -> str:
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}:{error.lineno}: "
    machinery = {__file__, importlib.__file__}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in machinery and not frame.filename.startswith("<frozen")
    ]
    if not frames:
        return ""
    first = Path(frames[0].filename)
    # An error may be raised deep inside a library that the plugin calls; the plugin's own line is what helps.
    whole_folder = "." in name or first.name == "__init__.py"
    own = [
        frame
        for frame in frames
        if Path(frame.filename) == first or (whole_folder and first.parent in Path(frame.filename).parents)
    ]
    return f"{own[-1].filename}:{own[-1].lineno}: "


def _refuse_rival(path: Path, who: str) -> None:
    """A file must not take the name of another module: every later import of that one would get the file."""
    try:
        spec = importlib.util.find_spec(path.stem)
    except (ImportError, ValueError):
        spec = None
    rival = getattr(sys.modules.get(path.stem), "__file__", None) or (spec.origin if spec is not None else None)
    if rival is not None and (not Path(rival).exists() or Path(rival).resolve() != path.resolve()):
        raise PluginError(f"{who}: expected a file name that no other module has, found that of {rival}; rename it")


def _is_own(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__
