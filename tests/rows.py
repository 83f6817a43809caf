"""Rows of a source, and how they are read: what the tests of the data formats have in common."""

import pytest

from kit.config import DataSettings
from kit.data.convert import read_demonstrations, read_pairs, read_prompts
from kit.data.files import Row
from kit.data.sources import Source
from kit.errors import DataError


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def source(*rows):
    found = [Row(f"a.jsonl:{number}", row) for number, row in enumerate(rows, 1)]
    return Source("a.jsonl", found, head=found[:100])


def pairs(*rows, **settings):
    return read_pairs(source(*rows), DataSettings(**settings))


def demonstrations(*rows, **settings):
    return read_demonstrations(source(*rows), DataSettings(**settings))


def prompts(*rows, **settings):
    return read_prompts(source(*rows), DataSettings(**settings))


def pair(row):
    converted = pairs(row)
    assert not converted.drops
    return converted.rows[0]


def judged(*rows, **settings):
    """The pairs as (chosen, rejected)."""
    return [(pair.chosen, pair.rejected) for pair in pairs(*rows, **settings).rows]


def refusal(read, *rows, **settings):
    with pytest.raises(DataError) as caught:
        read(*rows, **settings)
    return str(caught.value)
