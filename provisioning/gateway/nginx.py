"""Where nginx, its Lua module and its libraries are."""

from __future__ import annotations

import os
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from provisioning.gateway.errors import GatewayError

DEBIAN_PACKAGES = (
    "nginx",
    "libnginx-mod-http-ndk",
    "libnginx-mod-http-lua",
    "lua-resty-core",
    "lua-resty-lrucache",
    "lua-cjson",
    "libluajit-5.1-2",
)
MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")
LUA = "usr/share/lua/5.1"


@dataclass(frozen=True, slots=True)
class Nginx:
    """An nginx that runs Lua."""

    binary: Path
    modules: tuple[Path, ...]
    """In the order in which they are loaded."""
    lua_dirs: tuple[Path, ...]
    lua_library_dirs: tuple[Path, ...]
    library_dirs: tuple[Path, ...] = field(default=())
    """Where the dynamic linker looks beside the system's folders."""

    def environ(self) -> dict[str, str]:
        """Return the environment in which it runs."""
        found = dict(os.environ)
        if self.library_dirs:
            found["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, self.library_dirs))
        return found


def installed(root: Path = Path("/")) -> Nginx:
    """Return the nginx that Debian's packages install."""
    return of_folders(dict.fromkeys(DEBIAN_PACKAGES, root), is_system=True)


def of_folders(folders: dict[str, Path], *, is_system: bool = False) -> Nginx:
    """Return the nginx whose packages are unpacked in these folders, by package.

    Raises:
        GatewayError: A file is missing; says which, and what to install.
    """
    triplet = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    libraries = f"usr/lib/{triplet}"
    module_dirs = (folders["libnginx-mod-http-ndk"], folders["libnginx-mod-http-lua"])
    found = Nginx(
        binary=folders["nginx"] / "usr/sbin/nginx",
        modules=tuple(
            folder / "usr/lib/nginx/modules" / name
            for folder, name in zip(module_dirs, MODULES, strict=True)
        ),
        lua_dirs=_different(
            folders[name] / LUA for name in ("lua-resty-core", "lua-resty-lrucache", "lua-cjson")
        ),
        lua_library_dirs=(folders["lua-cjson"] / libraries / "lua/5.1",),
        library_dirs=() if is_system else (folders["libluajit-5.1-2"] / libraries,),
    )
    _check(found)
    return found


def _different(paths: object) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(paths))  # type: ignore[call-overload]


def _check(nginx: Nginx) -> None:
    wanted = (nginx.binary, *nginx.modules, *nginx.lua_dirs, *nginx.lua_library_dirs)
    missing = [str(path) for path in wanted if not path.exists()]
    if missing:
        raise GatewayError(
            f"nginx with its Lua module is not installed: there is no {missing[0]}. Install it, on "
            f"Debian or Ubuntu with: sudo apt-get install {' '.join(DEBIAN_PACKAGES)}"
        )
