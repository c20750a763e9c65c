"""Presets in files of the user: parameters of a method for a model, such as `lks tune` writes them.

A file holds tables `[[preset]]` with `method`, `model`, if wanted `edits`, and `[preset.parameters]`. Files
come from the option `--preset`, then from the folder that the environment variable `LKS_PRESETS` names.
"""

import json
import math
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from lks.errors import UserError, unknown
from lks.io.untrusted import one_line

FOLDER = "LKS_PRESETS"
"""Environment variable with a folder of preset files, which apply wherever they fit."""
FILES = "LKS_PRESET_FILES"
"""Environment variable by which `--preset` reaches child processes: paths of files."""
ORIGIN = "preset file"
"""Entry in an outcome's provenance if its parameters come from a file."""
LARGEST = 1 << 20
"""Size in bytes of the largest file that is read."""
KEYS = ("method", "model", "edits", "parameters")
SAMPLE = 'Write [[preset]] with method = "ft" and model = "micro-llama", then [preset.parameters].'


@dataclass(frozen=True, slots=True)
class StoredPreset:
    """Parameters of one method for one model, from a file.

    Attributes:
        path: the file.
        number: place among the presets of the file, from 1.
        method: registry name of the method.
        model: name of the model, as commands take it.
        edits: T that the parameters were chosen for. Of several presets for one model, that of the largest T
            not above the requested one is used, else that of the smallest.
        parameters: name -> value, as TOML gives it.
    """

    path: Path
    number: int
    method: str
    model: str
    edits: int
    parameters: Mapping[str, object]

    @property
    def where(self) -> str:
        """The file and the preset in it, for messages."""
        return f"{self.path}, preset {self.number} ({self.method} for {self.model})"

    def over(self, params: object) -> object:
        """Return parameters with those of the file in their place.

        Raises:
            UserError: the file names no parameter of this class, or a value is not of its type.
        """
        return replace(params, **self._values(type(params)))  # type: ignore[type-var]

    def whole(self, params_type: type) -> object:
        """Return the parameters if the file gives all of them, else None.

        A parameter that was added to the method later counts as given, at its default.

        Raises:
            UserError: as for `over`.
        """
        values = self._values(params_type)
        lacking = {f.name for f in fields(params_type) if not f.metadata.get("added")} - set(values)
        return None if lacking else params_type(**values)

    def incomplete(self, params_type: type) -> UserError:
        """Return the error for a file that gives some parameters where nothing gives the others."""
        lacking = [f.name for f in fields(params_type) if f.name not in self.parameters]
        return UserError(
            f"{self.where}: the method has no preset and no rule for this model, so the file must give all "
            f"parameters. Add {', '.join(lacking)}."
        )

    def _values(self, params_type: type) -> dict[str, Any]:
        """Return the values by field, checked against the class."""
        hints = get_type_hints(params_type)
        types = {field.name: hints[field.name] for field in fields(params_type)}
        values: dict[str, Any] = {}
        for name, value in self.parameters.items():
            if name not in types:
                raise UserError(f"{self.where}: {unknown('parameter', name, types)}")
            try:
                if isinstance(value, float) and not math.isfinite(value):
                    raise ValueError("a finite number is needed")
                values[name] = TypeAdapter(types[name]).validate_json(json.dumps(value), strict=True)
            except ValidationError as error:
                raise self._wrong(name, value, error.errors()[0]["msg"]) from None
            except (TypeError, ValueError) as error:  # a date, or no number
                raise self._wrong(name, value, str(error)) from None
        return values

    def _wrong(self, name: str, value: object, why: str) -> UserError:
        return UserError(f"{self.where}: parameter {name} = {one_line(repr(value), 40)}: {one_line(why)}.")


def read_presets(path: Path) -> tuple[StoredPreset, ...]:
    """Return the presets of a file; methods and parameters are checked when they are used.

    Raises:
        UserError: the file is missing, is not TOML, or is not of the form; says what, where and what to do.
    """
    try:
        stat = path.stat()
        if stat.st_size > LARGEST:
            raise UserError(f"Preset file {path} has {stat.st_size:,} bytes, too many for a preset file.")
        return _read(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise UserError(f"Preset file {path} cannot be read: {error.strerror}. Check the path.") from None


@lru_cache(maxsize=256)
def _read(path: Path, _modified: int, _size: int) -> tuple[StoredPreset, ...]:
    """Read a file once for each of its versions."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"Preset file {path} is not valid TOML: {one_line(error)}.") from None
    for key in sorted(set(document) - {"preset"}):
        raise UserError(f"Preset file {path}: {unknown('key', key, ('preset',))} {SAMPLE}")
    tables = document.get("preset")
    if not isinstance(tables, list) or not tables:
        raise UserError(f"Preset file {path} holds no preset. {SAMPLE}")
    return tuple(_preset(path, number, table) for number, table in enumerate(tables, start=1))


def _preset(path: Path, number: int, table: object) -> StoredPreset:
    """Return one preset of a file."""
    where = f"Preset file {path}, preset {number}"
    if not isinstance(table, dict):
        raise UserError(f"{where} is not a table. {SAMPLE}")
    for key in sorted(set(table) - set(KEYS)):
        advice = "Parameters stand below [preset.parameters]."
        raise UserError(f"{where}: {unknown('key', key, KEYS)} {advice}")
    for key in ("method", "model"):
        if not isinstance(table.get(key), str) or not table[key]:
            raise UserError(f'{where}: it needs {key} = "NAME".')
    edits = table.get("edits", 1)
    if not isinstance(edits, int) or isinstance(edits, bool) or edits < 1:
        raise UserError(f"{where}: edits = {one_line(repr(edits), 40)}: give T as a whole number from 1.")
    parameters = table.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise UserError(f"{where}: it gives no parameters. Write them below [preset.parameters].")
    return StoredPreset(path, number, table["method"], table["model"], edits, parameters)


def named_files() -> tuple[Path, ...]:
    """Return the files given with `--preset`."""
    return tuple(Path(part) for part in os.environ.get(FILES, "").split(os.pathsep) if part)


def folder_files() -> tuple[Path, ...]:
    """Return the files of the folder `LKS_PRESETS`, sorted by name.

    Raises:
        UserError: there is no such folder.
    """
    if not (name := os.environ.get(FOLDER, "")):
        return ()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"{FOLDER}={folder}: no such folder. Make it, or unset the variable.")
    return tuple(sorted(folder.glob("*.toml")))


def stored_presets(files: Iterable[Path]) -> list[StoredPreset]:
    """Return all presets of some files.

    Raises:
        UserError: a file is wrong, or two presets are for the same method, model and T.
    """
    found: dict[tuple[str, str, int], StoredPreset] = {}
    for preset in (preset for path in files for preset in read_presets(path)):
        key = (preset.method, preset.model, preset.edits)
        if key in found:
            raise UserError(
                f"{preset.where} is given for T = {preset.edits} already by preset {found[key].number} of "
                f"{found[key].path}. Remove one of the two, or give them different `edits`."
            )
        found[key] = preset
    return list(found.values())


def preset_for(method: str, model: str, n_edits: int) -> StoredPreset | None:
    """Return the preset for a method, model and T: of the files of `--preset`, else of `LKS_PRESETS`.

    Raises:
        UserError: a file is wrong.
    """
    for files in (named_files(), folder_files()):
        fits = [p for p in stored_presets(files) if p.method == method and is_model(p.model, model)]
        if fits:
            fits.sort(key=lambda preset: preset.edits)
            return next((p for p in reversed(fits) if p.edits <= n_edits), fits[0])
    return None


def is_model(name: str, other: str) -> bool:
    """Return whether two names are of one model: the same text, or paths of the same file or folder."""
    if name == other:
        return True
    one, two = Path(name).expanduser(), Path(other)
    return one.exists() and two.exists() and one.samefile(two)


def check_presets(methods: Mapping[str, Any]) -> None:
    """Check all preset files in use before any work.

    Args:
        methods: all methods by name, classes of `lks.editing.editor.Editor`.

    Raises:
        UserError: a file is wrong, or names an unknown method or parameter.
    """
    for files in (named_files(), folder_files()):
        for preset in stored_presets(files):
            if preset.method not in methods:
                raise UserError(f"{preset.where}: {unknown('method', preset.method, methods)}")
            preset.whole(methods[preset.method].params_type)


def check_used(pairs: Iterable[tuple[str, str]], what: str) -> None:
    """Check that each file given with `--preset` is for something that is run.

    Args:
        pairs: (method, model) of what is run.
        what: name of what is run, for the message.

    Raises:
        UserError: a file is for another method or model.
    """
    run = set(pairs)
    for path in named_files():
        presets = read_presets(path)
        if not any(p.method == method and is_model(p.model, model) for p in presets for method, model in run):
            held = " and ".join(f"{p.method} for {p.model}" for p in presets)
            raise UserError(
                f"--preset {path} holds {held}, which {what} does not use. "
                "Check method and model in the file, or omit the option."
            )


@contextmanager
def presets_in_use(files: Sequence[Path]) -> Iterator[None]:
    """Use preset files inside the `with`, in this process and in those that it starts.

    Raises:
        UserError: a file cannot be read, or is not of the form.
    """
    before = os.environ.get(FILES)
    stored_presets(files)
    try:
        if files:
            os.environ[FILES] = os.pathsep.join(str(file.expanduser().absolute()) for file in files)
        yield
    finally:
        if before is None:
            os.environ.pop(FILES, None)
        else:
            os.environ[FILES] = before


def preset_text(method: str, model: str, edits: int, params: object, comments: Sequence[str] = ()) -> str:
    """Return a preset file with all parameters.

    Args:
        method: registry name of the method.
        model: name of the model.
        edits: T.
        params: the dataclass of parameters.
        comments: lines to put in front.
    """
    lines = [f"# {one_line(comment, 1000)}".rstrip() for comment in comments]
    lines += ["", "[[preset]]", f"method = {_toml(method)}", f"model = {_toml(model)}", f"edits = {edits}"]
    lines += ["", "[preset.parameters]"]
    lines += [f"{field.name} = {_toml(getattr(params, field.name))}" for field in fields(params)]  # type: ignore[arg-type]
    return "\n".join(lines).lstrip("\n") + "\n"


def _toml(value: object) -> str:
    """Return a value as TOML."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower() if isinstance(value, bool) else repr(value)
