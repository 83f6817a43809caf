"""Rows of what the `datasets` library holds: hub ids, saved folders, Dataset objects. The only importer of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit.data import catalogue
from kit.data.files import Row
from kit.errors import DataError

CONNECT_SECONDS = 5.0


def rows_of_dataset(dataset: Any, name: str, split: str | None) -> Iterator[Row]:
    """The rows of a Dataset, or of the wanted split (else train) of a DatasetDict; DataError if it has none."""
    if isinstance(dataset, dict):
        wanted = split or "train"
        if wanted not in dataset:
            raise DataError(catalogue.NO_SPLIT.format(name=name, wanted=wanted, found=sorted(dataset)))
        dataset = dataset[wanted]
    elif split:
        raise DataError(catalogue.NO_SPLITS.format(name=name, split=split))
    plain = dataset.with_format(None)  # without tensors, should the caller have asked for them
    return (Row(f"{name} row {number}", row) for number, row in enumerate(plain, 1))


def read_folder(path: Path, split: str | None) -> Iterator[Row]:
    """The rows of a folder that `save_to_disk` wrote; DataError if it is another folder, or damaged."""
    if not (path / "dataset_dict.json").is_file() and not (path / "dataset_info.json").is_file():
        files = sorted(file.name for file in path.iterdir() if file.is_file())[:10]
        raise DataError(catalogue.NO_DATASET_FOLDER.format(path=path, found=files or "nothing"))
    from datasets import load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except Exception as error:  # damaged folders fail in pyarrow, json and datasets, each in its own way
        raise DataError(catalogue.DAMAGED_FOLDER.format(path=path, why=_first_line(error))) from error
    return rows_of_dataset(dataset, path.name, split)


def read_hub(repo: str, name: str | None, split: str | None, revision: str | None) -> tuple[Iterator[Row], list[str]]:
    """The rows of a hub data set, the split `train` if none is named, and notes.

    Without a connection the local cache serves. Raises DataError within seconds if the hub does not know the id or
    the revision, if it wants an account, or if it cannot be reached and nothing is cached.
    """
    reachable = _hub_knows(repo, revision)
    import datasets

    try:
        with _offline(not reachable):
            dataset = datasets.load_dataset(repo, name=name, split=split or "train", revision=revision)
    except Exception as error:  # the library's boundary: whatever it meets, the user gets one message
        if not reachable:
            raise DataError(catalogue.HUB_UNREACHABLE.format(repo=repo)) from error
        raise DataError(catalogue.HUB_LOADING_FAILED.format(repo=repo, why=_first_line(error))) from error
    if reachable:
        return rows_of_dataset(dataset, repo, None), []
    if revision and revision not in str(dataset.cache_files):
        raise DataError(catalogue.HUB_OTHER_REVISION.format(repo=repo, revision=revision))
    return rows_of_dataset(dataset, repo, None), [catalogue.USED_CACHE.format(repo=repo)]


def _hub_knows(repo: str, revision: str | None) -> bool:
    """True if the hub has the data set, False if the hub cannot be reached; DataError if it refuses.

    Asked first because load_dataset alone retries for 24 seconds without a connection (datasets 5.2).
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        huggingface_hub.HfApi().dataset_info(repo, revision=revision, timeout=CONNECT_SECONDS)
    except errors.HFValidationError as error:
        raise DataError(catalogue.NO_HUB_ID.format(repo=repo, why=_first_line(error))) from error
    except errors.GatedRepoError as error:
        raise DataError(catalogue.HUB_GATED.format(repo=repo)) from error
    except errors.RevisionNotFoundError as error:
        raise DataError(catalogue.HUB_NO_REVISION.format(repo=repo, revision=revision)) from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(catalogue.HUB_UNKNOWN.format(repo=repo)) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise DataError(catalogue.HUB_REFUSED.format(repo=repo, status=status)) from error
        if status < 500:
            raise DataError(catalogue.HUB_ANSWERED.format(repo=repo, status=status, why=_first_line(error))) from error
        return False
    except Exception:  # offline mode, no route, no name, timeout: each HTTP library has its own classes for them
        return False
    return True


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Inside, `datasets` reads its cache alone, so that it does not retry a dead connection."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
