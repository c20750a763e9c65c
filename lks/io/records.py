"""Records of untrusted files: models that pydantic checks, and its errors as messages of this program."""

from collections.abc import Iterator
from reprlib import Repr
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from lks.errors import DataError, unknown
from lks.io.untrusted import one_line

HALF = "must be text of whole characters (none from \\ud800 to \\udfff)"
_COMPLAINTS = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "extra_forbidden": "is unknown",
    "list_type": "must be a list",
    "missing": "is missing",
    "model_type": "must be an object",
    "string_type": "must be a string",
    "string_unicode": HALF,
    "string_too_short": "is empty",
    "too_short": "is empty",
    "tuple_type": "must be a list",
    "value_error": "{error}",
}
"""What is wrong, by pydantic's type of error; a text that begins with "must" is followed by the value."""

Model = TypeVar("Model", bound=BaseModel)
Text = Annotated[str, AfterValidator(str.strip), Field(min_length=1)]
"""A text that is not empty, without surrounding white space."""


def checked(model: type[Model], raw: object, where: str, unit: str = "record") -> Model:
    """Check a record that was read from JSON or TOML.

    Args:
        model: what the record must hold; fields that it does not name are ignored unless it forbids them.
        raw: the record.
        where: its file and its number or line.
        unit: what the user may delete.

    Raises:
        DataError: a field is missing or wrong.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"{where}: {next(faults(model, error, unit))}. Fix or delete the {unit}.") from None


def faults(model: type[BaseModel], error: ValidationError, unit: str = "record") -> Iterator[str]:
    """Yield what is wrong with a record: the field, what it must be and what it is.

    Unknown fields come first, because a misspelt one is missing, too.
    """
    found = error.errors(include_url=False)
    for one in sorted(found, key=lambda one: one["type"] != "extra_forbidden"):
        path, kind = one["loc"], one["type"]
        if kind == "extra_forbidden" and len(path) == 1:
            yield str(unknown("field", one_line(path[0], 60), model.model_fields)).removesuffix(".")
            continue
        names = ".".join(part for part in path if isinstance(part, str))
        entry = "".join(f" (entry {part + 1})" for part in path if isinstance(part, int))
        complaint = _COMPLAINTS[kind].format_map(one.get("ctx", {})) if kind in _COMPLAINTS else one["msg"]
        value = f", not {shown(one['input'])}" if complaint.startswith("must") else ""
        yield f"{f'field {shown(names)}' if names else f'the {unit}'}{entry} {complaint}{value}"


def shown(value: object) -> str:
    """Return a value on one short line."""
    try:
        return one_line(_SHORT.repr(value), 100)
    except ValueError:  # an integer of thousands of digits, which TOML has in hexadecimal
        return type(value).__name__


_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxstring = 3, 100
