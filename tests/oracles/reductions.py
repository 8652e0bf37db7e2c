"""Means of a loss over tokens and completions."""


def rows(loss, mask):
    """The trained tokens' losses of each completion that has any."""
    lists = [[float(x) for x, m in zip(loss[b], mask[b], strict=True) if m] for b in range(len(loss))]
    return [row for row in lists if row]


def token_mean(loss, mask):
    values = [x for row in rows(loss, mask) for x in row]
    return sum(values) / len(values)


def sequence_mean_token_mean(loss, mask):
    means = [sum(row) / len(row) for row in rows(loss, mask)]
    return sum(means) / len(means)


def sequence_mean_token_sum(loss, mask):
    sums = [sum(row) for row in rows(loss, mask)]
    return sum(sums) / len(sums)


def constant_length(loss, mask, length):
    return sequence_mean_token_sum(loss, mask) / length
