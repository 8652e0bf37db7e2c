"""Built-in tasks: questions by index, and exact verifiers. Imports neither jax nor any optional package."""

from collections.abc import Callable

from jaxrl_tok.tasks import arithmetic, gym
from jaxrl_tok.tasks.arithmetic import Arithmetic as Arithmetic
from jaxrl_tok.tasks.example import Example as Example
from jaxrl_tok.tasks.example import Prompt as Prompt
from jaxrl_tok.tasks.gym import Gym as Gym

TASKS: dict[str, Callable] = {"arithmetic": Arithmetic, "gym": Gym}

# What the column `verifier` names: (completion, answer, **columns) -> 1.0 or 0.0.
VERIFIERS: dict[str, Callable[..., float]] = {"arithmetic": arithmetic.verify, "gym": gym.verify}

# What a completion answers, as far as its task can tell; majority votes are between these.
EXTRACTORS: dict[str, Callable[[str], str]] = {"arithmetic": arithmetic.extract, "gym": gym.extract}
