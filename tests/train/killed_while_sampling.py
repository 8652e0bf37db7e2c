"""The command, killed while the device samples: `python -m tests.train.killed_while_sampling BATCHES train ...`."""

import os
import signal
import sys
from typing import Any

import jax

from jaxrl_tok import cli
from jaxrl_tok.train import rounds
from jaxrl_tok.types import Rollouts


def main() -> None:
    """Runs the command; kills it when so many batches are there and the next one is being sampled."""
    batches, fetch = int(sys.argv.pop(1)), rounds.to_host
    fetched = 0

    def fetch_or_kill(arrays: Any) -> Any:
        nonlocal fetched
        if isinstance(arrays, Rollouts):
            if fetched == batches and not all(leaf.is_ready() for leaf in jax.tree.leaves(arrays)):
                os.kill(os.getpid(), signal.SIGKILL)
            fetched += 1
        return fetch(arrays)

    rounds.to_host = fetch_or_kill
    cli.command()


if __name__ == "__main__":
    main()
