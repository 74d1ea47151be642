"""transformers' table of its models, kept beside its bytecode.

At every import transformers reads the source of all its models, 2,400 files of 46 MB, and that
twice, to find the names that each has: 0.7 s of an engine's start, and far more where they are not
in memory. Like bytecode the table is written beside what it is made of, and holds as long as no
file has another size or time; where nothing can be written, it is made once a process.
"""

import contextlib
import functools
import hashlib
import json
import os
import sys
import tempfile

FILE = "qlaunch_model_listing.json"
_MAKER = "create_import_structure_from_path"


def keep(utils):
    """Have transformers' `import_utils` read its models' names from the table."""
    make = getattr(utils, _MAKER, None)
    if make is None:
        return  # of another age
    package = os.path.dirname(os.path.dirname(os.path.abspath(utils.__file__)))
    models = os.path.join(package, "models")
    listing = functools.lru_cache(maxsize=1)(lambda: _listing(models, utils.__file__, make))

    @functools.wraps(make)
    def made(module_path):
        path = os.fspath(module_path)
        folder = os.path.dirname(path) if os.path.isfile(path) else path
        return listing() if folder == models else make(module_path)

    setattr(utils, _MAKER, made)


def _listing(models, maker, make):
    """What `make` finds in the folder `models`, by its table or by itself."""
    table = os.path.join(models, "__pycache__", FILE)
    try:
        stamp = _stamp(models, maker)
    except OSError:
        return make(models)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        with open(table, encoding="utf-8") as file:
            kept = json.load(file)
        if kept["stamp"] == stamp:
            return _read(kept["listing"])
    found = make(models)
    if not sys.dont_write_bytecode:
        # Read-only, full, or not the shape that is known here.
        with contextlib.suppress(OSError, TypeError, AttributeError):
            text = json.dumps({"stamp": stamp, "listing": _written(found)})
            if _read(json.loads(text)["listing"]) == found:
                _write(table, text)
    return found


def _stamp(models, maker):
    """Changes with every file that the table is made of, and with what makes it."""
    digest = hashlib.blake2b(digest_size=16)
    folders = [models]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if entry.name == "__pycache__":
                    continue
                if entry.is_dir():  # its own time changes when bytecode comes into it
                    folders.append(entry.path)
                else:
                    _add(digest, entry.path, entry.stat())
    _add(digest, maker, os.stat(maker))
    return digest.hexdigest()


def _add(digest, path, seen):
    digest.update(f"{path}\0{seen.st_size}\0{seen.st_mtime_ns}\n".encode())


def _written(node):
    """A folder's names: by subfolder (text), and by what is needed for them (a frozenset)."""
    return {
        "folders": {key: _written(each) for key, each in node.items() if isinstance(key, str)},
        "needs": [
            [sorted(key), {module: sorted(names) for module, names in each.items()}]
            for key, each in node.items()
            if not isinstance(key, str)
        ],
    }


def _read(written):
    folders = {key: _read(each) for key, each in written["folders"].items()}
    needs = {
        frozenset(key): {module: set(names) for module, names in each.items()}
        for key, each in written["needs"]
    }
    return {**folders, **needs}


def _write(path, text):
    """Whole or not at all: several processes may write it at once."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle, name = tempfile.mkstemp(dir=os.path.dirname(path), prefix=FILE)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
