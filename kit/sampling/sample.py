"""`kit sample`: K answers a prompt from a finished run's policies, as a labelling project to rank them in."""

import random
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit import notices
from kit.config import Config
from kit.data import Prompt
from kit.data.data import data_of_prompts
from kit.data.kept import Rows
from kit.data.load import load_prompts
from kit.errors import ConfigError, DataError
from kit.floors import check_floors
from kit.labels.project import MOST_ANSWERS, Item, Project, create_project, repeated, require_new
from kit.preflight import load_run_config
from kit.runs import signals
from kit.runs.disk import disk_errors
from kit.runs.folder import RunFolder, open_run
from kit.sampling.gold import gold_items

if TYPE_CHECKING:
    from kit.models.encoding import EncodedPrompt
    from kit.sampling.draw import Drawn, How
    from kit.sampling.sources import Writer

K, REPEATS = 4, 0.08
OWN_PROMPTS = 50  # of a run's training prompts, where no file is given and no limit: what a person ranks in an hour
_MOST_REPEATS = 0.5


def sample(
    run: Any,
    prompts: Any = None,
    k: int = K,
    *,
    adapters: str | Sequence[str] = ("sft",),
    name: str | None = None,
    out: str | PathLike[str] = "labels",
    temperature: float = 1.0,
    max_tokens: int | None = None,
    seed: int | None = None,
    limit: int | None = None,
    per_item: int = 1,
    overlap: float = 0.2,
    repeats: float = REPEATS,
    gold: Any = None,
    guidelines: str | PathLike[str] | None = None,
    batch_size: int | None = None,
) -> Project:
    """Draw `k` answers to each prompt from a finished run's adapters, and make the labelling project `out`/`name`.

    `run` is a run folder or what `run_pipeline` returned. `prompts` is a file, a hub id or rows in any form that
    `data.prompts` takes; None: `limit` (50) of the run's own training prompts, chosen by the seed. `adapters` are
    stages of the run, `base`, or folders of PEFT adapters on the same base. `repeats` is the share of items that come
    twice to whoever has them; `gold` is a source of rankings that are right, `guidelines` a Markdown file. Raises
    KitError for everything the user can put right, before anything is drawn as far as that can be; the project is
    there whole or not at all.
    """
    check_floors()
    folder = open_run(getattr(run, "path", run))
    config = load_run_config(folder)
    target = _target(out, folder.path.name if name is None else name)
    seed = config.seed if seed is None else seed
    own_tokens = config.data.max_response_tokens
    text = _guidelines(guidelines)
    names = [adapters] if isinstance(adapters, str) else list(adapters)
    _check_numbers(
        k=(k, 2, MOST_ANSWERS), max_tokens=(max_tokens or own_tokens, 1, 2**20), limit=(limit, 1, None),
        batch_size=(batch_size, 1, None), per_item=(per_item, 1, 1000), seed=(seed, 0, 2**32 - 1),
    )  # fmt: skip
    _check_shares(repeats, overlap, temperature)
    with signals.handled(), disk_errors(), notices.quiet_libraries():
        from kit.sampling.draw import How
        from kit.sampling.sources import find_writers, sft_adapter

        sft, writers = sft_adapter(folder), find_writers(names, folder)
        if temperature == 0 and k > len(writers):
            raise ConfigError(
                f"--temperature 0: greedy decoding has one answer to a prompt, and k is {k} with {len(writers)} "
                "adapter(s); take a temperature above 0, e.g. 1"
            )
        known, notes = gold_items(gold, seed) if gold is not None else ([], [])
        asked, of_what = _prompts(prompts, config, folder, seed, limit)
        for note in notes:
            notices.say(note)
        how = How(k, temperature, max_tokens or own_tokens, seed, batch_size or config.compare.batch_size)
        encoded, drawn = _drawn(config, sft, writers, asked, how)
        items = _items(encoded, drawn, k)
        about = _about(folder, config, writers, how, of_what)
        project = create_project(
            target, [*repeated(items, repeats, seed), *known], per_item=per_item, overlap=overlap, seed=seed,
            guidelines=text, about={"sampled": about},
        )  # fmt: skip
    _say_what_came(project, encoded, drawn, how, own_tokens)
    return project


def _target(out: str | PathLike[str], name: str) -> Path:
    """Where the project will be. Raises KitError where it cannot."""
    if not name or Path(name).name != name:
        raise ConfigError(f"--name {name!r}: a name alone is wanted; --out names the folder")
    return require_new(Path(out).expanduser() / name)


def _check_numbers(**wanted: tuple[int | None, int, int | None]) -> None:
    for name, (value, low, high) in wanted.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and low <= value and (high is None or value <= high)):
            until = "up" if high is None else f"to {high}"
            raise ConfigError(f"--{name.replace('_', '-')} {value}: a whole number from {low} {until} is wanted")


def _check_shares(repeats: float, overlap: float, temperature: float) -> None:
    if not 0 <= repeats <= _MOST_REPEATS:
        raise ConfigError(f"--repeats {repeats}: a share from 0 to {_MOST_REPEATS} is wanted; 0.05 to 0.1 is usual")
    if not 0 <= overlap <= 1:
        raise ConfigError(f"--overlap {overlap}: a share from 0 to 1 is wanted")
    if not 0 <= temperature <= 10:
        raise ConfigError(f"--temperature {temperature}: from 0 to 10 is wanted; 1 is the policy as it was trained")


def _guidelines(file: str | PathLike[str] | None) -> str | None:
    if file is None:
        return None
    try:
        return Path(file).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--guidelines {file}: cannot be read as UTF-8 text: {error}") from None


def _prompts(source: Any, config: Config, folder: RunFolder, seed: int, limit: int | None) -> tuple[Rows[Prompt], str]:
    """The prompts to answer, and in words where they are from; notes on them are said.

    A run's own are its training prompts: whoever ranks answers to held-out ones, and trains on that, has nothing left
    to compare policies on.
    """
    if source is None:
        from kit.compare.who_judges import load_run_data

        train = load_run_data(config, folder).prompts.train
        count = min(limit or OWN_PROMPTS, len(train))
        chosen = train.picked(sorted(random.Random(f"prompts {seed}").sample(range(len(train)), count)))
        what = f"{count:,} of the run's {len(train):,} training prompts"
        notices.say(f"sample: {what}, chosen by the seed; its held-out prompts are left for comparisons")
        return chosen, what
    if isinstance(source, (list, tuple)):
        source = [{"prompt": row} if isinstance(row, str) else row for row in source]
    rows, notes = load_prompts(source, "--prompts", seed)
    for note in notes:
        notices.say(note)
    what = str(source) if isinstance(source, (str, Path)) else "prompts in memory"
    return rows.picked(range(len(rows))[:limit]), what


def _drawn(
    config: Config, sft: Path, writers: "Sequence[Writer]", prompts: Rows[Prompt], how: "How"
) -> "tuple[list[tuple[EncodedPrompt, str]], Drawn]":
    """The prompts that fit the run's lengths, each with its origin, and the answers to them."""
    from kit.models.base import find_base
    from kit.models.device import few_threads
    from kit.models.encoding import encode_data
    from kit.models.out_of_memory import memory_errors
    from kit.sampling.draw import draw_answers

    with few_threads(config), memory_errors("sample"):
        base = find_base(config)
        encoded = encode_data(data_of_prompts(prompts), base.codec, config.data)
        for note in encoded.notes:
            notices.say(note)
        measured = encoded.measured["prompts"]
        kept = [(prompt, measured.where(at)) for at, prompt in enumerate(encoded.prompts.train)]
        return kept, draw_answers(base, sft, writers, [prompt.ids for prompt, _ in kept], how)


def _items(prompts: "Sequence[tuple[EncodedPrompt, str]]", drawn: "Drawn", k: int) -> list[Item]:
    """An item for each prompt with two answers or more."""
    items = [
        Item(f"p{number:04d}", prompt.messages, tuple(answers), about={"where": where})
        for number, ((prompt, where), answers) in enumerate(zip(prompts, drawn.answers, strict=True), 1)
        if len(answers) > 1
    ]
    if not items:
        raise DataError(
            f"sample: none of {len(prompts):,} prompts got two different answers, so there is nothing to rank; raise "
            "--temperature, or name further adapters"
        )
    return items


def _about(folder: RunFolder, config: Config, writers: "Sequence[Writer]", how: "How", prompts: str) -> dict[str, Any]:
    """What the project was made from, as project.json keeps it."""
    return {
        "run": str(folder.path),
        "base": config.model.base,
        "revision": config.model.revision,
        "adapters": [
            {"name": one.name, "folder": one.folder and str(one.folder), "sha256": one.sha256} for one in writers
        ],
        "prompts": prompts,
        "k": how.k,
        "temperature": how.temperature,
        "max_tokens": how.max_tokens,
        "seed": how.seed,
    }


def _say_what_came(project: Project, prompts: Sequence[Any], drawn: "Drawn", how: "How", own_tokens: int) -> None:
    """What is in the project, and what is not and why."""
    notices.say(str(project))
    left_out = sum(len(answers) < 2 for answers in drawn.answers)
    fewer = sum(2 <= len(answers) < how.k for answers in drawn.answers)
    if drawn.near or drawn.empty:
        notices.say(f"sample: {drawn.near:,} near-duplicate(s) and {drawn.empty:,} empty answer(s) were not taken")
    if fewer:
        notices.say(f"sample: {fewer:,} item(s) have fewer than {how.k} answers, as no further ones were different")
    if left_out:
        notices.say(
            f"sample: {left_out:,} of {len(prompts):,} prompts are left out: they got no two different answers "
            "(a higher --temperature, or further adapters, would give more)"
        )
    answers = [answer for item in project.items.values() if item.repeat_of is None for answer in item.answers]
    cut = sum(answer.made.get("ended") is False for answer in answers)
    if cut:
        notices.say(
            f"sample: {cut:,} of {len(answers):,} answers were cut off at {how.max_tokens} tokens, and are marked so "
            "(`ended`) beside the answer; --max-tokens allows longer ones"
        )
    if how.max_tokens > own_tokens:
        notices.say(f"sample: this run's settings cut answers at {own_tokens} tokens when they are trained on")
