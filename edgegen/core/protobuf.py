"""A reader for the fields of protobuf messages in pure Python, so that a damaged or malicious file
causes an error and never a crash of the process.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
_FIXED = {FIXED64: 8, FIXED32: 4}


class Message:
    """One protobuf message, read lazily. Reading it raises ValueError if it is malformed.

    If a field occurs more than once, `text` and `integer` return the last, and `one` refuses it.
    """

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def fields(self) -> Iterator[tuple[int, int | memoryview]]:
        """Yield the number and value of each field: an int for varints, otherwise bytes."""
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
        """Yield the messages in all fields of that number."""
        for found, value in self.fields():
            if found == number:
                yield Message(_bytes(value))

    def one(self, number: int) -> Message | None:
        """Return the message of that number, or None. ValueError if there are two, because parsers
        would merge them.
        """
        found = list(self.all(number))
        if len(found) > 1:
            raise ValueError(f"field {number} stands twice")
        return found[0] if found else None

    def text(self, number: int) -> str:
        """Return the text in the last field of that number, or "" if there is none."""
        last = b""
        for found, value in self.fields():
            if found == number:
                last = bytes(_bytes(value))
        return last.decode("utf-8", "replace")

    def texts(self, number: int) -> list[str]:
        return [bytes(part.data).decode("utf-8", "replace") for part in self.all(number)]

    def integer(self, number: int) -> int:
        """Return the integer in the last field of that number, or 0 if there is none."""
        last = 0
        for found, value in self.fields():
            if found == number:
                last = _integer(value)
        return last

    def integers(self, number: int) -> list[int]:
        """Return the integers in all fields of that number, which may be packed."""
        numbers: list[int] = []
        for found, value in self.fields():
            if found == number:
                numbers += [value] if isinstance(value, int) else packed(value)
        return numbers


def packed(data: memoryview) -> list[int]:
    """Return the varints in a packed field."""
    numbers, place = [], 0
    while place < len(data):
        number, place = _varint(data, place)
        numbers.append(number)
    return numbers


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Return the value of the varint at `place`, and the position after it."""
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
