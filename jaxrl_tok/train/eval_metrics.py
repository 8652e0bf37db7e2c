"""Statistics of held-out evaluation, from which samples are right; independent of the training reward.

An answer that could not be checked counts as wrong: a model must not gain by making its checker fail.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool


def avg_at_k(correct: Bool[np.ndarray, "P K"]) -> float:
    """Mean accuracy of k samples a question, mean over questions.

    avg@k = mean_p mean_k correct[p,k]
    """
    return float(correct.mean())


def pass_at_k(correct: Bool[np.ndarray, "P N"], k: int) -> float:
    """Chance that at least one of k samples is right, estimated without bias from n >= k samples a question.

        pass@k = mean_p (1 - C(n - c[p], k) / C(n, k)),    c[p] = sum_n correct[p,n]

    Chen et al. 2021, eq. 1, https://arxiv.org/abs/2107.03374. The plug-in `1 - (1 - c/n)^k` is too low on
    average.

    Raises:
        ValueError: k is not between 1 and n.
    """
    samples = correct.shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs 1 <= k <= samples a question, which is {samples}")
    wrong = samples - correct.sum(axis=1)
    # C(n-c, k) / C(n, k) as a product of k fractions: no large factorials, and 0 exactly where n - c < k.
    i = np.arange(k)
    all_wrong = np.prod(np.clip(wrong[:, None] - i, 0, None) / (samples - i), axis=1)
    return float(np.mean(1.0 - all_wrong))


def maj_at_k(answers: Sequence[Sequence[str | None]], correct: Bool[np.ndarray, "P K"]) -> float:
    """Accuracy of the most frequent answer of k samples (self-consistency).

        maj@k = mean_p correct[p, first k whose answer is the most frequent of p]

    Wang et al. 2022, https://arxiv.org/abs/2203.11171. Answers are compared after `normalise`. Of equally
    frequent ones the first to appear wins. A sample without an answer (None, or empty) has no vote; a
    question without any answer is wrong.

    Args:
        answers: what each sample answered, not its whole completion.
        correct: whether it is right.
    """
    right = 0
    for row, flags in zip(answers, correct, strict=True):
        votes = [normalise(answer) for answer in row]
        counts = Counter(vote for vote in votes if vote)
        # `most_common` keeps the order of first appearance among equals.
        right += bool(counts) and bool(flags[votes.index(counts.most_common(1)[0][0])])
    return right / len(answers)


def normalise(answer: str | None) -> str:
    """Returns the answer without differences of case and white space; empty for none."""
    return " ".join((answer or "").split()).casefold()


def eval_metrics(
    greedy: Bool[np.ndarray, "P"], correct: Bool[np.ndarray, "P K"], answers: Sequence[Sequence[str | None]]
) -> dict[str, float]:
    """Returns `eval/greedy`, `eval/avg@k`, `eval/pass@k` and `eval/maj@k` of k samples a question.

    Args:
        greedy: whether the greedy completion of each question is right.
        correct: whether each sample is right.
        answers: what each sample answered.
    """
    k = correct.shape[1]
    return {
        "eval/greedy": float(greedy.mean()),
        f"eval/avg@{k}": avg_at_k(correct),
        f"eval/pass@{k}": pass_at_k(correct, k),
        f"eval/maj@{k}": maj_at_k(answers, correct),
    }
