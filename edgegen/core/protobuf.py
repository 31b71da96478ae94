"""The fields of a protobuf message, read in Python: what a damaged or malicious file costs here is
an error, never the process.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
_FIXED = {FIXED64: 8, FIXED32: 4}


class Message:
    """One message. ValueError while it is read if it is none.

    A field may stand more than once: the last of a number counts, and parts of a message are one.
    """

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def fields(self) -> Iterator[tuple[int, int | memoryview]]:
        """Number and value of each: an integer for varints, bytes for all else."""
        data, place, end = self.data, 0, len(self.data)
        while place < end:
            key, place = _varint(data, place)
            number, wire = key >> 3, key & 7
            if not number:
                raise ValueError("a field has no number")
            if wire == VARINT:
                value, place = _varint(data, place)
                yield number, value
                continue
            if wire == BYTES:
                length, place = _varint(data, place)
            elif wire in _FIXED:
                length = _FIXED[wire]
            else:
                raise ValueError(f"a field has the unknown wire type {wire}")
            if length > end - place:
                raise ValueError("a field ends behind the file")
            yield number, data[place : place + length]
            place += length

    def all(self, number: int) -> Iterator[Message]:
        """The messages of that number."""
        for found, value in self.fields():
            if found == number:
                yield Message(_bytes(value))

    def one(self, number: int) -> Message | None:
        """The message of that number. ValueError if there are two: parsers join them."""
        found = list(self.all(number))
        if len(found) > 1:
            raise ValueError(f"field {number} stands twice")
        return found[0] if found else None

    def text(self, number: int) -> str:
        """The last of that number, "" if there is none."""
        last = b""
        for found, value in self.fields():
            if found == number:
                last = bytes(_bytes(value))
        return last.decode("utf-8", "replace")

    def texts(self, number: int) -> list[str]:
        return [bytes(part.data).decode("utf-8", "replace") for part in self.all(number)]

    def integer(self, number: int) -> int:
        """The last of that number, 0 if there is none."""
        last = 0
        for found, value in self.fields():
            if found == number:
                last = _integer(value)
        return last

    def integers(self, number: int) -> list[int]:
        """All of that number, one by one or packed."""
        numbers: list[int] = []
        for found, value in self.fields():
            if found == number:
                numbers += [value] if isinstance(value, int) else packed(value)
        return numbers


def packed(data: memoryview) -> list[int]:
    """The varints in a packed field."""
    numbers, place = [], 0
    while place < len(data):
        number, place = _varint(data, place)
        numbers.append(number)
    return numbers


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Its value and where the next field begins."""
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise ValueError("a number does not end")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where text or a message belongs")
    return value


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes stand where a number belongs")
    return value
