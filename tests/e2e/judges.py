"""Reward functions of the end-to-end tests: sound ones, and ones with a fault in chosen samples."""

import time

from tests.rewards.functions import ACTIONS

calls = 0


def length(completions):
    return [float(len(c)) for c in completions]


def constant(completions):
    return [1.0] * len(completions)


def constant_for_some(prompts, completions):
    return [1.0 if p == "1+2=" else float(len(c)) for p, c in zip(prompts, completions, strict=True)]


def last_character(completions):
    return [float(ord(c[-1]) % 7) if c else 0.0 for c in completions]


def guilty(prompt, completion):
    """An arbitrary part of the samples that depends on nothing but their text."""
    return prompt == "5+6=" and len(completion) % 3 != 1


def faulty(prompts, completions, *, fault):
    """Scores by length; does what `fault` says for the guilty samples."""
    return [ACTIONS[fault](c) if guilty(p, c) else float(len(c)) for p, c in zip(prompts, completions, strict=True)]


def one_short_once(completions):
    """Returns too few values in its second call."""
    global calls
    calls += 1
    return length(completions)[calls == 2 :]


def works_twice(completions):
    """Scores two batches and then none."""
    global calls
    calls += 1
    if calls > 2:
        raise ConnectionError("the judge is down")
    return length(completions)


def raises(completions):
    raise ValueError("bad luck")


def hangs(completions):
    time.sleep(60)


def not_a_number(completions):
    return [float("nan")] * len(completions)


def text(completions):
    return ["good"] * len(completions)


def too_few(completions):
    return length(completions)[1:]


def one_number(completions):
    return 1.0


def huge(completions):
    """Finite scores of which no two can be added in float32."""
    return [3e38 if len(c) % 2 else 2e38 for c in completions]


def constant_for_even(prompts, completions):
    """Half of the prompts are worth the same whatever is said to them."""
    return [1.0 if int(p[0]) % 2 == 0 else float(len(c)) for p, c in zip(prompts, completions, strict=True)]


def hard_for_even(prompts, completions):
    """Half of the prompts are hardly ever solved, the others always."""
    return [float(int(p[0]) % 2 == 1 or len(c) == 3) for p, c in zip(prompts, completions, strict=True)]


def mostly_right(completions):
    """More than half of any completions, but not all."""
    return [0.6 + 0.4 * (len(c) % 2) for c in completions]


def slow(completions):
    """Scores by length, a while after everything else has been done."""
    time.sleep(1.5)
    return length(completions)
