"""The models of one instance: which are installed, and which are loaded for how long.

In:   what clients ask for: to load, use, unload, install, copy and delete models.
Out:  the models that `/api/tags` and `/api/ps` list.
No timer runs: a model whose time is over is dropped when somebody looks. An instance has a
ModelCache only once a client or a fault has changed something; until then its own model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from provisioning.simulator.spec import Model

KEEP_ALIVE_S = 300.0
"""How long a model stays loaded after a request that does not say."""


@dataclass(slots=True)
class Loaded:
    """A model in memory."""

    model: Model
    keep_alive_s: float = KEEP_ALIVE_S
    free_since_s: float | None = None
    """When its last request ended; None: the instance's imagined clients go on asking it."""
    n_users: int = 0
    is_loading: bool = False
    """It has its place, and is not listed yet."""
    loaded_s: float = 0.0
    """When the load ended, by the loop's clock."""

    @property
    def is_in_use(self) -> bool:
        """Say whether requests wait for it or are answered by it."""
        return self.is_loading or self.n_users > 0

    def expires_s(self, now_s: float) -> float:
        """Return when it will be unloaded if nobody asks it again."""
        since_s = now_s if self.is_in_use or self.free_since_s is None else self.free_since_s
        return since_s + self.keep_alive_s

    def is_over(self, now_s: float) -> bool:
        """Say whether its time is over."""
        return not self.is_in_use and self.expires_s(now_s) <= now_s

    @contextmanager
    def using(self, keep_alive_s: float | None, clock: Callable[[], float]) -> Iterator[None]:
        """Keep it in memory; its time to stay begins when nobody uses it any more."""
        if keep_alive_s is not None:
            self.keep_alive_s = keep_alive_s
            self.free_since_s = clock()
        self.n_users += 1
        try:
            yield
        finally:
            self.n_users -= 1
            if self.free_since_s is not None:
                self.free_since_s = clock()


def canonical(name: str) -> str:
    """Return what tells one model from another: any case, `latest` where no tag is given."""
    lowered = name.lower()
    return lowered if ":" in lowered.rpartition("/")[2] else f"{lowered}:latest"


class ModelCache:
    """What one instance has in its store and in memory."""

    def __init__(self, installed: Iterable[Model], *, max_loaded: int) -> None:
        """Install models; the first is loaded."""
        self._installed = {canonical(model.name): model for model in installed}
        self._max_loaded = max_loaded
        self._loaded: dict[str, Loaded] = {}
        self.restart()

    @property
    def installed(self) -> tuple[Model, ...]:
        """Return the models in the store."""
        return tuple(self._installed.values())

    def restart(self) -> None:
        """Be as after the server's start, once its imagined clients have asked."""
        self._loaded = {name: Loaded(model) for name, model in [*self._installed.items()][:1]}

    def find(self, name: str) -> Model | None:
        """Return the installed model of a name as clients write it."""
        return self._installed.get(canonical(name))

    def install(self, model: Model) -> None:
        """Put a model into the store."""
        self._installed[canonical(model.name)] = model

    def copy(self, model: Model, name: str) -> None:
        """Put a model into the store under one more name."""
        tagged = name if canonical(name) == name.lower() else f"{name}:latest"
        self.install(replace(model, name=tagged))

    def delete(self, model: Model) -> None:
        """Take a model out of the store; while it is loaded it goes on working."""
        del self._installed[canonical(model.name)]

    def clear(self) -> None:
        """Empty the store and the memory."""
        self._installed.clear()
        self._loaded.clear()

    def loaded(self, now_s: float) -> list[Loaded]:
        """Return the loaded models, the one that stays longest first."""
        loaded = [one for one in self._in_memory(now_s).values() if not one.is_loading]
        return sorted(loaded, key=lambda one: -one.expires_s(now_s))

    def find_loaded(self, model: Model, now_s: float) -> Loaded | None:
        """Return a model in memory, or None where it has to be loaded."""
        return next((one for one in self.loaded(now_s) if one.model == model), None)

    def reserve(self, model: Model, now_s: float) -> Loaded | None:
        """Give a model that is to be loaded its place in memory; None: there is no room."""
        name = canonical(model.name)
        if name not in self._in_memory(now_s):
            if len(self._loaded) >= self._max_loaded:
                return None
            self._loaded[name] = Loaded(model, free_since_s=now_s)
        loaded = self._loaded[name]
        loaded.model, loaded.is_loading = model, True
        return loaded

    def victim(self) -> Model:
        """Return the model that has to go before another is loaded: idle, for the shortest time."""
        in_memory = self._loaded.values()
        return min(in_memory, key=lambda one: (one.is_in_use, one.keep_alive_s)).model

    def take(self, model: Model) -> None:
        """Take a model out of memory at once."""
        self._loaded.pop(canonical(model.name), None)

    def expire(self, model: Model) -> None:
        """Unload a model as soon as nobody uses it."""
        loaded = self._loaded.get(canonical(model.name))
        if loaded is not None:
            loaded.keep_alive_s, loaded.free_since_s = 0.0, 0.0

    def expire_all(self) -> None:
        """Unload every model as soon as nobody uses it."""
        for loaded in tuple(self._loaded.values()):
            self.expire(loaded.model)

    def _in_memory(self, now_s: float) -> dict[str, Loaded]:
        """Drop the models whose time is over; return the others by name."""
        self._loaded = {
            name: loaded for name, loaded in self._loaded.items() if not loaded.is_over(now_s)
        }
        return self._loaded
