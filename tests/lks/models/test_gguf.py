"""GGUF files as models: what a file says of itself, converting it once, and the package that carries one."""

import hashlib
import re
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest

from lks.errors import StoreError, UserError
from lks.io import hub
from lks.models import gguf_models, hub_models
from lks.models.fetching import ready
from lks.models.gguf_header import read_header
from lks.models.lm import LM
from lks.models.registry import KNOWN, check_name, found, kind_of, revision_of, shape_of
from tests.helpers import real
from tests.lks.models import gguf_files


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_files.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LKS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def test_a_header_says_what_the_file_holds(file: Path) -> None:
    header = read_header(file)
    assert (header.architecture, header.blocks, header.dim, header.has_tokenizer) == ("llama", 2, 32, True)
    assert (
        header.types == {"F32": 2 * 261 * 32 + 2 * 4 * 32 * 32, "Q4_1": 2 * 3 * 64 * 32}
        and header.parameters == 37_184
    )
    assert re.fullmatch(r"mixed: F32 \d+ %, Q4_1 \d+ %", header.quantisation)
    assert shape_of(str(file)) == (2, 32)


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ({"Q4_1": 5}, "Q4_1"),
        ({"Q4_1": 996, "F32": 4}, "Q4_1"),
        ({"Q4_K": 60, "Q6_K": 40}, "mixed: Q4_K 60 %, Q6_K 40 %"),
        ({"F16": 3}, "F16"),
    ],
)
def test_a_quantisation_in_one_line(types: dict[str, int], said: str, file: Path) -> None:
    header = read_header(file)
    assert type(header)("llama", 1, 1, 1, types, True).quantisation == said


@pytest.mark.parametrize("kept", [5, 8, 20, 30, 100, 1000, 4000, 0.5, 0.9, -1])
def test_a_truncated_file_is_told_before_any_work(file: Path, tmp_path: Path, kept: float) -> None:
    whole = file.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(UserError, match=r"cut\.gguf is (truncated|a damaged GGUF file)") as caught:
        check_name(str(cut))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GG",
        b"\x00" * 64,
        b"PK\x03\x04 a wheel",
        b"<html>404 Not Found</html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"ggml",
    ],
)
def test_what_is_no_gguf_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.gguf is not a GGUF file"):
        check_name(str(tmp_path / "x.gguf"))


@pytest.mark.parametrize("version", [1, 4, 0x03000000])
def test_other_versions_and_byte_orders_are_refused(file: Path, tmp_path: Path, version: int) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + version.to_bytes(4, "little") + file.read_bytes()[8:])
    with pytest.raises(UserError, match=f"GGUF version {version}"):
        check_name(str(tmp_path / "x.gguf"))


@pytest.mark.parametrize("place", [8, 16, 24])
def test_counts_beyond_the_file_take_neither_time_nor_memory(file: Path, tmp_path: Path, place: int) -> None:
    whole = bytearray(file.read_bytes())
    whole[place : place + 8] = (1 << 62).to_bytes(8, "little")
    (tmp_path / "x.gguf").write_bytes(whole)
    began = time.perf_counter()
    with pytest.raises(UserError, match="truncated"):
        read_header(tmp_path / "x.gguf")
    assert time.perf_counter() - began < 5


def test_a_part_of_a_split_model_is_refused_by_its_name_and_by_its_content(
    file: Path, tmp_path: Path
) -> None:
    shutil.copy(file, tmp_path / "big-00001-of-00003.gguf")
    gguf_files.write(tmp_path / "renamed.gguf", parts=3)
    for name in ("big-00001-of-00003.gguf", "renamed.gguf"):
        with pytest.raises(UserError, match=r"is part 1 of 3 of a split model\. Join the parts"):
            check_name(str(tmp_path / name))


@pytest.mark.parametrize(
    "architecture",
    ["rwkv6", "mamba", "whisper", "bert", "deepseek2", "t5", "stablelm", "qwen2moe", "clip", "LLAMA"],
)
def test_an_unknown_architecture_is_refused_with_those_that_are_known(
    tmp_path: Path, architecture: str
) -> None:
    path = gguf_files.write(tmp_path / "x.gguf", architecture)
    with pytest.raises(
        UserError,
        match=f"architecture '{architecture}', which cannot be read from GGUF. Known: .*llama, mistral.*qwen2",
    ):
        check_name(str(path))


def test_a_file_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no tokenizer"):
        check_name(str(gguf_files.write(tmp_path / "x.gguf", tokenizer=False)))


@pytest.mark.parametrize("name", ["absent.gguf", "models/absent.GGUF", "./absent.gguf"])
def test_a_file_that_is_not_there_is_told_as_such(name: str) -> None:
    with pytest.raises(UserError, match=f"There is no file {re.escape(name)}"):
        check_name(name)


def test_a_folder_that_ends_like_a_file_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").mkdir()
    assert kind_of(str(tmp_path / "x.gguf")) == "folder"


def test_a_model_has_the_file_s_weights_and_identity(file: Path, cache: Path) -> None:
    lm = LM.load(str(file), "cpu")
    assert lm.revision == revision_of(str(file)) == hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    assert lm.provenance == {"dtype": "float32", "quantisation": read_header(file).quantisation}
    stored = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(file).tensors}
    down = lm.block(1).get_submodule("mlp.down_proj").weight
    assert np.array_equal(down.numpy(), stored["blk.1.ffn_down.weight"])
    assert lm.tokenizer.decode(lm.tokenizer("the hen")["input_ids"]) == "the hen"
    copy = cache.parent / "other name.gguf"
    shutil.copy(file, copy)
    assert revision_of(str(copy)) == lm.revision  # the content is the identity, wherever it lies
    assert revision_of(str(gguf_files.write(cache.parent / "b.gguf", seed=1))) != lm.revision


def test_what_lies_beside_a_file_is_another_model_s(file: Path, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "crowded"
    shutil.copytree(Path(gguf_models.__file__).parent / "weights" / "micro-llama", folder)
    shutil.copy(file, folder / "x.gguf")
    lm = LM.load(str(folder / "x.gguf"), "cpu")
    assert (len(lm.tokenizer), lm.dim) == (261, gguf_files.DIM)


def test_a_file_is_converted_once(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ready(str(file))
    monkeypatch.setattr(gguf_models, "_write", lambda *_: pytest.fail("converted again"))
    assert ready(str(file)) == first == found(str(file))
    assert not list(cache.glob("*.part"))


def test_a_changed_file_is_another_model(file: Path, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    shutil.copy(file, path)
    before = revision_of(str(path))
    path.write_bytes(file.read_bytes() + b"\0")
    assert revision_of(str(path)) != before


def fake_conversion(seen: list[str], seconds: float = 0.0):
    def write(path: Path, header: object, revision: str) -> None:
        seen.append(revision)
        time.sleep(seconds)
        folder = gguf_models.home() / revision
        folder.mkdir()
        (folder / gguf_models.ABOUT).write_text(f'{{"revision": "{revision}", "quantisation": "Q4_1"}}')

    return write


def test_of_several_at_once_one_converts_and_the_others_wait(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(gguf_models, "_write", fake_conversion(seen, 0.5))
    gguf_models.check(file, read_header(file))  # transformers is imported once, not by all threads at once
    threads = [threading.Thread(target=gguf_models.convert, args=(file,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1 and found(str(file)) is not None


def test_a_conversion_that_was_killed_leaves_nothing_that_counts(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = revision_of(str(file))
    for unfinished in (cache / f"{revision}.part", cache / revision):
        unfinished.mkdir(parents=True)
        (unfinished / "model.safetensors").write_bytes(b"half")
    assert found(str(file)) is None
    assert LM.load(str(file), "cpu").revision == revision
    assert not (cache / f"{revision}.part").exists()


def test_a_full_disk_is_told_before_the_conversion(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_models.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(gguf_models, "_write", lambda *_: pytest.fail("begun all the same"))
    with pytest.raises(
        StoreError, match=r"tiny\.gguf as float32 needs .* GB in .* free\. Free space, or set LKS_CACHE"
    ):
        ready(str(file))


def test_a_disk_that_fills_up_and_a_file_that_deceives_leave_nothing(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    for error, says in (
        (OSError(28, "No space left on device"), "No space left on device. Free space"),
        (ValueError("bad\nrope"), "converted: bad."),
    ):
        monkeypatch.setattr(
            transformers.AutoTokenizer,
            "from_pretrained",
            lambda *_, error=error, **__: (_ for _ in ()).throw(error),
        )
        with pytest.raises(UserError, match=says) as caught:
            ready(str(file))
        assert "\n" not in str(caught.value)
        assert found(str(file)) is None and not list(cache.glob("*.part"))


def test_a_cache_that_cannot_be_written_is_told(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").write_text("no folder")
    monkeypatch.setenv("LKS_CACHE", str(tmp_path / "plain"))
    with pytest.raises(StoreError, match="Set LKS_CACHE to another folder"):
        ready(str(file))


# --- the package --------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that pip takes packages from in place of an index; `smollm2-135m` is the tiny model in it."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    content = file.read_bytes()
    package = gguf_models.Package(
        "tiny-model==1.0", ".gguf", hashlib.sha256(content).hexdigest(), len(content), (2, 32)
    )
    monkeypatch.setitem(KNOWN, "smollm2-135m", replace(KNOWN["smollm2-135m"], package=package))
    monkeypatch.setattr(hub, "why_not", lambda: "The hub is not asked: HF_HUB_OFFLINE is set.")
    monkeypatch.setattr(hub_models, "cached", lambda repository, revision="": None)
    yield folder


def wheel(folder: Path, content: bytes, member: str = "tiny_model/tiny.gguf") -> Path:
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(member, content)
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('nothing of a package may be run')")
    return path


def test_a_model_without_the_hub_comes_from_its_package(
    file: Path, shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(shelf, file.read_bytes())
    told: list[float] = []
    assert found("smollm2-135m") is None
    assert revision_of("smollm2-135m") == revision_of(str(file)) and shape_of("smollm2-135m") == (
        2,
        32,
    )  # known before anything is fetched
    here = ready("smollm2-135m", lambda what, done: told.append(done))
    assert (
        here.revision == revision_of(str(file)) and here.quantisation.startswith("mixed") and max(told) == 1.0
    )
    assert not list(cache.glob("fetching-*"))
    monkeypatch.setattr(gguf_models, "_download", lambda *_: pytest.fail("downloaded again"))
    monkeypatch.setattr(hub, "why_not", lambda: "")  # what came first stays
    assert ready("smollm2-135m") == here and revision_of("smollm2-135m") == here.revision
    assert LM.load("smollm2-135m", "cpu").name == "smollm2-135m"


@pytest.mark.parametrize(
    "wrong", ["other bytes", "another size", "no member", "two members", "no wheel", "half a wheel", "source"]
)
def test_a_package_that_is_not_the_one_expected_is_refused(
    file: Path, shelf: Path, cache: Path, wrong: str
) -> None:
    content = bytearray(file.read_bytes())
    if wrong == "other bytes":
        content[-1] ^= 1
    path = wheel(
        shelf,
        bytes(content) + (b"more" if wrong == "another size" else b""),
        "a/tiny.bin" if wrong == "no member" else "a/tiny.gguf",
    )
    if wrong == "two members":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("a/second.gguf", bytes(content))
    if wrong in ("no wheel", "source"):
        path.unlink()
    if wrong == "source":
        (shelf / "tiny-model-1.0.tar.gz").write_bytes(b"a source package would run its setup.py")
    if wrong == "half a wheel":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError) as caught:
        ready("smollm2-135m")
    said = str(caught.value)
    assert (
        "\n" not in said
        and "smollm2-135m" in said
        and "HF_HUB_OFFLINE is set" in said
        and "Give a folder or a GGUF file" in said
    ), said
    assert not list(cache.glob("*.gguf")) and not list(cache.glob("fetching-*"))


def test_a_half_downloaded_file_is_no_model(file: Path, shelf: Path, cache: Path) -> None:
    wheel(shelf, file.read_bytes())
    (cache / "fetching-killed").mkdir(parents=True)
    (cache / "fetching-killed" / "whole").write_bytes(file.read_bytes()[:100])
    assert found("smollm2-135m") is None
    assert ready("smollm2-135m").revision == revision_of(str(file))


def test_a_python_without_pip_is_told(shelf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_models.sys, "executable", shutil.which("false") or sys.executable)
    with pytest.raises(UserError, match=r"pip cannot download tiny-model==1\.0: it gave no reason"):
        ready("smollm2-135m")


@pytest.mark.parametrize("name", real.FAMILIES)
def test_real_files_are_understood(name: str) -> None:
    real.tokenizer_folder(name)
    path = real.home() / f"{name}.gguf"
    if not path.exists():
        pytest.skip("only the converted model is here")
    header = read_header(path)
    gguf_models.check(path, header)
    folder = real.home() / name
    assert header.has_tokenizer and header.quantisation.startswith("mixed: Q")
    if (folder / "config.json").exists():
        assert shape_of(str(folder)) == (header.blocks, header.dim)


def test_the_packaged_model_is_what_the_registry_says() -> None:
    real.model_folder("smollm2-135m")
    package, path = KNOWN["smollm2-135m"].package, real.home() / "smollm2-135m.gguf"
    if not path.exists() or package is None:
        pytest.skip("only the converted model is here")
    assert (path.stat().st_size, revision_of(str(path)), shape_of(str(path))) == (
        package.nbytes,
        package.sha256[:16],
        package.shape,
    )
