import errno
import os

import pytest

from jaxrl_tok.io.files import replace_atomically, why


def test_a_replacement_that_fails_leaves_the_old_content_and_no_rest(tmp_path):
    path = tmp_path / "note"
    replace_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half of the ne")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError):
        replace_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["note"]
    replace_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"


def test_why_is_short_and_on_one_line():
    assert why(OSError(errno.EACCES, "Permission denied", "/a/b")) == "Permission denied"
    chain = "RESOURCE_EXHAUSTED: Error writing \"x\"\n in \"/a\": Failed to write [os_error_code='28'] [x='y']"
    assert why(ValueError(chain)) == "No space left on device"
    assert why(ValueError("two\n  lines")) == "two lines"
    assert why(ValueError("x" * 1000)) == "x" * 200 + "..."
    assert why(TimeoutError()) == "TimeoutError"
