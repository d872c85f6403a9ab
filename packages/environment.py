"""Install ollama-fleet and its locked packages into an environment that a package carries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
INTERPRETER = Path("/usr/bin/python3")
"""The distribution's; the package runs with this version of it alone."""
HOME = Path("opt/ollama-fleet")
LAUNCHER = f"#!/{HOME}/bin/python3 -I\nfrom ollama_fleet import main\n\nmain()\n"


def run(*words: str | Path) -> str:
    """Run a command and return what it prints.

    Raises:
        click.ClickException: It fails; the message is what it says.
    """
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{Path(words[0]).name} fails: {done.stderr.strip()}")
    return done.stdout


def architecture() -> str:
    """Return Debian's name of this machine's kind."""
    return run("dpkg", "--print-architecture").strip()


def source_date_s() -> int:
    """Return the Unix time of the source: SOURCE_DATE_EPOCH, or that of the last commit."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct"))


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file of the package."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def build_wheel(folder: Path) -> Path:
    """Return our wheel, of the source's date."""
    os.environ["SOURCE_DATE_EPOCH"] = str(source_date_s())
    run(sys.executable, "-P", "-m", "hatchling", "build", "--target=wheel", "--directory", folder)
    return next(folder.glob("*.whl"))


def make_environment(root: Path, wheel: Path, extras: str) -> Path:
    """Install wheel and locked packages into the package's own environment; return its Python."""
    home = root / HOME
    run(INTERPRETER, "-m", "venv", "--without-pip", home)
    wanted = wheel.with_suffix(".txt")
    digest = sha256(wheel.read_bytes()).hexdigest()
    wanted.write_text(f"ollama-fleet[{extras}] @ {wheel.as_uri()} --hash=sha256:{digest}\n")
    python = home / "bin" / "python3"
    locked = ("--require-hashes", "--constraint", "requirements.lock", "--requirement", wanted)
    install = ("pip", "install", "--quiet", "--only-binary", ":all:", "--link-mode", "copy")
    run(Path(sys.executable).with_name("uv"), *install, "--python", python, *locked)
    settle(home)
    return python


def settle(home: Path) -> None:
    """Make an environment independent of where it was made, and drop what pip would need."""
    for path in (home / "bin").iterdir():
        if not path.name.startswith("python"):
            path.unlink()
    write(home / "bin" / "ollama-fleet", LAUNCHER, 0o755)
    settings = (home / "pyvenv.cfg").read_text().splitlines(keepends=True)
    write(home / "pyvenv.cfg", "".join(line for line in settings if "command" not in line))
    for name in (".gitignore", ".lock"):
        (home / name).unlink(missing_ok=True)
    for name in ("RECORD", "REQUESTED", "direct_url.json", "uv_cache.json"):
        for path in home.glob(f"lib/*/site-packages/*.dist-info/{name}"):
            path.unlink()


def tidy(root: Path) -> None:
    """Drop what running it has compiled, and give all files the same modes under every umask."""
    for folder in [*root.rglob("__pycache__")]:
        shutil.rmtree(folder)
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            is_program = path.stat().st_mode & 0o100 and "site-packages" not in path.parts
            path.chmod(0o755 if path.is_dir() or is_program else 0o644)
