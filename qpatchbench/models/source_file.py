"""A source file imported from where it lies, with the modules beside it, and without their names staying taken.

Two networks may each have a `blocks.py` beside them: such modules are known to Python only while their own file is
imported or called.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from qpatchbench.errors import PluginError, suggestion
from qpatchbench.importing import reason
from qpatchbench.origin import file_hash, files_of

_IMPORTED: dict[str, ModuleType] = {}  # by hash of the source: an edited file is imported again
_BESIDE: dict[str, dict[str, ModuleType]] = {}  # modules that were imported from beside it


def function_of(file: Path, name: str, who: str) -> Callable[..., Any]:
    """What `name` is in a source file, which is imported once for every state of its code.

    Args:
        file: a .py file that is there.
        name: of a function or class.
        who: what messages begin with.

    Raises:
        PluginError: it cannot be imported, names file and line; or has nothing of that name that can be called.
    """
    key = _key(file)
    if key not in _IMPORTED:
        with source_beside(file, who):
            _IMPORTED[key] = _imported(file, key, who)
    module = _IMPORTED[key]
    found = getattr(module, name, None)
    if not callable(found):
        own = [each for each, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise PluginError(f"{who}: expected a function {name} in {file}, found none.{suggestion(name, own)}")
    return found  # type: ignore[no-any-return]  # callable, as was just seen


@contextlib.contextmanager
def source_beside(file: Path, who: str) -> Iterator[None]:
    """Inside, the modules of the file's folder can be imported, also by code that runs later.

    Raises:
        PluginError: a module of another place has the name of one of them; or the code raised, names file and line.
    """
    folder, key = str(file.parent.resolve()), _key(file)
    names = {_top_name(path, file) for path in files_of(file) if path.suffix == ".py" and path != file}
    for name in sorted(names & set(sys.modules)):
        rival = getattr(sys.modules[name], "__file__", None) or "one that is built in"
        raise PluginError(f"{who}: expected the module {name} beside it, found its name taken by {rival}; rename it")
    sys.modules.update(_BESIDE.get(key, {}))
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{who}: {reason(_from(error, folder), file.stem, file)}") from error
    finally:
        sys.path.remove(folder)
        own = {name for name in sys.modules if name.partition(".")[0] in names}
        _BESIDE[key] = {name: sys.modules.pop(name) for name in own}


def _imported(file: Path, key: str, who: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(key, file.resolve())
    assert spec is not None, "a .py file always has a loader"
    assert spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[key]
        raise
    return module


def _from(error: BaseException, folder: str) -> BaseException:
    """The error with those steps of its way alone that begin in the folder: what led there is ours."""
    way = error.__traceback__
    while way is not None and not way.tb_frame.f_code.co_filename.startswith(folder):
        way = way.tb_next
    return error.with_traceback(way) if way is not None else error


def _key(file: Path) -> str:
    """The name under which a state of the source is imported."""
    return f"{file.stem}_{file_hash(file)}"


def _top_name(path: Path, file: Path) -> str:
    return Path(path.relative_to(file.parent).parts[0]).stem
