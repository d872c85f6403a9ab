"""The users of `ollama-fleet load`, for Locust's own command; settings come from its variables."""

from __future__ import annotations

from provisioning.load.cli import load, settings_of
from provisioning.load.users import Developer, Shared

options = load.make_context("load", [], auto_envvar_prefix="OLLAMA_FLEET_LOAD").params
Developer.prepared.set(Shared(settings_of(**options)))
