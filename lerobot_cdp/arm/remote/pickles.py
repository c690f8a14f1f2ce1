"""Pickles, read without running anything.

A pickle is a program: it names functions and classes, and calls them. LeRobot's client sends its requests so. Here
nothing that a pickle names is ever looked up. Each name becomes a new, empty class, whose objects note what they are
made with; what comes out is plain data and such notes:

    numpy.dtype("u1")  →  Note("numpy.dtype", args=("u1",))

`value` then makes numbers and arrays of the notes, by itself: NumPy's own functions trust a pickle with the layout of
the memory.
"""

import io
import math
import pickle
import pickletools
import re

import numpy as np

__all__ = ["Note", "read", "value"]

MAX_OPERATIONS = 20_000  # of a pickle; an observation has about eight for each number, and 40 for a picture
MAX_AXES = 4
DTYPE = re.compile(r"b1|[iu][1248]|f[248]")
NDARRAY, NP_DTYPE = "numpy.ndarray", "numpy.dtype"
# By the names of NumPy 1 and 2.
RECONSTRUCT = ("numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct")
SCALAR = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
FROM_BUFFER = ("numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer")  # as Python 3.14 pickles arrays
OF_NUMPY = {NDARRAY, NP_DTYPE, *RECONSTRUCT, *SCALAR, *FROM_BUFFER}


class Note:
    """What a pickle would have made: the name, the arguments and the state.

    Attributes:
        name: of what it would have called.
        args: the arguments.
        state: what it would have set after that, or None.
    """

    name = ""

    def __new__(cls, *args):
        note = object.__new__(cls)
        note.args, note.state = args, None
        return note

    def __setstate__(self, state):
        self.state = state


def read(data: bytes, names: set[str]) -> object:
    """The content of a pickle: numbers, text, bytes, containers, and a `Note` for each thing that is named.

    Args:
        data: the pickle.
        names: what it may name besides arrays.

    Raises:
        ValueError: if it names anything else, or is no pickle.
    """
    try:
        _check_operations(data)
        return _Reader(data, names | OF_NUMPY).load()
    except Exception as error:  # of a bad pickle, anything may come
        raise ValueError(f"a pickle of {_joined(names)} was expected. Got one that cannot be read: {error}") from error


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes, names: set[str]):
        super().__init__(io.BytesIO(data))
        self._names = names

    def find_class(self, module: str, name: str) -> type[Note]:
        full = f"{module}.{name}"
        if full not in self._names:
            raise ValueError(f"it may not name {full[:200]!r}")
        # A new one each time: a pickle can set attributes of a class, and this one is nobody else's.
        return type("Note", (Note,), {"name": full})


def _check_operations(data: bytes) -> None:
    """What costs more memory or time than the data has bytes: a far place in the memo, or very many operations."""
    for n, (operation, argument, _) in enumerate(pickletools.genops(data)):
        if n >= MAX_OPERATIONS or ("PUT" in operation.name and argument > MAX_OPERATIONS):
            raise ValueError(f"it must have at most {MAX_OPERATIONS} operations")


def _joined(names: set[str]) -> str:
    return " or ".join(sorted(name.rpartition(".")[2] for name in names))


def value(noted: object) -> bool | int | float | str | np.ndarray:
    """A number, a text, or an array of numbers.

    Raises:
        ValueError: if it is anything else.
    """
    if type(noted) in (bool, int, float, str):
        return noted
    if isinstance(noted, Note) and noted.name in RECONSTRUCT:
        _, shape, dtype, is_fortran, data = _tuple(noted.state, 5)
        return _array(data, dtype, shape, "F" if is_fortran is True else "C")
    if isinstance(noted, Note) and noted.name in FROM_BUFFER:
        data, dtype, shape, order = _tuple(noted.args, 4)
        return _array(data, dtype, shape, "F" if order == "F" else "C")
    if isinstance(noted, Note) and noted.name in SCALAR:
        dtype, data = _tuple(noted.args, 2)
        return _array(data, dtype, (), "C").item()
    raise ValueError(f"a number, a text or an array of numbers was expected. Got {_kind(noted)}")


def _tuple(noted: object, n: int) -> tuple:
    if type(noted) is not tuple or len(noted) != n:
        raise ValueError(f"an array of NumPy was expected. Got {_kind(noted)}")
    return noted


def _array(data: object, dtype: object, shape: object, order: str) -> np.ndarray:
    dtype = _dtype(dtype)
    fits = type(shape) is tuple and len(shape) <= MAX_AXES and all(type(n) is int and n > 0 for n in shape)
    if type(data) not in (bytes, bytearray) or not fits or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("an array of NumPy was expected. Got one whose shape is not that of its data")
    array = np.frombuffer(bytearray(data), dtype).reshape(shape, order=order)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _dtype(noted: object) -> np.dtype:
    if isinstance(noted, Note) and noted.name == NP_DTYPE and noted.args and type(noted.state) is tuple:
        code, order = noted.args[0], noted.state[1:2]
        if type(code) is str and DTYPE.fullmatch(code) and order in (("<",), (">",), ("|",), ("=",)):
            return np.dtype(code).newbyteorder(order[0])
    raise ValueError(f"an array of numbers was expected. Got one of {_kind(noted)}")


def _kind(noted: object) -> str:
    """What it is, in a few words: what was sent is not worth more."""
    return noted.name if isinstance(noted, Note) and noted.name else f"a {type(noted).__name__}"
