from jaxrl_tok.config.catalogue import markdown, rows


def first(rewards, valid=None, *, length: int, kind: str = "a", cap: float | None = None, on: bool = True):
    """Gives one thing.

    Someone 2020, https://arxiv.org/abs/2001.00001. And https://arxiv.org/abs/2001.00002.

    Fidelity: reconstructed. The scale is
    ours.
    Degenerate: one reward gives 0.
    """


def second(logprobs, mask):
    """Gives another."""


def third(advantages):
    """Changes it."""


def supplier(array):
    return {"rewards": "a judge", "logprobs": "a judge"}.get(array)


def test_a_row_holds_what_signature_and_docstring_say():
    one, two = rows({"filter": {"first": first}, "loss": {"second": second}}, supplier)
    assert (one.slot, one.name, one.reads, one.optional) == ("filter", "first", ("rewards",), ("valid",))
    assert one.hyper == {"length": "", "kind": '"a"', "cap": "unset", "on": "true"}
    assert one.summary == "Gives one thing."
    assert one.source == "https://arxiv.org/abs/2001.00001"
    assert (one.stage, one.fidelity, one.degenerate) == (
        "assemble",
        "reconstructed. The scale is ours",
        "one reward gives 0",
    )
    assert one.needs == ("a judge",)
    assert (two.slot, two.stage, two.hyper, two.source, two.fidelity) == ("loss", "step", {}, "", "")


def test_the_stage_of_a_token_weight_follows_from_what_it_reads():
    (one, two) = rows({"token_weight": {"first": first, "second": second}}, supplier)
    assert (one.stage, two.stage) == ("assemble", "step")


def test_an_advantage_that_reads_advantages_reshapes_them():
    both = {"first": first, "third": third}
    table = rows({"advantage": both, "reshape": both}, supplier)
    assert [(row.slot, row.name) for row in table] == [("advantage", "first"), ("reshape", "third")]


def test_markdown_has_one_table_a_slot():
    text = markdown(rows({"filter": {"first": first}, "loss": {"second": second}}, supplier))
    assert text.count("| method |") == 2
    assert (
        "| [`first`](https://arxiv.org/abs/2001.00001) | assemble | `rewards`, `valid`? "
        '| `length` (to be set), `kind = "a"`, `cap = unset`, `on = true` | Gives one thing. '
        "| reconstructed. The scale is ours | a judge | one reward gives 0 |" in text
    )
    assert "| `second` | step | `logprobs`, `mask` | none | Gives another. |  | a judge |  |" in text
