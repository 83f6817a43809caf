"""Checkpoints are whole or absent: whatever fails while one is written, whatever is damaged after."""

import errno
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from kit.errors import MachineError
from kit.runs import checkpoints as unit
from kit.runs.checkpoints import MANIFEST, Checkpoints, damage, newest_whole, prune, write_checkpoint
from kit.runs.disk import disk_errors, is_full

FILES = {"adapter_model.safetensors": b"a" * 5000, "optimizer.pt": b"o" * 9000, "deep/state.json": b"{}"}


def fill(content=FILES):
    def write(folder: Path) -> None:
        for name, data in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    return write


def write(folder, step, **more):
    return write_checkpoint(folder, step, fill(), {"stage": "ppo", "inputs": {"seed": 0}}, **more)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestACheckpoint:
    def test_is_whole_when_it_has_its_name(self, tmp_path):
        assert damage(write(tmp_path, 12)) is None and names(tmp_path) == ["checkpoint-12"]

    def test_says_step_facts_size_and_sha256_of_every_file(self, tmp_path):
        manifest = json.loads((write(tmp_path, 12) / MANIFEST).read_text())
        assert (manifest["step"], manifest["stage"], manifest["inputs"]) == (12, "ppo", {"seed": 0})
        assert {name: x["bytes"] for name, x in manifest["files"].items()} == {n: len(d) for n, d in FILES.items()}
        assert all(len(entry["sha256"]) == 64 for entry in manifest["files"].values())

    def test_holds_the_logs_as_they_were(self, tmp_path):
        (tmp_path / "metrics.jsonl").write_text("1\n")
        write(tmp_path, 1)
        (tmp_path / "metrics.jsonl").write_text("1\n2\n3")  # the last line was cut off
        assert Checkpoints(tmp_path).newest is not None
        assert (tmp_path / "metrics.jsonl").read_text() == "1\n"

    def test_without_one_the_logs_begin_anew(self, tmp_path):
        (tmp_path / "metrics.jsonl").write_text("1\n")
        assert Checkpoints(tmp_path).newest is None and not (tmp_path / "metrics.jsonl").exists()

    def test_of_the_same_step_is_not_written_twice(self, tmp_path):
        before = write(tmp_path, 3).stat().st_mtime_ns
        assert write(tmp_path, 3).stat().st_mtime_ns == before

    def test_the_two_newest_are_kept_by_number_and_not_by_name(self, tmp_path):
        for step in (8, 9, 10):
            write(tmp_path, step)
        assert names(tmp_path) == ["checkpoint-10", "checkpoint-9"]

    def test_older_ones_go_only_when_the_new_one_is_whole(self, tmp_path):
        for step in (1, 2):
            write(tmp_path, step)
        with pytest.raises(KeyError):
            write_checkpoint(tmp_path, 3, lambda folder: {}["fails"], {})
        assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]

    def test_facts_of_the_run_before_can_be_asked_for(self, tmp_path):
        write(tmp_path, 1)
        found = Checkpoints(tmp_path)
        assert found.before("stage") == "ppo" and found.before("absent", 7) == 7
        assert Checkpoints(tmp_path / "none").before("stage") is None

    def test_seconds_go_on_from_those_of_the_processes_before(self, tmp_path):
        write_checkpoint(tmp_path, 1, fill(), {"seconds": 1000.0})
        assert 1000 < Checkpoints(tmp_path).seconds < 1100


def harms():
    """Each file of a checkpoint deleted, emptied, cut in half, one byte changed; and the manifest's own content."""
    for name in (*FILES, MANIFEST):
        yield name, lambda file: file.unlink()
        yield name, lambda file: file.write_bytes(b"")
        yield name, lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        yield name, lambda file: file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
        yield name, lambda file: (file.unlink(), file.mkdir())
    yield MANIFEST, lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | {"step": 99}))
    yield MANIFEST, lambda file: file.write_text("[]")


class TestADamagedOne:
    @pytest.mark.parametrize(("name", "harm"), list(harms()))
    def test_is_set_aside_with_one_notice_and_the_one_before_is_used(self, tmp_path, name, harm, capsys):
        write(tmp_path, 4)
        harm(write(tmp_path, 8) / name)
        assert newest_whole(tmp_path) == tmp_path / "checkpoint-4"
        said = capsys.readouterr().err
        assert (
            said.count("\n") == 1 and "checkpoint-8: damaged (" in said and "set aside as checkpoint-8.corrupt" in said
        )
        assert names(tmp_path) == ["checkpoint-4", "checkpoint-8.corrupt"]
        assert newest_whole(tmp_path) == tmp_path / "checkpoint-4" and not capsys.readouterr().err

    def test_where_all_are_there_is_none_to_go_on_from(self, tmp_path, capsys):
        for step in (4, 8):
            (write(tmp_path, step) / "optimizer.pt").unlink()
        assert newest_whole(tmp_path) is None
        assert names(tmp_path) == ["checkpoint-4.corrupt", "checkpoint-8.corrupt"]

    def test_of_the_same_step_twice_loses_neither(self, tmp_path, capsys):
        for _ in range(2):
            (write(tmp_path, 8) / "optimizer.pt").unlink()
            newest_whole(tmp_path)
        assert names(tmp_path) == ["checkpoint-8-2.corrupt", "checkpoint-8.corrupt"]

    def test_one_that_transformers_wrote_is_no_whole_one(self, tmp_path, capsys):
        fill()(tmp_path / "checkpoint-8")
        assert newest_whole(tmp_path) is None and "no MANIFEST.json" in capsys.readouterr().err

    @given(cut=st.floats(0, 0.99))
    def test_a_manifest_cut_anywhere_is_found_out(self, tmp_path_factory, cut):
        folder = tmp_path_factory.mktemp("cut")
        file = write(folder, 1) / MANIFEST
        file.write_bytes(file.read_bytes()[: int(cut * file.stat().st_size)])
        assert damage(folder / "checkpoint-1") is not None
        shutil.rmtree(folder)


class Full:
    """A disk that takes no more after `after` writes of files, as `fill` meets it."""

    def __init__(self, after, code=errno.ENOSPC):
        self.after, self.code, self.count = after, code, 0

    def __call__(self, folder):
        for name, data in FILES.items():
            self.count += 1
            if self.count > self.after:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data[:100])
                raise OSError(self.code, os.strerror(self.code), str(folder / name))
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


class TestAFullDisk:
    @pytest.mark.parametrize("after", range(3))
    def test_leaves_the_last_good_one_and_says_what_is_missing(self, tmp_path, after):
        write(tmp_path, 4)
        with pytest.raises(MachineError) as caught:
            write_checkpoint(tmp_path, 8, Full(after), {"checkpoint_bytes": 3 * 2**20})
        assert names(tmp_path) == ["checkpoint-4"] and damage(tmp_path / "checkpoint-4") is None
        assert "the disk is full" in str(caught.value) and "the checkpoint of step 4 is kept" in str(caught.value)
        assert "takes about 3 MiB" in str(caught.value)

    def test_older_ones_but_the_newest_make_room_first(self, tmp_path):
        write(tmp_path, 4)
        write(tmp_path, 6)
        tries = []

        def once(folder):
            tries.append(names(tmp_path))
            Full(1 if len(tries) == 1 else 9)(folder)

        write_checkpoint(tmp_path, 8, once, {})
        assert "checkpoint-4" in tries[0] and "checkpoint-4" not in tries[1]
        assert names(tmp_path) == ["checkpoint-6", "checkpoint-8"]

    @pytest.mark.parametrize("kept", [0, 1, 4096, 100_000])
    def test_a_writer_that_fails_at_a_byte_leaves_nothing_half_written(self, tmp_path, kept):
        """safetensors and torch write from C++ and Rust, where no patch of Python reaches: the system fails them."""
        write(tmp_path, 4)
        weights = {"w": torch.zeros(100_000)}

        def real(folder):
            save_file(weights, folder / "adapter_model.safetensors")
            torch.save(weights, folder / "optimizer.pt")

        with limited(kept), pytest.raises(MachineError, match=r"disk is full.*step 4 is kept"):
            write_checkpoint(tmp_path, 8, real, {})
        assert names(tmp_path) == ["checkpoint-4"] and damage(tmp_path / "checkpoint-4") is None

    @pytest.mark.parametrize("name", ["manifest", "rename", "fsync"])
    def test_also_when_it_happens_at_the_manifest_the_sync_or_the_rename(self, tmp_path, monkeypatch, name):
        write(tmp_path, 4)

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        place = {"manifest": (unit, "write_json"), "rename": (os, "rename"), "fsync": (os, "fsync")}[name]
        with monkeypatch.context() as patched, pytest.raises(MachineError, match="disk is full"):
            patched.setattr(*place, full)
            write(tmp_path, 8)
        assert names(tmp_path) == ["checkpoint-4"] and damage(tmp_path / "checkpoint-4") is None

    def test_another_error_is_not_taken_for_it(self, tmp_path):
        with pytest.raises(OSError, match="Input/output"):
            write_checkpoint(tmp_path, 8, Full(0, errno.EIO), {})
        assert names(tmp_path) == []


class limited:
    """No file may grow beyond so many bytes: the write fails there, whoever writes."""

    def __init__(self, size):
        self.size = size

    def __enter__(self):
        self.handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)
        signal.signal(signal.SIGXFSZ, self.handler)


class TestDiskErrors:
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    def test_a_full_disk_is_a_message_with_the_file(self, code):
        with pytest.raises(MachineError, match=r"^/x/y: the disk is full .*kept; make room"), disk_errors():
            raise OSError(code, os.strerror(code), "/x/y")

    @pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
    def test_a_folder_that_may_not_be_written_is_a_message(self, code):
        with pytest.raises(MachineError, match=r"^/x/y: may not be written .*output_dir="), disk_errors():
            raise OSError(code, os.strerror(code), "/x/y")

    @pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("x"), RuntimeError("boom")])
    def test_other_errors_stay_what_they_are(self, error):
        with pytest.raises(type(error)), disk_errors():
            raise error

    def test_the_words_of_safetensors_and_torch_are_known(self, tmp_path):
        weights, found = {"w": torch.zeros(9999)}, []
        for write_file in (save_file, torch.save):
            with limited(100):
                try:
                    write_file(weights, tmp_path / "file")
                except Exception as error:
                    found.append(is_full(error))
        assert found == [True, True]


class TestPruning:
    def test_a_kill_in_the_middle_leaves_no_part_under_its_name(self, tmp_path, monkeypatch):
        write(tmp_path, 1)

        def killed(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(unit.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(tmp_path, 0)
        monkeypatch.undo()
        assert newest_whole(tmp_path) is None and not [n for n in names(tmp_path) if n.startswith("checkpoint")]
