"""Reward functions that do every wrong thing; run in workers by test_pool.py and test_worker.py."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time


def act(prompts, completions, do):
    """Does what the column `do` says for each sample; where that returns, scores by the completion."""
    return [ACTIONS[name](completion) for name, completion in zip(do, completions, strict=True)]


def numbers(prompts, completions):
    return [float(c) for c in completions]


def slow_first(prompts, completions, *, seconds):
    """The earlier the sample, the later the answer."""
    time.sleep(seconds / (1 + float(completions[0])))
    return [float(c) for c in completions]


def constant(completions, *, value=2.5):
    return [value] * len(completions)


def one_short(prompts, completions):
    return [1.0] * (len(completions) - 1)


def one_short_if_told(prompts, completions, short):
    return [1.0] * (len(completions) - any(short))


def one_float(prompts, completions):
    return 1.0


def nothing(prompts, completions):
    completions.sort()


def always_raises(prompts, completions):
    raise ValueError("bad\n  luck")


def always_hangs(prompts, completions):
    time.sleep(60)


def raises_until_told(prompts, completions, fine):
    if not all(fine):
        raise ConnectionError("the judge is down")
    return [1.0] * len(completions)


def answer_length(prompts, completions, answer, bonus=None, *, scale=1.0):
    """Takes one column, knows another, and an option."""
    extra = bonus or [0] * len(answer)
    return [scale * len(a) + b for a, b in zip(answer, extra, strict=True)]


def count_columns(prompts, completions, **columns):
    return [float(len(columns)) for _ in completions]


async def together(prompts, completions):
    """Takes 0.1 s however many there are; raises where the completion is 'bad'."""
    import asyncio  # here, so that a test can see that workers do not import it

    async def one(completion):
        await asyncio.sleep(0.1)
        if completion == "bad":
            raise ValueError("async")
        return float(len(completion))

    return await asyncio.gather(*map(one, completions))


def imported(prompts, completions):
    """1 where the module that the completion names has been imported into this worker."""
    return [float(c in sys.modules) for c in completions]


def environment(prompts, completions):
    return [os.environ.get(c) == "cpu" for c in completions]


def import_slowly():
    time.sleep(0.6)
    ACTIONS["warm"] = float


def warm(completions):
    return ["warm" in ACTIONS for _ in completions]


def pids_then_hang(prompts, completions, file):
    """Starts a child in a session of its own, writes the three process ids, then hangs."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    with open(file[0], "a") as out:
        print(os.getppid(), os.getpid(), child.pid, file=out)
    time.sleep(60)


def _raise(error):
    raise error


def _hang_in_c(_):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(60)


def _print(completion):
    print('{"kind": "values", "scores": [9], "wrong": {}}')
    print("garbage", flush=True)
    os.write(1, b"more garbage\n")
    return 1.0


ACTIONS = {
    "score": float,
    "true": lambda _: True,
    "abstain": lambda _: None,
    "raise": lambda c: _raise(KeyError(c)),
    "interrupt": lambda _: _raise(KeyboardInterrupt()),
    "give up": lambda _: _raise(GeneratorExit()),
    "sys.exit": lambda _: sys.exit("bye"),
    "os._exit": lambda _: os._exit(3),
    "segfault": lambda _: ctypes.string_at(0),
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda _: time.sleep(60),
    "hang in C": _hang_in_c,
    "hang in re": lambda _: re.fullmatch("(a+)+", "a" * 64 + "b"),
    "nan": lambda _: float("nan"),
    "infinite": lambda _: float("-inf"),
    "beyond float32": lambda _: 1e39,
    "string": lambda _: "1",
    "list": lambda _: [1.0],
    "print": _print,
    "read": lambda _: float(len(sys.stdin.read())),
    "close": lambda _: os.closerange(3, 100),
}
