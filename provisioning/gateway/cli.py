"""The commands `ollama-fleet gateway …`: render nginx's configuration and check it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from provisioning.gateway import check as checking
from provisioning.gateway import config, nginx
from provisioning.gateway.errors import GatewayError
from provisioning.gateway.keys_cli import keys_group, usage_command
from provisioning.gateway.render import CONF_FILE, render

CONFIG_FILE_VARIABLE = "OLLAMA_FLEET_GATEWAY_CONFIG_FILE"


class _Group(click.Group):
    """Turns our errors into click's, for every command alike."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GatewayError as error:
            raise click.ClickException(str(error)) from error


def config_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option that names the settings file."""
    return click.option(
        "--config.file",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar=CONFIG_FILE_VARIABLE,
        help=f"YAML file with settings. [env: {CONFIG_FILE_VARIABLE}]",
    )(command)


@click.group(cls=_Group, short_help="Route requests to the instances of a fleet.")
def gateway() -> None:
    """Route requests to the instances of a fleet, by nginx with its Lua module."""


@gateway.command("render")
@config_option
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for nginx.conf, the Lua files and the systemd unit.",
)
def render_command(config_file: Path | None, output_dir: Path) -> None:
    """Write nginx's configuration and a systemd unit."""
    render(config.load(config_file), nginx.installed(), output_dir)
    click.echo(f"wrote {output_dir / CONF_FILE}", err=True)


@gateway.command("check")
@config_option
def check_command(config_file: Path | None) -> None:
    """Check the settings, nginx's configuration and the list of instances."""
    fleet = checking.check(config.load(config_file), nginx.installed())
    click.echo(f"ok instances={fleet.n_instances} models={fleet.n_models} source={fleet.source}")


gateway.add_command(keys_group)
gateway.add_command(usage_command)
