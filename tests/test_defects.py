"""Report of an unexpected exception: type and traceback, but no data of the file."""

import pytest

from cxr_edge import defects


def raise_and_catch(error):
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OverflowError("Python int too large"), "OverflowError: Python int too large;"),
        (MemoryError(), "MemoryError;"),
        (ValueError("invalid literal for int(): 'DOE^JOHN'"), "ValueError: invalid literal for int(): '...';"),
        (ValueError("bad value b'DOE^JOHN', not \"O'DOE\""), "ValueError: bad value '...', not '...';"),
        (KeyError("DOE^JOHN"), "KeyError: '...';"),
        (UnicodeDecodeError("utf-8", b"DOE", 0, 1, "no"), "UnicodeDecodeError: '...' codec can't decode byte"),
        (RuntimeError("first\nDOE^JOHN"), "RuntimeError: first;"),
        (RuntimeError("\x1b[2J"), r"RuntimeError: \x1b[2J;"),
    ],
)
def test_the_reason_names_the_type_and_quotes_nothing_of_the_file(error, expected):
    reason = defects.reason(error)
    assert reason.startswith(f"internal error: {expected}")
    assert "this is a defect of cxr-edge: report it" in reason
    assert "DOE" not in reason + defects.traceback_text(raise_and_catch(error))


def test_the_traceback_includes_the_cause():
    try:
        try:
            {}["DOE^JOHN"]
        except KeyError as error:
            raise ValueError("no") from error
    except ValueError as error:
        trace = defects.traceback_text(error)
    assert trace.count("test_defects.py") == 2
    assert trace.index("KeyError: '...'") < trace.index("which led to:") < trace.index("ValueError: no")
