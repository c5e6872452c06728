"""Made-up text: statements of Python, each under a comment that says in English what it does.

    # append 14 to offsets
    offsets.append(14)
    # keep the items of offsets that are greater than 3
    offsets = [item for item in offsets if item > 3]

Names, numbers and words are drawn at random, so the only way to predict a statement is to read the comment and copy
from it: that is what the text is for. A document is a few such statements that share their names, plain or as the body
of a function that is called afterwards.

Not covered: instructions and answers. The text holds no task of the quickstart's rows (`make_base.py` checks it).
"""

from __future__ import annotations

import keyword
import random
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

# (English variants, code): {v} the variable, {o} a new name, {f} a function, {n} {m} {k} numbers, {w} {u} words,
# {c} {a} a character
NUMBER = (
    ("add {n} to {v}|increase {v} by {n}", "{v} = {v} + {n}"),
    ("subtract {n} from {v}|decrease {v} by {n}|take {n} away from {v}", "{v} = {v} - {n}"),
    ("multiply {v} by {n}|make {v} {n} times as large", "{v} = {v} * {n}"),
    ("divide {v} by {n}, rounding down|whole part of {v} divided by {n}", "{v} = {v} // {n}"),
    ("remainder of {v} divided by {n}|what is left when {v} is divided by {n}", "{v} = {v} % {n}"),
    ("raise {v} to the power {n}|{v} to the power of {n}", "{v} = {v} ** {n}"),
    ("use the larger of {v} and {n}|{v} should be at least {n}", "{v} = max({v}, {n})"),
    ("use the smaller of {v} and {n}|{v} must not exceed {n}", "{v} = min({v}, {n})"),
    ("absolute value of {v}|drop the sign of {v}", "{v} = abs({v})"),
    ("when {v} is greater than {n}, set it to {m}", "if {v} > {n}:\n    {v} = {m}"),
    ("if {v} is less than {n}, use {m}, otherwise {n}", "{v} = {m} if {v} < {n} else {n}"),
    ("stop with a ValueError when {v} is below {n}", "if {v} < {n}:\n    raise ValueError('{v}')"),
    ("raise an error with the message {w} if {v} equals {n}", "if {v} == {n}:\n    raise ValueError('{w}')"),
    (
        "while {v} is larger than {n}, halve it|halve {v} until it is at most {n}",
        "while {v} > {n}:\n    {v} = {v} // 2",
    ),
    ("count up from {n} to {v}, adding into {o}", "{o} = 0\nfor i in range({n}, {v}):\n    {o} = {o} + i"),
    ("print {v} with the label {w}", "print('{w}', {v})"),
    ("check that {v} is even|make sure {v} is even", "assert {v} % 2 == 0"),
    ("keep {v} between {n} and {m}", "{v} = max({n}, min({v}, {m}))"),
    ("store {v} under {w} in {o}", "{o} = {{'{w}': {v}}}"),
    ("{o} is the square of {v}|{v} squared, as {o}|the square of {v} in {o}", "{o} = {v} ** 2"),
    ("round {v} to {k} decimals|{v} with {k} digits after the point", "{v} = round({v}, {k})"),
    ("digits of {v} added up in {o}|{o} is the digit sum of {v}", "{o} = sum(int(d) for d in str({v}))"),
    ("number of digits of {v}|how many digits {v} has", "{o} = len(str({v}))"),
    ("digits of {v} as a list|list of the digits in {v}", "{o} = [int(d) for d in str({v})]"),
    ("{v} in binary|write {v} with binary digits", "{o} = bin({v})[2:]"),
    ("{v} in hexadecimal|hexadecimal form of {v}", "{o} = hex({v})[2:]"),
    (
        "divisors of {v}|all numbers that divide {v} without remainder",
        "{o} = [i for i in range(1, {v} + 1) if {v} % i == 0]",
    ),
    ("{o} tells whether {v} is a prime number|is {v} prime", "{o} = {v} > 1 and all({v} % i for i in range(2, {v}))"),
    ("is {v} divisible by {n}|{v} is a multiple of {n}", "{o} = {v} % {n} == 0"),
    ("is {v} odd|{o} says whether {v} is an odd number", "{o} = {v} % 2 == 1"),
    (
        "is {v} between {n} and {m}, both ends included|whether {v} lies in the range {n} to {m}",
        "{o} = {n} <= {v} <= {m}",
    ),
    ("multiples of {n} up to {v}", "{o} = list(range({n}, {v} + 1, {n}))"),
    (
        "product of the numbers from 1 to {v}|factorial of {v}",
        "{o} = 1\nfor i in range(2, {v} + 1):\n    {o} = {o} * i",
    ),
    ("greatest common divisor of {v} and {n}", "{o} = {n}\nwhile {v}:\n    {o}, {v} = {v}, {o} % {v}"),
    ("convert {v} from minutes to hours|hours in {v} minutes", "{o} = {v} / 60"),
    (
        "name {v} {w} above {n}, else {u}|{o} is {w} if {v} is greater than {n}, otherwise {u}",
        "{o} = '{w}' if {v} > {n} else '{u}'",
    ),
    ("return {w} when {v} is at least {n}|{w} for {v} not less than {n}", "if {v} >= {n}:\n    return '{w}'"),
    ("return {n} if {v} is at most {m}|{n} is the result for {v} not more than {m}", "if {v} <= {m}:\n    return {n}"),
    (
        "divide {n} by {v}, or give {m} when {v} is zero",
        "try:\n    {o} = {n} / {v}\nexcept ZeroDivisionError:\n    {o} = {m}",
    ),
    ("a TypeError unless {v} is a whole number", "if not isinstance({v}, int):\n    raise TypeError('{w}')"),
    ("count down from {v} to {n} into the list {o}", "{o} = list(range({v}, {n}, -1))"),
    ("squares of the numbers below {v}", "{o} = [i * i for i in range({v})]"),
    ("swap {v} and {o}|exchange {v} with {o}", "{v}, {o} = {o}, {v}"),
)
ITEMS = (
    ("append {n} to {v}|put {n} at the end of {v}", "{v}.append({n})"),
    ("insert {n} at the front of {v}|put {n} before the items of {v}", "{v} = [{n}] + {v}"),
    ("keep the items of {v} that are greater than {n}", "{v} = [item for item in {v} if item > {n}]"),
    ("drop the items of {v} that equal {n}|remove every {n} from {v}", "{v} = [item for item in {v} if item != {n}]"),
    ("only items of {v} below {n}|leave out what is not less than {n}", "{v} = [item for item in {v} if item < {n}]"),
    ("add {n} to each item of {v}", "{v} = [item + {n} for item in {v}]"),
    ("multiply every item of {v} by {n}|scale {v} by {n}", "{v} = [item * {n} for item in {v}]"),
    ("sort {v}|put {v} in ascending order", "{v} = sorted({v})"),
    ("sort {v} from large to small|{v} in descending order", "{v} = sorted({v}, reverse=True)"),
    ("reverse {v}|turn {v} around", "{v} = {v}[::-1]"),
    ("the first {k} items of {v}|cut {v} after {k} items", "{v} = {v}[:{k}]"),
    ("skip the first {k} items of {v}|{v} without its first {k}", "{v} = {v}[{k}:]"),
    ("every {k}th item of {v}|one item of {v} in {k}", "{v} = {v}[::{k}]"),
    ("how many items {v} has, as {o}|length of {v} in {o}", "{o} = len({v})"),
    ("add up the items of {v} in {o}|sum of {v} as {o}", "{o} = sum({v})"),
    ("largest item of {v} in {o}|{o} is the maximum of {v}", "{o} = max({v})"),
    ("smallest item of {v} in {o}|{o} is the minimum of {v}", "{o} = min({v})"),
    ("count how often {n} occurs in {v}", "{o} = {v}.count({n})"),
    ("print each item of {v}|show the items of {v} one by one", "for item in {v}:\n    print(item)"),
    ("go through {v} and collect the square of each in {o}", "{o} = []\nfor item in {v}:\n    {o}.append(item * item)"),
    (
        "add each item of {v} that is not {n} to {o}",
        "{o} = 0\nfor item in {v}:\n    if item != {n}:\n        {o} = {o} + item",
    ),
    ("position of {n} in {v}, or -1", "{o} = -1\nfor i, item in enumerate({v}):\n    if item == {n}:\n        {o} = i"),
    ("when {v} is empty, return {n}|give {n} if there is nothing in {v}", "if not {v}:\n    return {n}"),
    ("pair each item of {v} with its position in {o}", "{o} = [(i, item) for i, item in enumerate({v})]"),
    ("average of {v} in {o}|{o} is the mean of the numbers in {v}", "{o} = sum({v}) / len({v})"),
    ("middle value of {v}|{o} is the median of {v}", "{o} = sorted({v})[len({v}) // 2]"),
    ("difference between the largest and smallest number of {v}|range of {v}", "{o} = max({v}) - min({v})"),
    ("keep the even numbers of {v}|drop all odd numbers from {v}", "{v} = [x for x in {v} if x % 2 == 0]"),
    ("numbers in {v} that {n} divides|multiples of {n} in {v}", "{v} = [x for x in {v} if x % {n} == 0]"),
    ("keep numbers of {v} that are at least {n}|{v} without all below {n}", "{v} = [x for x in {v} if x >= {n}]"),
    ("items of {v} that are at most {n}|remove all values above {n} from {v}", "{v} = [x for x in {v} if x <= {n}]"),
    (
        "count the numbers in {v} that are greater than {n}|how many values of {v} exceed {n}",
        "{o} = sum(1 for x in {v} if x > {n})",
    ),
    ("add up those numbers of {v} that are less than {n}", "{o} = sum(x for x in {v} if x < {n})"),
    ("each item of {v} once, in order|remove the duplicates from {v}", "{v} = list(dict.fromkeys({v}))"),
    ("different items in {v}, sorted|sorted unique values of {v}", "{o} = sorted(set({v}))"),
    ("second largest number of {v}|the number in {v} just below the maximum", "{o} = sorted({v})[-2]"),
    ("index of the largest number in {v}|position of the maximum of {v}", "{o} = {v}.index(max({v}))"),
    ("where {v} has its smallest value", "{o} = {v}.index(min({v}))"),
    ("rotate {v} by {k} places to the left|move the first {k} items of {v} to its end", "{v} = {v}[{k}:] + {v}[:{k}]"),
    ("rotate {v} to the right by {k}|move the last {k} items of {v} to the front", "{v} = {v}[-{k}:] + {v}[:-{k}]"),
    (
        "cut {v} into chunks of {k} items|split {v} into groups of length {k}",
        "{o} = [{v}[i:i + {k}] for i in range(0, len({v}), {k})]",
    ),
    ("last {k} items of {v}|the end of {v}, {k} items long", "{v} = {v}[-{k}:]"),
    ("drop the last {k} items of {v}|all but the last {k} of {v}", "{v} = {v}[:-{k}]"),
    ("join the lists in {v} into one|flatten {v}", "{o} = [x for row in {v} for x in row]"),
    (
        "differences of neighbours in {v}|each number of {v} minus the one before it",
        "{o} = [y - x for x, y in zip({v}, {v}[1:])]",
    ),
    (
        "running total of {v}|cumulative sums over {v} in {o}",
        "{o} = []\ntotal = 0\nfor x in {v}:\n    total += x\n    {o}.append(total)",
    ),
    ("product of all numbers in {v}|multiply the items of {v} together", "{o} = 1\nfor x in {v}:\n    {o} *= x"),
    (
        "are all numbers in {v} above {n}|{o} tells whether every item of {v} exceeds {n}",
        "{o} = all(x > {n} for x in {v})",
    ),
    ("is any item of {v} equal to {n}|does {v} contain {n}", "{o} = {n} in {v}"),
    ("is {v} in ascending order|is {v} sorted", "{o} = {v} == sorted({v})"),
    ("first item of {v} greater than {n}, or None", "{o} = next((x for x in {v} if x > {n}), None)"),
    ("items that {v} and {o} share|common values of {v} and {o}", "{v} = [x for x in {v} if x in {o}]"),
    ("items of {v} that are not in {o}", "{v} = [x for x in {v} if x not in {o}]"),
    ("pair the items of {v} and {o}", "{v} = list(zip({v}, {o}))"),
    ("sort the words of {v} by length|order {v} by how long its items are", "{v} = sorted({v}, key=len)"),
    ("replace each {n} in {v} by {m}|change {n} to {m} in {v}", "{v} = [{m} if x == {n} else x for x in {v}]"),
    ("squares of the numbers in {v}|square every item of {v}", "{v} = [x ** 2 for x in {v}]"),
    ("absolute values of {v}|drop the signs in {v}", "{v} = [abs(x) for x in {v}]"),
    (
        "split {v} into numbers below {n} and the rest",
        "{o} = ([x for x in {v} if x < {n}], [x for x in {v} if x >= {n}])",
    ),
    ("limit all values in {v} to at most {n}|no item of {v} larger than {n}", "{v} = [min(x, {n}) for x in {v}]"),
    ("an error if {v} is empty|raise a ValueError when {v} has no items", "if not {v}:\n    raise ValueError('{w}')"),
    ("item {k} of {v}, or {n} if there is none", "try:\n    {o} = {v}[{k}]\nexcept IndexError:\n    {o} = {n}"),
    ("sum {v} without recursion, from the back", "{o} = 0\nwhile {v}:\n    {o} += {v}.pop()"),
)
TEXT = (
    ("{v} in upper case|make {v} upper case", "{v} = {v}.upper()"),
    ("{v} in lower case|make {v} lower case", "{v} = {v}.lower()"),
    ("strip white space from {v}|{v} without spaces at its ends", "{v} = {v}.strip()"),
    ("replace {w} with {u} in {v}|in {v}, {w} becomes {u}", "{v} = {v}.replace('{w}', '{u}')"),
    ("split {v} at each {c}|cut {v} into parts at {c}", "{o} = {v}.split('{c}')"),
    ("put {w} in front of {v}|prefix {v} with {w}", "{v} = '{w}' + {v}"),
    ("add {w} to the end of {v}|let {v} end with {w}", "{v} = {v} + '{w}'"),
    ("repeat {v} {k} times|{v}, {k} times over", "{v} = {v} * {k}"),
    ("first {k} characters of {v}|shorten {v} to {k} characters", "{v} = {v}[:{k}]"),
    ("{v} backwards|turn {v} around", "{v} = {v}[::-1]"),
    ("does {v} start with {w}|{o} tells whether {v} begins with {w}", "{o} = {v}.startswith('{w}')"),
    ("does {v} contain {w}|{o} tells whether {w} is in {v}", "{o} = '{w}' in {v}"),
    ("if {v} is {w}, return {u}|give back {u} for {w}", "if {v} == '{w}':\n    return '{u}'"),
    ("count the letter {a} in {v}|how many {a} are in {v}", "{o} = {v}.count('{a}')"),
    ("drop each {a} from {v}|{v} without the letter {a}", "{v} = {v}.replace('{a}', '')"),
    ("join the words of {v} with {c}", "{v} = '{c}'.join({v}.split())"),
    ("length of {v} in {o}|how long {v} is, as {o}", "{o} = len({v})"),
    ("look at each character of {v} and keep digits", "{v} = ''.join(c for c in {v} if c.isdigit())"),
    ("read {v} as a number, or use {n}", "try:\n    {o} = int({v})\nexcept ValueError:\n    {o} = {n}"),
    ("words of {v} as a list|split {v} into words", "{o} = {v}.split()"),
    ("number of words in {v}|how many words {v} has", "{o} = len({v}.split())"),
    ("count the vowels in {v}|how many vowels {v} has", "{o} = sum(1 for c in {v} if c in 'aeiou')"),
    ("{v} without its vowels|remove all vowels from {v}", "{v} = ''.join(c for c in {v} if c not in 'aeiou')"),
    ("keep only letters of {v}|drop what is no letter from {v}", "{v} = ''.join(c for c in {v} if c.isalpha())"),
    ("{v} with a capital first letter|capitalize {v}", "{v} = {v}.capitalize()"),
    ("{v} in title case|capitalize each word of {v}", "{v} = ' '.join(w.capitalize() for w in {v}.split())"),
    ("does {v} read the same backwards|{o} tells whether {v} is a palindrome", "{o} = {v} == {v}[::-1]"),
    ("longest word in {v}|{o} is the longest of the words in {v}", "{o} = max({v}.split(), key=len)"),
    ("shortest word of {v}", "{o} = min({v}.split(), key=len)"),
    ("words of {v} in reverse order|turn the order of words in {v} around", "{v} = ' '.join({v}.split()[::-1])"),
    ("each word of {v} reversed|turn every word of {v} around", "{v} = ' '.join(w[::-1] for w in {v}.split())"),
    ("first letters of the words in {v}|initials of {v}", "{o} = ''.join(w[0] for w in {v}.split())"),
    ("positions of {a} in {v}|at which indexes {v} has {a}", "{o} = [i for i, c in enumerate({v}) if c == '{a}']"),
    ("replace {a} by {c} in {v}|{c} in place of each {a} in {v}", "{v} = {v}.replace('{a}', '{c}')"),
    ("repeat {v} {k} times with {c} between|{k} copies of {v} joined by {c}", "{o} = '{c}'.join([{v}] * {k})"),
    (
        "fill {v} on the left with {c} to width {k}|pad {v} to {k} characters with {c} in front",
        "{v} = {v}.rjust({k}, '{c}')",
    ),
    ("pad {v} on the right with {c} up to length {k}", "{v} = {v}.ljust({k}, '{c}')"),
    ("second part of {v} between {c} signs|field number two of {v}, separated by {c}", "{o} = {v}.split('{c}')[1]"),
    ("part of {v} before the first {c}|{v} up to {c}", "{o} = {v}.split('{c}')[0]"),
    ("what comes last in {v} after a {c}", "{o} = {v}.split('{c}')[-1]"),
    ("does {v} end with {w}|{o} tells whether {w} is the end of {v}", "{o} = {v}.endswith('{w}')"),
    ("remove {w} from the start of {v}|{v} without the prefix {w}", "{v} = {v}.removeprefix('{w}')"),
    ("cut {v} to {k} characters and add {w} if it was longer", "if len({v}) > {k}:\n    {v} = {v}[:{k}] + '{w}'"),
    ("letters of {v} in alphabetical order|sort the characters of {v}", "{v} = ''.join(sorted({v}))"),
    (
        "how often each character occurs in {v}|count every character of {v} in a dict",
        "{o} = {{}}\nfor c in {v}:\n    {o}[c] = {o}.get(c, 0) + 1",
    ),
    ("count each word of {v} in the dict {o}", "{o} = {{}}\nfor w in {v}.split():\n    {o}[w] = {o}.get(w, 0) + 1"),
    ("every {k}th character of {v}", "{v} = {v}[::{k}]"),
    (
        "shift each letter of {v} by {n} in the alphabet",
        "{v} = ''.join(chr((ord(c) - 97 + {n}) % 26 + 97) for c in {v})",
    ),
    ("the year of the date {v}|{o} is the year in {v}", "{o} = date.fromisoformat({v}).year"),
    ("day {k} days after {v}|add {k} days to the date {v}", "{o} = date.fromisoformat({v}) + timedelta(days={k})"),
    ("weekday of the date {v} as a number", "{o} = date.fromisoformat({v}).weekday()"),
    ("is {v} a number in digits|does {v} consist of digits", "{o} = {v}.isdigit()"),
    (
        "an error when {v} is empty|raise ValueError with {w} if there is no text in {v}",
        "if not {v}:\n    raise ValueError('{w}')",
    ),
    ("swap upper and lower case in {v}", "{v} = {v}.swapcase()"),
    ("words of {v} that start with {a}", "{o} = [w for w in {v}.split() if w.startswith('{a}')]"),
    ("words of {v} longer than {k} characters", "{o} = [w for w in {v}.split() if len(w) > {k}]"),
)
TABLE = (
    ("set {w} to {n} in {v}|store {n} under {w} in {v}", "{v}['{w}'] = {n}"),
    ("get {w} from {v}, or {n}|{o} is the entry {w} of {v}, by default {n}", "{o} = {v}.get('{w}', {n})"),
    ("add {n} to the entry {w} of {v}", "{v}['{w}'] = {v}.get('{w}', 0) + {n}"),
    ("remove {w} from {v}|delete the key {w} of {v}", "del {v}['{w}']"),
    ("keys of {v}, sorted|sorted names in {v}", "{o} = sorted({v})"),
    ("sum of the values of {v} in {o}", "{o} = sum({v}.values())"),
    ("entries of {v} above {n}", "{v} = {{key: value for key, value in {v}.items() if value > {n}}}"),
    ("swap keys and values of {v}", "{v} = {{value: key for key, value in {v}.items()}}"),
    ("print each key of {v} with its value", "for key, value in {v}.items():\n    print(key, value)"),
    ("when {w} is not in {v}, raise a KeyError", "if '{w}' not in {v}:\n    raise KeyError('{w}')"),
    (
        "entries of {v} with a value less than {n}|drop all values of {v} that are not below {n}",
        "{v} = {{k: x for k, x in {v}.items() if x < {n}}}",
    ),
    ("values of {v} as a list", "{o} = list({v}.values())"),
    ("largest value in {v}|maximum of the values of {v}", "{o} = max({v}.values())"),
    ("smallest value of {v}", "{o} = min({v}.values())"),
    ("key of {v} with the largest value|which key of {v} has most", "{o} = max({v}, key={v}.get)"),
    ("key with the smallest value in {v}", "{o} = min({v}, key={v}.get)"),
    ("keys of {v} by value, smallest first|order the keys of {v} by their values", "{o} = sorted({v}, key={v}.get)"),
    ("keys of {v} from the largest value down", "{o} = sorted({v}, key={v}.get, reverse=True)"),
    ("merge {v} and {o}, the second wins|{v} with the entries of {o} on top", "{v} = {{**{v}, **{o}}}"),
    ("multiply all values of {v} by {n}|each value of {v} times {n}", "{v} = {{k: x * {n} for k, x in {v}.items()}}"),
    ("add {n} to every value in {v}|all values of {v} plus {n}", "{v} = {{k: x + {n} for k, x in {v}.items()}}"),
    ("keys of {v} in upper case", "{v} = {{k.upper(): x for k, x in {v}.items()}}"),
    ("rename the key {w} of {v} to {u}", "{v}['{u}'] = {v}.pop('{w}')"),
    ("group the words of {o} by first letter in {v}", "for w in {o}:\n    {v}.setdefault(w[0], []).append(w)"),
    ("number of entries in {v}|how many keys {v} has", "{o} = len({v})"),
    ("count how many values of {v} are above {n}", "{o} = sum(1 for x in {v}.values() if x > {n})"),
    ("does {v} have the key {w}|{o} tells whether {w} is a key of {v}", "{o} = '{w}' in {v}"),
    ("keys of {v} whose value is {n}", "{o} = [k for k, x in {v}.items() if x == {n}]"),
    ("pairs of {v} as a list|key and value of each entry in {v}", "{o} = list({v}.items())"),
    (
        "entry {w} of {v}, or an error that names it",
        "try:\n    {o} = {v}['{w}']\nexcept KeyError:\n    raise ValueError('{w}')",
    ),
)
ROWS = (
    ("the field {w} of each row in {v}|{w} from every record of {v}", "{o} = [row['{w}'] for row in {v}]"),
    ("sum of the field {w} over {v}|add up {w} in all rows of {v}", "{o} = sum(row['{w}'] for row in {v})"),
    (
        "rows of {v} whose {w} is greater than {n}|keep records of {v} with {w} above {n}",
        "{v} = [row for row in {v} if row['{w}'] > {n}]",
    ),
    ("sort {v} by the field {w}|records of {v} in order of {w}", "{v} = sorted({v}, key=lambda row: row['{w}'])"),
    ("number of rows in {v} where {w} is {n}", "{o} = sum(1 for row in {v} if row['{w}'] == {n})"),
    ("largest {w} among the rows of {v}|maximum of {w} over {v}", "{o} = max(row['{w}'] for row in {v})"),
    ("first item of each list in {v}|column one of {v}", "{o} = [row[0] for row in {v}]"),
    ("sum of each list in {v}|row totals of {v}", "{o} = [sum(row) for row in {v}]"),
    ("columns of {v} as lists|turn rows of {v} into columns", "{o} = [list(column) for column in zip(*{v})]"),
    ("length of every list in {v}", "{o} = [len(row) for row in {v}]"),
    ("set {w} to {n} in each row of {v}", "for row in {v}:\n    row['{w}'] = {n}"),
    (
        "map {w} of each row to its {u}|a dict from {w} to {u} over the rows of {v}",
        "{o} = {{row['{w}']: row['{u}'] for row in {v}}}",
    ),
)
CALLS = (
    ("call {f} with {v} and keep the result in {o}|{o} is what {f} gives for {v}", "{o} = {f}({v})"),
    ("apply {f} to each item of {v}|{f} of every item in {v}", "{o} = [{f}(item) for item in {v}]"),
    ("call {f} with {n} and {m}|{f} of {n} and {m}", "{f}({n}, {m})"),
    ("print the result of {f} for {v}|show what {f} makes of {v}", "print({f}({v}))"),
    ("import {f} from {o}|take {f} out of the module {o}", "from {o} import {f}"),
    ("import {o} under the name {f}", "import {o} as {f}"),
    ("give {f} the second name {o}|let {o} be another name of {f}", "{o} = {f}"),
    ("call {f} with {v} set to {n}|{f}, where {v} is {n}", "{f}({v}={n})"),
    ("add {f} of {v} to {o}|{o} grows by what {f} gives for {v}", "{o} += {f}({v})"),
    ("check that {f} of {n} is {m}|{f} must give {m} for {n}", "assert {f}({n}) == {m}"),
    ("items of {v} for which {f} is true|filter {v} by {f}", "{o} = [item for item in {v} if {f}(item)]"),
    ("sort {v} by {f}|order {v} with the key {f}", "{v} = sorted({v}, key={f})"),
    ("store {f} under {w} in {o}", "{o}['{w}'] = {f}"),
    ("delete {f}|remove the name {f}", "del {f}"),
)
KINDS = {"number": NUMBER, "items": ITEMS, "text": TEXT, "table": TABLE, "rows": ROWS}
START = {
    "number": ("set {v} to {n}|start with {v} equal to {n}", "{v} = {n}"),
    "items": ("a list {v} of {n}, {m} and {k}|let {v} be {n}, {m}, {k}", "{v} = [{n}, {m}, {k}]"),
    "text": ("let {v} be {w}|set {v} to the word {w}", "{v} = '{w}'"),
    "table": ("an empty dict called {v}|start {v} as an empty dict", "{v} = {{}}"),
    "rows": ("an empty list of rows, {v}|start {v} without rows", "{v} = []"),
}
_SEPARATORS = [",", ";", "-", ":", "/", "|", ".", "_", "+"]


@dataclass
class Writer:
    """Writes documents; the same words and seed give the same ones."""

    words: Sequence[str]
    seed: int = 0
    invented: float = 0.0
    """Share of words that do not exist, put together from `pieces`."""
    pieces: Sequence[str] = ()
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def documents(self, count: int) -> Iterator[str]:
        """So many documents: plain statements, functions, and statements that call functions."""
        kinds = (self._statements, self._function, self._calls)
        for number in range(count):
            yield kinds[number % 3]()

    def _number(self) -> int:
        return self._random.choice((self._random.randint(0, 20), self._random.randint(0, 150)))

    def _word(self) -> str:
        """A word of the list, or now and then a word that does not exist."""
        if self._random.random() >= self.invented:
            return self._random.choice(self.words)
        invented = "".join(self._random.choices(self.pieces, k=self._random.randint(1, 3)))
        return invented + "o" * keyword.iskeyword(invented)

    def _name(self, lengths: tuple[int, ...] = (1, 1, 2)) -> str:
        return "_".join(self._word() for _ in range(self._random.choice(lengths)))

    def _filled(self, idiom: tuple[str, str], names: dict[str, str]) -> tuple[str, str]:
        """English and code of a statement; words of the English are quoted now and then."""
        pick, english = self._random, self._random.choice(idiom[0].split("|"))
        numbers = {"n": self._number(), "m": self._number(), "k": pick.randint(2, 12)}
        words = {"w": self._word(), "u": self._word(), "c": pick.choice(_SEPARATORS)}
        words["a"] = pick.choice("abcdefghijklmnopqrstuvwxyz")
        quote = pick.choice(("'{}'", "`{}`", '"{}"'))
        said = {key: quote.format(word) for key, word in words.items()}
        names = {"o": self._name(), **names}
        tick = "`" if pick.random() < 0.5 else ""
        named = {key: f"{tick}{name}{tick}" for key, name in names.items()}
        return english.format(**numbers, **said, **named), idiom[1].format(**numbers, **words, **names)

    def _statements(self) -> str:
        kind, name = self._random.choice(list(KINDS)), self._name()
        idioms = [START[kind], *self._random.choices(KINDS[kind], k=self._random.randint(1, 4))]
        parts = [self._filled(idiom, {"v": name}) for idiom in idioms if "return" not in idiom[1]]
        return "\n".join(f"# {english}\n{code}" for english, code in parts)

    def _calls(self) -> str:
        """Commented calls of one or two functions."""
        name = self._name()
        functions = [self._name((1, 2, 2, 3)) for _ in range(self._random.randint(1, 2))]
        idioms = self._random.sample(CALLS, k=self._random.randint(2, 5))
        parts = [self._filled(idiom, {"v": name, "f": self._random.choice(functions)}) for idiom in idioms]
        return "\n".join(f"# {english}\n{code}" for english, code in parts)

    def _function(self) -> str:
        """A definition whose docstring tells the body, and a call of it."""
        kind, name, function = self._random.choice(list(KINDS)), self._name(), self._name((2, 2, 3))
        idioms = self._random.choices(KINDS[kind], k=self._random.choice((1, 2, 2, 3)))
        parts = [self._filled(idiom, {"v": name}) for idiom in idioms]
        story = ", then ".join(english for english, _ in parts)
        body = "\n".join(code for _, code in parts) + f"\nreturn {name}"
        text = f'def {function}({name}):\n    """{story[0].upper()}{story[1:]}."""\n{textwrap.indent(body, "    ")}'
        return f"{text}\n\n{self._filled(START[kind], {'v': name})[1]}\nprint({function}({name}))"
