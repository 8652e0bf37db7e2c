"""The numbers of accelerators, and a name that is none."""

import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.train.chips import CHIPS, chip


@pytest.mark.parametrize(
    ("name", "teraflops", "gigabytes", "bandwidth", "gigabits"),
    [
        # Google's tables: peak bf16 TFLOP/s, HBM2 or HBM capacity, HBM GB/s, interconnect Gbit/s.
        ("v4", 275, 32, 1228, 2400),
        ("v5e", 197, 16, 819, 1600),
        ("v5p", 459, 95, 2765, 4800),
        ("v6e", 918, 32, 1640, 3584),
        # NVIDIA's datasheets.
        ("h100", 989, 80, 3350, 7200),
        ("a100", 312, 80, 2039, 4800),
    ],
)
def test_numbers_are_those_of_the_makers(name, teraflops, gigabytes, bandwidth, gigabits):
    found = chip(name)
    assert (found.flops, found.bandwidth, found.links * 8) == (teraflops * 1e12, bandwidth * 1e9, gigabits * 1e9)
    # What is left to programs: most of it on a TPU, three quarters on a GPU. v5p's "95 GB" are 95.74 GiB.
    share = found.hbm / (gigabytes * 2**30)
    assert 0.95 < share < 1.01 if name.startswith("v") else found.hbm == gigabytes * 1e9 * 0.75


def test_every_chip_is_found_by_its_name():
    assert all(chip(name) is found and found.name == name for name, found in CHIPS.items())


def test_of_a_cpu_nothing_is_known():
    assert chip("cpu") is None


def test_a_name_that_is_none_gets_its_neighbour():
    with pytest.raises(ConfigError, match=r"--topology v5f: no chip of that name; did you mean 'v5"):
        chip("v5f")
