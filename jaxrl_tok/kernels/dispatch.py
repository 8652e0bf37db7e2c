"""The choice of a kernel's backend: in Python, before tracing, and never another one than was asked for."""

from collections.abc import Mapping

from jaxrl_tok.errors import ConfigError, nearest


def choose(backend: str, candidates: Mapping[str, str | None]) -> str:
    """Returns the name of the backend to run.

    Args:
        backend: a candidate's name, or "auto" for the first candidate that can run.
        candidates: each backend's name with the reason why it cannot run here, `None` if it can; best first.

    Raises:
        ConfigError: the name is unknown, the named backend cannot run, or none can.
    """
    if backend == "auto":
        for name, obstacle in candidates.items():
            if obstacle is None:
                return name
        reasons = "; ".join(f"{name}: {obstacle}" for name, obstacle in candidates.items())
        raise ConfigError(f"backend 'auto': no backend can run ({reasons})")
    if backend not in candidates:
        raise ConfigError(f"unknown backend {backend!r}; {nearest(backend, ['auto', *candidates])}")
    obstacle = candidates[backend]
    if obstacle is not None:
        raise ConfigError(f"backend {backend!r} cannot run: {obstacle}")
    return backend
