"""Rows of what the `datasets` library holds: saved folders, datasets in memory, hub ids."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from kit.data.sources import read_source
from kit.errors import DataError

ROWS = [{"prompt": "Say hi.", "chosen": "Hi!", "rejected": "No."}, {"prompt": "Why?", "chosen": "a", "rejected": "b"}]


def read(value):
    return whole(read_source(value, "data.preferences", seed=0))


def whole(source):
    """The source with its rows read; they are read once and one by one."""
    rows = list(source.rows)
    source.problems.raise_if_any()
    return replace(source, rows=rows)


def values(source):
    return [row.values for row in source.rows]


def places(source):
    return [row.where for row in source.rows]


def refusal(value) -> str:
    with pytest.raises(DataError) as caught:
        read(value)
    return str(caught.value)


class TestFolders:
    @pytest.fixture
    def datasets(self):
        return pytest.importorskip("datasets")

    def test_a_saved_dataset_is_read(self, tmp_path, datasets):
        datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
        source = read(str(tmp_path / "saved"))
        assert values(source) == ROWS
        assert places(source) == ["saved row 1", "saved row 2"]

    def test_of_saved_splits_train_is_read_unless_another_is_named(self, tmp_path, datasets):
        splits = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[1:])}
        datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
        assert values(read(str(tmp_path / "saved"))) == ROWS
        assert values(read({"path": str(tmp_path / "saved"), "split": "test"})) == ROWS[1:]

    def test_an_unknown_split_is_refused_with_those_found(self, datasets):
        splits = datasets.DatasetDict(test=datasets.Dataset.from_list(ROWS))
        assert "no split 'train'; found ['test']" in refusal(splits)

    def test_a_dataset_in_memory_is_read(self, datasets):
        source = read(datasets.Dataset.from_list(ROWS))
        assert values(source) == ROWS
        assert places(source) == ["data.preferences row 1", "data.preferences row 2"]

    def test_a_streamed_dataset_is_read(self, datasets):
        assert values(read(datasets.Dataset.from_list(ROWS).to_iterable_dataset())) == ROWS

    def test_a_folder_without_a_dataset_is_refused_with_its_files(self, tmp_path):
        (tmp_path / "a.jsonl").write_text("{}")
        assert "holds no saved dataset; found ['a.jsonl']" in refusal(str(tmp_path))

    def test_a_damaged_dataset_folder_is_refused(self, tmp_path, datasets):
        datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
        (tmp_path / "saved" / "state.json").write_text("{")
        assert "damaged dataset folder" in refusal(str(tmp_path / "saved"))


class TestHub:
    """The hub and the library are replaced: what is tested is what their answers become."""

    @pytest.fixture
    def hub(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        huggingface_hub = pytest.importorskip("huggingface_hub")
        datasets = pytest.importorskip("datasets")

        def answers(error=None, rows=ROWS):
            def dataset_info(self, repo, **_):
                if error:
                    raise error

            def load_dataset(repo, split=None, **_):
                if isinstance(rows, Exception):
                    raise rows
                answers.offline = datasets.config.HF_HUB_OFFLINE
                return datasets.Dataset.from_list(rows)

            monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
            monkeypatch.setattr(datasets, "load_dataset", load_dataset)

        return answers

    @staticmethod
    def http_error(name, status):
        from huggingface_hub import errors

        return getattr(errors, name)("no", response=SimpleNamespace(status_code=status, headers={}, request=None))

    def test_a_known_data_set_is_read(self, hub):
        hub()
        assert places(read("org/name")) == ["org/name row 1", "org/name row 2"]

    @pytest.mark.parametrize(
        ("name", "status", "text"),
        [
            ("RepositoryNotFoundError", 404, "the hub knows no such data set"),
            ("RevisionNotFoundError", 404, "no revision 'v9'"),
            ("GatedRepoError", 403, "a gated data set"),
            ("HfHubHTTPError", 401, "refused the sign-in"),
        ],
    )
    def test_each_refusal_of_the_hub_has_its_own_text(self, hub, name, status, text):
        hub(self.http_error(name, status))
        assert text in refusal({"path": "org/name", "revision": "v9"})

    def test_without_a_connection_or_a_cached_copy_the_connection_is_blamed(self, hub):
        hub(OSError("no route"), rows=ConnectionError("Couldn't reach"))
        assert "the hub cannot be reached" in refusal("org/name")

    def test_without_a_connection_the_cached_copy_is_used_with_a_note(self, hub):
        hub(OSError("no route"))
        source = read("org/name")
        assert values(source) == ROWS
        assert source.notes == ["org/name: the hub cannot be reached; used the copy in the cache"]
        assert hub.offline

    def test_without_a_connection_a_revision_must_be_that_of_the_cached_copy(self, hub):
        hub(OSError("no route"))
        assert "cannot be shown to be revision 'v9'" in refusal({"path": "org/name", "revision": "v9"})

    def test_a_data_set_that_does_not_load_is_refused_with_the_reason(self, hub):
        hub(rows=ValueError("Config name is missing.\nPlease pick one"))
        assert "Config name is missing" in refusal("org/name")
