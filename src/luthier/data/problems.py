"""Collects what is wrong with rows: one error with the first places of every kind, and how many more there are."""

from __future__ import annotations

from luthier.errors import DataError, Problem

SHOWN_PER_KIND = 5


class RowError(Exception):
    """One row cannot be used; whoever knows the row's place turns it into a `Problem`."""

    def __init__(self, code: str, found: str, fix: str) -> None:
        super().__init__(found)
        self.code, self.found, self.fix = code, found, fix


def refuse(code: str, found: str, fix: str, where: str = "") -> DataError:
    """A `DataError` with a single problem."""
    return DataError(_problem(code, found, fix, where))


def printable(text: str) -> str:
    """Text that is safe on a terminal and in a log: rows are quoted in messages, and they may hold anything."""
    return "".join(character if character.isprintable() else "·" for character in text)


def _problem(code: str, found: str, fix: str, where: str) -> Problem:
    return Problem(code, printable(found), printable(fix), printable(where))


class Problems:
    """Problems of one kind (same code, same fix) are shown up to five times and counted beyond."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, str], list[Problem]] = {}
        self._count: dict[tuple[str, str], int] = {}
        self._droppable: set[tuple[str, str]] = set()

    def __bool__(self) -> bool:
        return bool(self._count)

    def add(self, code: str, found: str, fix: str, where: str, *, droppable: bool = False) -> None:
        """Note one problem at one place; `droppable` when `data.bad_rows: drop` would leave that row out."""
        kind = (code, fix)
        self._droppable |= {kind} if droppable else set()
        self._count[kind] = self._count.get(kind, 0) + 1
        shown = self._shown.setdefault(kind, [])
        if len(shown) < SHOWN_PER_KIND:
            shown.append(_problem(code, found, fix, where))

    def raise_if_any(self) -> None:
        """Raise all of them as one error.

        Raises:
            DataError: If anything was noted.
        """
        problems: list[Problem] = []
        for kind, shown in self._shown.items():
            more = self._count[kind] - len(shown)
            if kind in self._droppable:  # all of them with one fix, so that they stand together
                fix = f"{shown[-1].fix}; or leave such rows out: bad_rows: drop"
                shown = [Problem(one.code, one.found, fix, one.where) for one in shown]
            last = shown[-1]
            if more:
                rows = "row" if more == 1 else "rows"
                last = Problem(last.code, f"{last.found} (and {more:,} more {rows} like this)", last.fix, last.where)
            problems += [*shown[:-1], last]
        if problems:
            raise DataError(*problems)
