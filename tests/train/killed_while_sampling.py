"""The command, killed while it samples: `python -m tests.train.killed_while_sampling BATCHES train ...`."""

import os
import signal
import sys
import threading
from typing import Any

from jaxrl_tok import cli
from jaxrl_tok.train import drawn, rl


def main() -> None:
    """Runs the command; a millisecond into the sampling of a batch behind so many it is killed."""
    batches, sample = int(sys.argv.pop(1)), drawn.drawn
    begun = done = 0

    def kill(batch: int) -> None:
        if done < batch:
            os.kill(os.getpid(), signal.SIGKILL)

    def sampled(*arguments: Any) -> drawn.Drawn:
        nonlocal begun, done
        begun += 1
        if begun > batches:
            threading.Timer(1e-3, kill, [begun]).start()
        found = sample(*arguments)
        done = begun
        return found

    rl.drawn = sampled
    cli.command()


if __name__ == "__main__":
    main()
