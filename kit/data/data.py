"""What the data layer hands on: all data of a run, split by prompt."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from kit.data.found import SourceFound
from kit.data.kept import KeptSplit, Rows
from kit.data.rows import Demonstration, Pair, Prompt


@dataclass(frozen=True)
class Data:
    """All data of a run, its rows kept in one place. No prompt of any held_out list stands in any train list."""

    pairs: KeptSplit[Pair]
    demonstrations: KeptSplit[Demonstration]
    prompts: KeptSplit[Prompt]
    notes: list[str]  # what a person wants to know about the data, one fact a line
    judge: Rows[Pair]  # pairs for a judge alone: no prompt of them stands in any train or held_out list
    sources: tuple[SourceFound, ...] = ()  # what each of them held; no part of the data

    @cached_property
    def fingerprint(self) -> str:
        """The sha256, in hex, over all rows and their sides; origins (`where`) do not count."""
        judge = [KeptSplit(self.judge, self.judge.picked([]))] if self.judge else []
        return fingerprint_of(self.pairs, self.demonstrations, self.prompts, *judge)


def data_of_prompts(prompts: Rows[Prompt]) -> Data:
    """Prompts alone, none of them held out."""
    none = prompts.picked([])
    pairs, demonstrations = none.seen_as(Pair), none.seen_as(Demonstration)
    return Data(
        KeptSplit(pairs, pairs), KeptSplit(demonstrations, demonstrations), KeptSplit(prompts, none), [], pairs
    )  # fmt: skip


def fingerprint_of(*splits: KeptSplit) -> str:
    """The sha256, in hex, over all rows of the splits, their order and their sides; the same in every process."""
    digest = hashlib.sha256()
    for split in splits:
        for side in (split.train, split.held_out):
            for line in side.lines():
                digest.update(line)
            digest.update(b"null\n")  # ends a side
    return digest.hexdigest()
