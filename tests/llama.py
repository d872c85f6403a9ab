"""Real LLM servers for tests: llama.cpp's, with a random model of 485 KB made on the spot.

The model emits only letters and spaces and never ends by itself, about 90 answers of 8 tokens a
second; the server's `/health`, `/metrics` and `/completion` are those of any llama-server.
"""

from __future__ import annotations

import asyncio
import string
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import gguf
import numpy as np

ALIAS = "tiny"
START_TIMEOUT_S = 100.0
STOP_TIMEOUT_S = 100.0

N_BLOCKS = 2
WIDTH = 64
FEED_FORWARD = 128
N_HEADS = 4
CONTEXT_TOKENS = 2048
VOCABULARY_SIZE = 288

SPACE = "\u2581"
LETTERS = SPACE + string.ascii_lowercase
FIRST_LETTER_TOKEN = 3 + 256
"""The letters follow `<unk>`, `<s>`, `</s>` and one token for each byte."""

Matrix = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """A running llama-server."""

    url: str
    model: str
    process: asyncio.subprocess.Process

    @property
    def port(self) -> int:
        """Return the port on 127.0.0.1."""
        return int(self.url.rpartition(":")[2])

    async def complete(self, prompt: str, *, n_tokens: int) -> str:
        """Return the text of exactly `n_tokens` tokens generated after `prompt`."""
        body = {"prompt": prompt, "n_predict": n_tokens, "ignore_eos": True}
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.post(f"{self.url}/completion", json=body) as response,
        ):
            return str((await response.json())["content"])


@asynccontextmanager
async def llama_server(
    model: Path, *, log: Path, alias: str = ALIAS, port: int = 0
) -> AsyncIterator[LlamaServer]:
    """Run a llama-server on a free loopback port, or on `port`, until the block ends."""
    command = [sys.executable, "-m", "ollama_fleet", "llama-server", "--model", str(model)]
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command,
            f"--port={port}",
            f"--alias={alias}",
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    try:
        url = await _listening_url(process)
        assert url, f"llama-server did not start: {log.read_text()[-1000:]}"
        yield LlamaServer(url, alias, process)
    finally:
        await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise


async def _listening_url(process: asyncio.subprocess.Process) -> str:
    """Return what the server says as soon as it serves; empty when it ended instead."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT_S)
    return line.decode().strip()


def write_tiny_model(path: Path) -> None:
    """Write the model as a GGUF file of architecture llama; equal bytes each time."""
    writer = gguf.GGUFWriter(path, "llama")
    _add_parameters(writer)
    _add_vocabulary(writer)
    for name, tensor in _tensors(np.random.default_rng(0)).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_parameters(writer: gguf.GGUFWriter) -> None:
    writer.add_name(ALIAS)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(N_BLOCKS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_HEADS)
    writer.add_rope_dimension_count(WIDTH // N_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY_SIZE)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    kind = gguf.TokenType
    tokens = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)]
    tokens += [(letter, kind.NORMAL) for letter in LETTERS]
    tokens += [(f"<unused{n}>", kind.UNUSED) for n in range(VOCABULARY_SIZE - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([token_kind for _, token_kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def _tensors(random: np.random.Generator) -> dict[str, Matrix]:
    def weights(rows: int, columns: int) -> Matrix:
        return random.normal(0.0, 0.4, (rows, columns)).astype(np.float32)

    ones = np.ones(WIDTH, dtype=np.float32)
    tensors = {"token_embd.weight": weights(VOCABULARY_SIZE, WIDTH), "output_norm.weight": ones}
    for block in (f"blk.{n}" for n in range(N_BLOCKS)):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"{block}.{name}.weight"] = weights(WIDTH, WIDTH)
        tensors[f"{block}.ffn_gate.weight"] = weights(FEED_FORWARD, WIDTH)
        tensors[f"{block}.ffn_up.weight"] = weights(FEED_FORWARD, WIDTH)
        tensors[f"{block}.ffn_down.weight"] = weights(WIDTH, FEED_FORWARD)
        tensors[f"{block}.attn_norm.weight"] = ones
        tensors[f"{block}.ffn_norm.weight"] = ones
    return tensors | {"output.weight": _letters_only(random)}


def _letters_only(random: np.random.Generator) -> Matrix:
    """Return output weights that are zero but for the letters, so that no other token wins."""
    output = np.zeros((VOCABULARY_SIZE, WIDTH), dtype=np.float32)
    letters = slice(FIRST_LETTER_TOKEN, FIRST_LETTER_TOKEN + len(LETTERS))
    output[letters] = random.normal(0.0, 1.5, (len(LETTERS), WIDTH))
    return output
