"""A model that a function of the user's makes: `[model] function = "module:function"`."""

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxrl_tok.config.schema import OwnModelConfig, Run
from jaxrl_tok.errors import ConfigError, JaxrlTokError, RewardError, nearest
from jaxrl_tok.models import Model, TrieModel
from jaxrl_tok.rewards.call import describe, imported
from jaxrl_tok.train.compilation import compiled

# Settings of a model's inside: the function may take them by name; one that it does not take keeps its default.
INSIDE = {"dtype": "train", "remat": "train", "unroll": "train", "scan_layers": "rollout"}


def load(config: OwnModelConfig, run: Run, vocab: int, folder: Path | None, dtype: str) -> tuple[Model, Any]:
    """Returns the model, and its parameters or a function of no arguments that makes them.

    Of `vocab` (the tokenizer's size), `seed`, `dtype`, `remat`, `unroll` and `scan_layers` the function gets those
    that it has parameters for; the other keys of the table are its options. Modules are looked for in `folder` first.
    `dtype` is what `train.dtype` comes to on the devices of the run.

    Raises:
      ConfigError: the function cannot be found or called, raised, or returned something else.
    """
    where = f"model.function = {config.function}"
    module, colon, attribute = config.function.partition(":")
    if not (colon and module and attribute.isidentifier()):
        raise ConfigError(f"{where}: expected module:function")
    if folder is not None and str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))
    try:
        function = imported(where, module, attribute)
    except RewardError as error:
        raise ConfigError(str(error)) from None
    arguments = _arguments(where, function, config.options, run, vocab, dtype)
    try:
        made = function(**arguments)
    except JaxrlTokError:
        raise
    except Exception as error:
        raise ConfigError(f"{where}: {describe(error, function)}") from error
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Model)):
        raise ConfigError(f"{where}: returned a {type(made).__name__}; expected (model, parameters), as from_nnx gives")
    model, params = made
    if model.vocab < vocab:
        raise ConfigError(f"{where}: its vocabulary is {model.vocab}; expected at least the tokenizer's {vocab}")
    if run.train.share_prefix == "tree" and not isinstance(model, TrieModel):
        raise ConfigError(f'train.share_prefix = "tree": expected "prompt", as {where} has no forward_tries')
    return model, params


def first_params(params: Any, shardings: Any, dtype: Any) -> Any:
    """Returns the parameters that a run starts from, in their type and where the mesh has them."""

    def cast(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(dtype), tree)

    if callable(params):
        return compiled(lambda: cast(params()), out_shardings=shardings)()
    return jax.device_put(cast(params), shardings)


def _arguments(
    where: str, function: Any, options: Mapping[str, Any], run: Run, vocab: int, dtype: str
) -> dict[str, Any]:
    """Binds what the function takes, by name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: expected a Python function with a signature") from None
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, section in INSIDE.items():
        settings = getattr(run, section)
        value, default = getattr(settings, name), type(settings).model_fields[name].default
        if name not in parameters and value != default:
            raise ConfigError(f"{section}.{name} = {value}: expected {default}, as {where} takes no {name!r}")
    for key in options:
        if key not in parameters and not takes_all:
            hint = nearest(key, parameters) if parameters else "it has none"
            raise ConfigError(f"{where}: has no option {key!r}; {hint}")
    offered = {name: getattr(getattr(run, section), name) for name, section in INSIDE.items()}
    offered |= {"vocab": vocab, "seed": run.run.seed, "dtype": dtype}
    given = {name: value for name, value in offered.items() if name in parameters} | dict(options)
    missing = [name for name, p in parameters.items() if name not in given and _required(p)]
    if missing:
        raise ConfigError(f"{where}: {missing[0]!r} is not set; set it beside `function`")
    return given


def _required(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic
