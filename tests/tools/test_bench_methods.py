from jaxrl_tok.config.bind import bind
from jaxrl_tok.config.catalogue import rows
from jaxrl_tok.train.recipe import REGISTRIES, supplier
from tools import bench_methods


def test_every_method_finds_its_arrays(monkeypatch):
    """A method that is new must be timed too, and not end the tool."""
    for name, size in {"P": 1, "G": 2, "B": 2}.items():
        monkeypatch.setattr(bench_methods, name, size)
    stages = {"assemble": bench_methods.assemble_arrays(), "step": bench_methods.step_arrays()}
    for row in rows(REGISTRIES, supplier):
        sized = {"vocab_size": bench_methods.VOCABULARY} if "vocab_size" in row.hyper else {}
        arrays = stages[row.stage.partition(" ")[0]]
        missing = bind(REGISTRIES[row.slot], row.name, **sized).needs - arrays.keys()
        assert not missing - {"prepared", "state"}, f"{row.name}: {missing}"
