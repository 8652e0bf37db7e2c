from jaxrl_tok.config.catalogue import markdown, rows


def first(rewards, valid=None, *, length: int, kind: str = "a", cap: float | None = None, on: bool = True):
    """Gives one thing.

    Someone 2020, https://arxiv.org/abs/2001.00001. And https://arxiv.org/abs/2001.00002.
    """


def second(mask):
    """Gives another."""


def test_a_row_holds_what_signature_and_docstring_say():
    one, two = rows({"filter": {"first": first}, "loss": {"second": second}})
    assert (one.slot, one.name, one.reads, one.optional) == ("filter", "first", ("rewards",), ("valid",))
    assert one.hyper == {"length": "", "kind": '"a"', "cap": "unset", "on": "true"}
    assert one.summary == "Gives one thing."
    assert one.source == "https://arxiv.org/abs/2001.00001"
    assert (two.slot, two.hyper, two.source) == ("loss", {}, "")


def test_markdown_has_one_table_a_slot():
    text = markdown(rows({"filter": {"first": first}, "loss": {"second": second}}))
    assert text.count("| method |") == 2
    assert (
        "| [`first`](https://arxiv.org/abs/2001.00001) | `rewards`, `valid`? "
        '| `length` (to be set), `kind = "a"`, `cap = unset`, `on = true` | Gives one thing. |' in text
    )
    assert "| `second` | `mask` | none | Gives another. |" in text
