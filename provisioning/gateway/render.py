"""Write the gateway's folder: nginx.conf, the Lua files, their settings and a systemd unit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ollama_fleet.files import write_whole
from ollama_fleet.units import SANDBOX
from ollama_fleet.version import VERSION
from provisioning.gateway.errors import GatewayError
from provisioning.gateway.nginx import Nginx
from provisioning.gateway.settings import Limit, Settings

LUA_DIR = Path(__file__).parent / "lua" / "fleet"
CONF_FILE, LUA_SETTINGS_FILE = "nginx.conf", "gateway.json"
UNIT_FILE = "ollama-fleet-gateway.service"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
LOG_FORMAT = (
    '{"time":"$time_iso8601","request_id":"$request_id","client":"$remote_addr",'
    '"method":"$request_method","status":$status,"bytes":$bytes_sent,"duration_s":$request_time'
    "$fleet_log}"
)
STATE_ROOT = Path("/var/lib")
CHUNKED_BYTES = 1024**2
"""Up to this size a body stays in memory."""


def render(settings: Settings, nginx: Nginx, folder: Path) -> None:
    """Write everything that nginx needs into a folder, which is made if it is missing.

    Raises:
        GatewayError: The folder cannot be written.
    """
    folder = folder.absolute()
    texts = {
        CONF_FILE: configuration(settings, nginx, folder),
        LUA_SETTINGS_FILE: json.dumps(lua_settings(settings), indent=1),
        UNIT_FILE: unit(settings, nginx, folder),
    }
    try:
        (folder / "lua" / "fleet").mkdir(parents=True, exist_ok=True)
        for source in LUA_DIR.glob("*.lua"):
            shutil.copyfile(source, folder / "lua" / "fleet" / source.name)
        for name, text in texts.items():
            write_whole(folder / name, text.encode())
    except OSError as error:
        raise GatewayError(f"cannot write to {folder}: {error.strerror or error}") from error


def lua_settings(settings: Settings) -> dict[str, Any]:
    """Return what Lua knows of the settings: times in seconds, sizes in bytes."""
    sections = ("upstreams", "limits", "keep_alive", "requests", "ejection", "keys", "log", "nginx")
    found = {name: _plain(getattr(settings, name)) for name in sections}
    found["upstreams"]["sources"] = [_source(url) for url in settings.upstreams.sources]
    found["limits"].setdefault("default", _plain(Limit()))
    return {"version": VERSION, "sticky": settings.sticky, **found}


def _source(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return {"url": url, "host": host, "port": parts.port, "path": target}


def _plain(value: Any) -> Any:
    """Return models as mappings whose values are numbers, not the texts that people write."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if hasattr(value, "model_fields_set"):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    return value


def _seconds(duration_s: float) -> str:
    return f"{round(1000 * duration_s)}ms"


def configuration(settings: Settings, nginx: Nginx, folder: Path) -> str:
    """Return nginx.conf."""
    state, of_nginx = settings.nginx.state_dir, settings.nginx
    modules = "\n".join(f"load_module {path};" for path in nginx.modules)
    lua_path = ";".join(f"{path}/?.lua" for path in (folder / "lua", *nginx.lua_dirs))
    lua_cpath = ";".join(f"{path}/?.so" for path in nginx.lua_library_dirs)
    temporary = "\n".join(f"  {name}_temp_path {state}/{name};" for name in TEMPORARY)
    user = f"user {of_nginx.user};\n" if of_nginx.user else ""
    return f"""\
# Written by `ollama-fleet gateway render`. Change the settings file and render again.
daemon off;
{user}\
worker_processes {of_nginx.workers};
worker_rlimit_nofile {of_nginx.connections + 1024};
worker_shutdown_timeout {_seconds(of_nginx.shutdown_timeout)};
pid {state}/nginx.pid;
error_log stderr warn;
{modules}
events {{ worker_connections {of_nginx.connections}; }}
http {{
{temporary}
  lua_package_path "{lua_path};;";
  lua_package_cpath "{lua_cpath};;";
  lua_shared_dict fleet_slots 1m;
  lua_shared_dict fleet_list 256m;
  lua_shared_dict fleet_metrics 64m;
  lua_shared_dict fleet_usage 32m;
  lua_max_running_timers 64;
  lua_socket_log_errors off;
  init_by_lua_block {{ require("fleet.settings").load("{folder / LUA_SETTINGS_FILE}") }}
  init_worker_by_lua_block {{ require("fleet.router").start() }}

{_log_format(settings)}  server_tokens off;
  access_log off;
  default_type application/json;
  reset_timedout_connection on;
  keepalive_requests 100000;
  client_max_body_size {settings.requests.max_body};
  client_body_buffer_size {min(settings.requests.max_body, CHUNKED_BYTES)};
  client_header_timeout {_seconds(settings.requests.header_timeout)};
  client_body_timeout {_seconds(settings.requests.body_timeout)};
  send_timeout {_seconds(settings.requests.send_timeout)};

  upstream fleet {{
    server 0.0.0.1; # no request goes there: the balancer chooses
    balancer_by_lua_block {{ require("fleet.router").balance() }}
    balancer_keepalive {of_nginx.idle_connections};
  }}
{_traffic_server(settings)}{_ops_server(settings)}}}
"""


def _traffic_server(settings: Settings) -> str:
    return f"""\
  server {{
    listen {_listen(settings)};
{_tls(settings)}\
{_access_log(settings)}\
    # Lines of errors show a request's query; the series and the access log tell of them too.
    error_log stderr crit;
    add_header X-Request-Id $request_id always;
    log_by_lua_block {{ require("fleet.request").log() }}
    location / {{
      # A client that leaves while its request waits for room gives its turn to the next one.
      lua_check_client_abort on;
      access_by_lua_block {{ require("fleet.request").access() }}
      header_filter_by_lua_block {{ require("fleet.request").header_filter() }}
      body_filter_by_lua_block {{ require("fleet.request").body_filter() }}
      proxy_pass http://fleet;
      proxy_http_version 1.1;
      # Ollama refuses names of other hosts and other origins. Instances see no key of a client's,
      # and do not compress what the gateway reads.
      proxy_set_header Host localhost;
      proxy_set_header Connection "";
      proxy_set_header Origin "";
      proxy_set_header Authorization "";
      proxy_set_header Accept-Encoding "";
      proxy_ignore_headers X-Accel-Redirect X-Accel-Buffering X-Accel-Charset X-Accel-Expires
        X-Accel-Limit-Rate;
      proxy_buffering off;
      proxy_buffer_size 16k;
      proxy_buffers 8 16k;
      proxy_connect_timeout {_seconds(settings.requests.connect_timeout)};
      proxy_send_timeout {_seconds(settings.requests.answer_timeout)};
      proxy_read_timeout {_seconds(settings.requests.answer_timeout)};
      # The balancer decides which failure is tried again, and how often.
      proxy_next_upstream error timeout http_503 non_idempotent;
    }}
  }}
"""


def _ops_server(settings: Settings) -> str:
    return f"""\
  server {{
    listen {settings.listen.ops_address};
    location = /healthz {{ content_by_lua_block {{ require("fleet.router").healthz() }} }}
    location = /metrics {{ content_by_lua_block {{ require("fleet.metrics").serve() }} }}
    location = /usage {{ content_by_lua_block {{ require("fleet.usage").serve() }} }}
    location / {{ return 404; }}
  }}
"""


def _listen(settings: Settings) -> str:
    # A socket for each worker: one worker takes most connections of a socket that they share.
    tls = " ssl" if settings.listen.tls_certificate else ""
    return f"{settings.listen.address}{tls} reuseport backlog=4096"


def _log_format(settings: Settings) -> str:
    # fleet/accesslog.lua sets the last variable.
    return f"  log_format fleet escape=none '{LOG_FORMAT}';\n" if settings.log.access_file else ""


def _access_log(settings: Settings) -> str:
    path = settings.log.access_file
    if path is None:
        return ""
    return f"""\
    set $fleet_log "";
    access_log {path} fleet buffer=64k flush=1s;
"""


def _tls(settings: Settings) -> str:
    listen = settings.listen
    if listen.tls_certificate is None:
        return ""
    return f"""\
    ssl_certificate {listen.tls_certificate};
    ssl_certificate_key {listen.tls_key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:fleet_tls:8m;
"""


def unit(settings: Settings, nginx: Nginx, folder: Path) -> str:
    """Return the systemd unit; LuaJIT compiles at run time, so memory may be made executable."""
    run = f"{nginx.binary} -e stderr -p {folder} -c {folder / CONF_FILE}"
    return f"""\
[Unit]
Description=Gateway of the fleet
After=network-online.target
Wants=network-online.target

[Service]
ExecStartPre={run} -t
ExecStart={run}
ExecReload={run} -t
ExecReload=/bin/kill -HUP $MAINPID
KillSignal=SIGQUIT
KillMode=mixed
TimeoutStopSec={round(settings.nginx.shutdown_timeout) + 10}
Restart=always
RestartSec=1
DynamicUser=yes
{_writable(Path(settings.nginx.state_dir))}
LimitNOFILE={2 * (settings.nginx.connections + 1024)}
{SANDBOX}

[Install]
WantedBy=multi-user.target
"""


def _writable(state_dir: Path) -> str:
    if state_dir.is_relative_to(STATE_ROOT):
        return f"StateDirectory={state_dir.relative_to(STATE_ROOT)}"
    return f"ReadWritePaths={state_dir}"
