"""Tasks on dates and times, given as ISO text so that any answer can be called."""

from __future__ import annotations

import calendar
import datetime
from random import Random
from types import SimpleNamespace

from rows.pools import DAY, choice, numbers, separators
from rows.shapes import Arg, Family

YEAR = Arg(("year", "n", "number"), ("season", "era"), ("a year", "the year", "the given year"),
           lambda rng, season: rng.choice([2000, 1900, 2024, 2100, 1600, 2023, rng.randint(1600, 2100)]))  # fmt: skip
OTHER_DAY = Arg(("end", "other", "second"), ("until", "last_day"), ("another date", "a second date"), DAY.sample)
CLOCK = Arg(("text", "time", "clock"), ("moment", "stamp"), ("a time", "a time string", "the time"),
            lambda rng, season: f"{rng.randint(0, 99)}:{rng.randint(0, 59):02}")  # fmt: skip
IMPORT = "from datetime import date"


def _day(text: str) -> datetime.date:
    year, month, day = map(int, text.split("-"))
    return datetime.date(year, month, day)


def _name(p: SimpleNamespace, a: str) -> str:
    return {"%A": calendar.day_name[_day(a).weekday()], "%B": calendar.month_name[_day(a).month],
            "%a": calendar.day_abbr[_day(a).weekday()], "%b": calendar.month_abbr[_day(a).month]}[p.code]  # fmt: skip


def _moved(p: SimpleNamespace, a: str) -> str:
    return datetime.date.fromordinal(_day(a).toordinal() + p.way * p.n * p.unit).isoformat()


def _near_days(rng: Random, p: SimpleNamespace) -> tuple[str, str]:
    day = datetime.date(rng.randint(2000, 2030), rng.randint(1, 12), rng.randint(1, 28))
    return day.isoformat(), (day + datetime.timedelta(days=rng.choice([-30, -1, 0, 1, 7, 45, 400]))).isoformat()


FAMILIES = [
    Family(
        "days_between", (DAY, OTHER_DAY), "return (date.fromisoformat($b) - date.fromisoformat($a)).days$unit",
        ("[count] the $unit from $a to $b", "[return] how many $unit lie between $a and $b",
         "[compute] the number of $unit from $a until $b", "[find] the distance in $unit between $a and $b",
         "[tell] how many $unit pass from $a to $b", "[calculate] the time from $a to $b in $unit",
         "[subtract] $a from $b and [give] the result in $unit", "[work] out how far $b is from $a, counted in $unit",
         "[get] the difference in $unit when going from $a to $b",
         "[measure] the time that runs from $a until $b as a number of $unit"),
        ("[return] the number of $unit between $a and $b", "[find] how many $unit it is from $a until $b"),
        lambda p, a, b: (_day(b).toordinal() - _day(a).toordinal()) // p.unit,
        {"unit": choice(("days", "", 1), ("full weeks", " // 7", 7))}, ("day_count", "date_distance", "time_between"),
        IMPORT, _near_days,
    ),
    Family(
        "date_name", (DAY,), "return date.fromisoformat($a).strftime($code)",
        ("[return] the $code of $a", "[find] the $code for $a", "[give] the $code of $a as text",
         "[tell] the $code of $a", "[look] up the $code that belongs to $a", "[get] the $code from $a",
         "[read] $a and [return] the $code", "[say] which $code $a has", "[turn] $a into the $code",
         "[work] out the $code that goes with $a"),
        ("[give] back the $code for $a", "[find] out the $code of $a"),
        _name,
        {"code": choice(("weekday name|name of the weekday", "'%A'", "%A"),
                        ("month name|name of the month", "'%B'", "%B"),
                               ("short weekday name", "'%a'", "%a"), ("short month name", "'%b'", "%b"))},
        ("day_name", "name_of", "weekday_name"), IMPORT,
    ),
    Family(
        "move_date", (DAY,), "day = date.fromisoformat($a) $way timedelta($unit=$n)\nreturn day.isoformat()",
        ("$way $n $unit $way2 $a", "[return] the date $n $unit $way3 $a", "[move] $a by $n $unit $way4 in time",
         "[compute] which date is $n $unit $way3 $a", "[shift] $a $way4 by $n $unit",
         "[go] $n $unit $way4 from $a and [return] the date",
         "[start] at $a, [step] $n $unit $way4 and [give] the date reached",
         "[get] the date which comes $n $unit $way3 $a", "[tell] what the date is $n $unit $way3 $a",
         "[change] $a so that it lies $n $unit further $way4"),
        ("[find] the date that is $n $unit $way3 $a", "[return] $a moved by $n $unit $way4"),
        _moved, {"n": numbers(2, 60), "unit": choice(("days", "days", 1), ("weeks", "weeks", 7)),
                 "way": choice(("[add] ~ to ~ after ~ forward", "+", 1),
                               ("[subtract] ~ from ~ before ~ back", "-", -1))},
        ("add_days", "shift_date", "date_after"), "from datetime import date, timedelta",
    ),
    Family(
        "is_leap", (YEAR,), "return $a % 4 == 0 and ($a % 100 != 0 or $a % 400 == 0)",
        ("[check] whether $a is a leap year", "[return] True if $a is a leap year", "[tell] whether $a has 366 days",
         "[test] if February has 29 days in $a", "[decide] whether $a has an extra day in February",
         "[find] out if there is a 29th of February in the calendar of $a",
         "[give] back True for $a if it counts as a leap year, False if not",
         "[determine] if $a is one of the leap years",
         "[return] True if $a is divisible by 4 and not by 100, or divisible by 400",
         "[see] if there is one day more than usual in $a"),
        ("[test] if $a is a leap year", "[tell] whether there are 366 days in $a"),
        lambda p, a: calendar.isleap(a), names=("leap_year", "check_leap", "leap"),
        rivals=(lambda p, a: a % 4 == 0, lambda p, a: a % 4 == 0 and a % 100 != 0),
    ),
    Family(
        "is_weekend", (DAY,), "return date.fromisoformat($a).weekday() $op 5",
        ("[check] whether $a is on a $op", "[return] True if $a falls on a $op",
         "[tell] whether $a is a day of the $op", "[test] if $a lies on a $op",
         "[return] True for $a if its weekday counts as a $op, else False", "[determine] if $a comes on a $op",
         "[look] up the weekday of $a and [tell] if it belongs to a $op",
         "[give] back True when $a lands on a $op and False when it does not",
         "[say] whether $a is a date that lies on a $op"),
        ("[tell] if $a is on a $op", "[test] whether $a falls on a $op"),
        lambda p, a: (calendar.weekday(*map(int, a.split("-"))) in (5, 6)) == p.op,
        {"op": choice(("weekend", ">=", True), ("workday|working day", "<", False))},
        ("weekend", "day_kind", "check_weekend"), IMPORT,
    ),
    Family(
        "reorder_date", (DAY,), "year, month, day = $a.split('-')\nreturn $sep.join([$order])",
        ("[write] $a as $order with $sep between", "[format] $a in the order $order, separated by $sep",
         "[turn] $a into $order joined by $sep", "[return] $a as $order with $sep as separator",
         "[rearrange] $a to $order and [put] $sep between the parts", "[show] $a as $order, split up by $sep",
         "[split] $a at the dashes and [join] $order with $sep", "[give] back the $order of $a with $sep in between",
         "[change] the form of $a to $order, using $sep as the separator",
         "[take] $order from $a and [connect] them by $sep"),
        ("[format] $a as $order with $sep between the parts", "[write] $a in the order $order, joined by $sep"),
        lambda p, a: p.order(*a.split("-"), p.sep), {"sep": separators(), "order": choice(
            ("day, month, year", "day, month, year", lambda y, m, d, s: d + s + m + s + y),
            ("month, day, year", "month, day, year", lambda y, m, d, s: m + s + d + s + y),
            ("day, month", "day, month", lambda y, m, d, s: d + s + m),
            ("year, month", "year, month", lambda y, m, d, s: y + s + m))},
        ("format_date", "show_date", "date_text"), where=lambda p: p.sep != "-" or p.order("1", "2", "3", "") != "12",
    ),
    Family(
        "to_minutes", (CLOCK,), "$parts = $a.split(':')\nreturn int($parts2) * $parts3 + int($parts4)",
        ("[convert] $a, read as $parts, to $parts2", "[return] the total $parts2 in $a, which is $parts",
         "[turn] $a from $parts into $parts2", "[compute] the $parts2 of $a, given as $parts",
         "[count] all the $parts2 in $a when its form is $parts",
         "[read] $a as $parts and [return] the total in $parts2",
         "[express] $a in $parts2 only, where the text is of the form $parts",
         "[work] out how many $parts2 there are in $a, written as $parts",
         "[parse] $a as $parts and [add] everything up in $parts2",
         "[change] $a from the form $parts to a number of $parts2"),
        ("[turn] $a, given as $parts, into $parts2", "[return] $a in $parts2 when it is read as $parts"),
        lambda p, a: p.parts * int(a[: a.index(":")]) + int(a[-2:]),
        {"parts": choice(("hours:minutes ~ minutes", "hours, minutes ~ hours ~ 60 ~ minutes", 60),
                         ("days:hours ~ hours", "days, hours ~ days ~ 24 ~ hours", 24),
                         ("weeks:days ~ days", "weeks, days ~ weeks ~ 7 ~ days", 7))},
        ("clock_total", "parse_time", "total_time"),
    ),
]  # fmt: skip
