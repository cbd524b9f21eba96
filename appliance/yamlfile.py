"""A file with one YAML document of a known shape: read and checked, or refused in one line.

Knows no shape itself; documents that `sluice apply` takes are `config`'s. Raises `InvalidInput`
with file and path.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from appliance.errors import InvalidInput

M = TypeVar("M", bound=BaseModel)


def read(path: Path, model: type[M], hint: str = "") -> M:
    """hint: what to do where the file cannot be read."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        what = f": {hint}" if hint else ""
        raise InvalidInput(f"{path}: {error.strerror}{what}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date, a number, a depth
        raise InvalidInput(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        text = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{path}: {where or 'the document'}: {text}") from error
