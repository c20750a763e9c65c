"""Reader of GGUF headers: architecture, size and quantisation, in well under a second; no weight is read.

Format: the GGUF specification, versions 2 and 3, little endian. The file may be untrusted: counts and lengths
are checked against its size.
"""

import mmap
import re
import struct
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import cast

from lks.errors import UserError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
"""End of the file name of a part of a split model."""
PLAIN = frozenset({"F32", "F16", "BF16", "F64"})
"""Types that are not quantised."""

_STRING, _ARRAY = 8, 9
_FORMATS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_LONGEST_NAME = 1 << 16
_DEEPEST = 2


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a GGUF file.

    Attributes:
        architecture: as the file names it ("llama", "gemma3").
        blocks: number of decoder blocks.
        dim: width of a block state.
        parameters: number of weights.
        types: quantisation type -> number of weights of that type ("Q4_1" -> 106,168,320).
        has_tokenizer: whether the file contains a vocabulary.
    """

    architecture: str
    blocks: int
    dim: int
    parameters: int
    types: dict[str, int]
    has_tokenizer: bool

    @property
    def quantisation(self) -> str:
        """The types of the weights in one line: "Q4_1", or "mixed: Q4_K 61 %, Q6_K 39 %".

        Vectors, which are never quantised, are left out.
        """
        found = sorted(self.types.items(), key=lambda item: (-item[1], item[0]))
        whole = sum(self.types.values())
        counted = [(name, 100 * weights / whole) for name, weights in found if 100 * weights >= whole]
        if len(counted) == 1:
            return counted[0][0]
        return "mixed: " + ", ".join(f"{name} {share:.0f} %" for name, share in counted)


def read_header(file: Path) -> Header:
    """Read the header of a GGUF file and check that all its weights are there.

    Raises:
        UserError: the file does not exist, is not a GGUF file, a part of a split one, truncated, or of a
            version or kind that cannot be read.
    """
    if part := SPLIT.search(file.name):
        raise _split(file, int(part[1]), int(part[2]))
    try:
        with file.open("rb") as stream:
            if stream.read(4) != MAGIC:
                raise UserError(f"{file} is not a GGUF file. Give one, or a folder with *.safetensors files.")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _header(file, _Reader(content))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    except (struct.error, IndexError):
        raise UserError(f"{file} is truncated: it ends within its header. Download it again.") from None
    except (ValueError, OverflowError) as error:
        raise UserError(f"{file} is a damaged GGUF file: {error}. Download it again.") from None


class _Reader:
    """A read position in a file, which advances with each value read."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self.place, self.size = content, 4, len(content)

    def number(self, form: str) -> int | float | bool:
        """Read one value of a `struct` format."""
        value = struct.unpack_from(form, self._content, self.place)[0]
        self.place += struct.calcsize(form)
        return cast("int | float | bool", value)

    def count(self, form: str = "<Q") -> int:
        """Read a number of items, each of which takes at least one byte."""
        value = int(self.number(form))
        if value > self.size:
            raise IndexError(value)
        return value

    def skip(self, nbytes: int) -> None:
        """Advance without reading."""
        if self.place + nbytes > self.size:
            raise IndexError(nbytes)
        self.place += nbytes

    def text(self) -> str:
        """Read a string, preceded by its length."""
        length, start = self.count(), self.place
        self.skip(length)
        return self._content[start : start + min(length, _LONGEST_NAME)].decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> object:
        """Read a value of the metadata; of an array only its length is returned."""
        if kind in _FORMATS:
            return self.number(_FORMATS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY or depth > _DEEPEST:
            raise ValueError(f"a value of the unknown type {kind}")
        inner, length = int(self.number("<I")), self.count()
        if inner in _FORMATS:
            self.skip(length * struct.calcsize(_FORMATS[inner]))
            return length
        for _ in range(length):
            if inner == _STRING:
                self.skip(self.count())
            else:
                self.value(inner, depth + 1)
        return length


def _header(file: Path, reader: _Reader) -> Header:
    """Read the header after the magic bytes."""
    version = int(reader.number("<I"))
    if version not in VERSIONS:
        raise UserError(
            f"{file} is of GGUF version {version}, which cannot be read: versions {VERSIONS[0]} and "
            f"{VERSIONS[1]} can, little endian."
        )
    tensors, fields = reader.count(), reader.count()
    known = {reader.text(): reader.value(int(reader.number("<I"))) for _ in range(fields)}
    parts = known.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise _split(file, int(cast(int, known.get("split.no", 0))) + 1, parts)
    types, end = _tensors(reader, tensors)
    alignment = max(1, _whole(known, "general.alignment", 32))
    begin = -(-reader.place // alignment) * alignment
    if begin + end > reader.size:
        raise UserError(
            f"{file} is truncated: {reader.size:,} of {begin + end:,} bytes are there. Download it again."
        )
    name = str(known.get("general.architecture", ""))
    blocks, dim = _whole(known, f"{name}.block_count"), _whole(known, f"{name}.embedding_length")
    if not (name and tensors and blocks and dim):
        raise UserError(
            f"{file} is a GGUF file, but contains no language model (architecture {name or 'not given'}, "
            f"{tensors} tensors)."
        )
    return Header(name, blocks, dim, sum(types.values()), types, bool(known.get("tokenizer.ggml.tokens")))


def _tensors(reader: _Reader, count: int) -> tuple[dict[str, int], int]:
    """Return type -> weights of all matrices, and the number of bytes of all tensors."""
    # takes half a second, so only when a GGUF file is read
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    weights: Counter[str] = Counter()
    end = 0
    for _ in range(count):
        reader.text()
        shape = [int(reader.number("<Q")) for _ in range(int(reader.number("<I")))]
        number, offset = int(reader.number("<I")), int(reader.number("<Q"))
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise ValueError(f"a tensor of the unknown type {number}") from None
        block, nbytes = GGML_QUANT_SIZES[kind]
        end = max(end, offset + prod(shape) // block * nbytes)
        if len(shape) > 1 or kind.name not in PLAIN:
            weights[kind.name] += prod(shape)
    return dict(weights), end


def _whole(known: dict[str, object], key: str, default: int = 0) -> int:
    """Return an integer of the metadata; the default if there is none."""
    value = known.get(key, default)
    return value if isinstance(value, int) else default


def _split(file: Path, part: int, parts: int) -> UserError:
    """Return the error for a part of a split model."""
    return UserError(
        f"{file} is part {part} of {parts} of a split model. Join the parts first (llama-gguf-split --merge "
        "FIRST-PART WHOLE.gguf)."
    )
