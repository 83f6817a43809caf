"""What a tracker gets of a comparison: every final number, reward and KL along training, and the table."""

import sys
from types import SimpleNamespace

import pytest
from comparison import full_metrics, least_metrics

from kit.compare.report.table import rows
from kit.compare.trackers import curve_points, final_numbers, track
from kit.config import Config

METRICS = full_metrics()


@pytest.fixture
def trackio(monkeypatch):
    """A module in trackio's place; the calls it got, in order."""
    calls = []
    stub = SimpleNamespace(
        init=lambda **named: calls.append(("init", named)),
        log=lambda numbers, step: calls.append(("log", numbers, step)),
        Table=lambda columns, data: {"columns": columns, "data": data},
        finish=lambda: calls.append(("finish",)),
    )
    monkeypatch.setitem(sys.modules, "trackio", stub)
    return calls


class TestFinalNumbers:
    def test_stand_under_their_path_in_metrics_json(self):
        found = final_numbers(METRICS)
        assert found["compare/ppo/true_reward/mean"] == METRICS["arms"]["ppo"]["true_reward"]["mean"]
        low, high = METRICS["pairs"]["ppo_vs_dpo"]["ci95"]
        assert (found["compare/ppo_vs_dpo/ci95/low"], found["compare/ppo_vs_dpo/ci95/high"]) == (low, high)

    def test_hold_every_seed(self):
        values = METRICS["pairs"]["ppo_vs_dpo"]["seed_spread"]["values"]
        found = final_numbers(METRICS)
        assert [found[f"compare/ppo_vs_dpo/seed_spread/values/{i}"] for i in range(3)] == values

    def test_leave_out_what_is_unknown_and_what_is_no_number(self):
        found = final_numbers(METRICS)
        assert all(type(value) is float for value in found.values())
        assert not [name for name in found if name.endswith(("verdict", "checkpoint")) or "sft/win_rate" in name]


class TestCurvePoints:
    def test_hold_judge_proxy_length_and_kl_of_each_checkpoint(self):
        points = [(at, numbers) for arm, at, numbers in curve_points(METRICS) if arm == "ppo"]
        assert [at for at, _ in points] == list(range(6))
        last = METRICS["curves"]["ppo"][-1]
        assert points[-1][1] == {f"compare/ppo/curve/{n}": v["mean"] for n, v in last.items() if n != "step"}

    def test_are_none_where_there_is_no_curve(self):
        assert list(curve_points(least_metrics())) == []


class TestTrackio:
    def test_gets_one_run_with_curves_then_numbers_and_table(self, trackio, tmp_path):
        track(Config(name="mine", report_to="trackio"), METRICS, tmp_path)
        kinds = [call[0] for call in trackio]
        assert kinds == ["init", *["log"] * 7, "finish"]
        assert set(trackio[0][1]) == {"project", "name", "config"}
        assert trackio[0][1]["name"] == "mine-compare" and trackio[0][1]["config"]["ppo"]["kl_coef"] == 0.05
        assert [call[2] for call in trackio[1:-1]] == list(range(7))
        assert {"compare/ppo/curve/judge", "compare/dpo/curve/kl_nats"} <= trackio[2][1].keys()
        head, *body = rows(METRICS)
        assert trackio[-2][1]["compare/arms"] == {"columns": head, "data": body}
        assert final_numbers(METRICS).items() <= trackio[-2][1].items()

    def test_is_told_the_project_by_the_environment(self, trackio, tmp_path, monkeypatch):
        monkeypatch.delenv("TRACKIO_PROJECT", raising=False)
        track(Config(report_to=["trackio"]), METRICS, tmp_path)
        monkeypatch.setenv("TRACKIO_PROJECT", "thesis")
        track(Config(report_to=["trackio"]), METRICS, tmp_path)
        assert [call[1]["project"] for call in trackio if call[0] == "init"] == ["huggingface", "thesis"]

    def test_is_finished_also_where_a_log_fails(self, trackio, tmp_path, monkeypatch):
        monkeypatch.setattr(sys.modules["trackio"], "log", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            track(Config(report_to="trackio"), METRICS, tmp_path)
        assert trackio[-1] == ("finish",)

    def test_gets_what_an_old_comparison_has(self, trackio, tmp_path):
        track(Config(report_to="trackio"), least_metrics(), tmp_path)
        assert [call[0] for call in trackio] == ["init", "log", "finish"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The events that tensorboard finds."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tmp_path_factory.mktemp("compare")
    track(Config(report_to="tensorboard"), METRICS, folder)
    events = event_accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


class TestTensorboard:
    def test_reads_back_every_final_number(self, written):
        for name, value in final_numbers(METRICS).items():
            assert written.Scalars(name)[0].value == pytest.approx(value, rel=1e-6), name

    def test_reads_back_the_curves_in_order(self, written):
        points = written.Scalars("compare/ppo/curve/judge")
        means = [point["judge"]["mean"] for point in METRICS["curves"]["ppo"]]
        assert [point.step for point in points] == list(range(6))
        assert [point.value for point in points] == pytest.approx(means, rel=1e-6)

    def test_reads_back_the_table(self, written):
        (event,) = written.Tensors("compare/arms/text_summary")
        lines = event.tensor_proto.string_val[0].decode().splitlines()
        assert len(lines) == 2 + len(METRICS["arms"]) and lines[0].startswith("| arm |")


class TestWandb:
    def test_gets_a_run_of_its_own_though_the_stages_left_theirs_open(self, tmp_path, monkeypatch):
        """In the stages' run, whose step is at 500, wandb would drop all that is logged at a lower one."""
        wandb = pytest.importorskip("wandb")
        for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
            monkeypatch.setenv(name, value)
        logged, log = [], wandb.Run.log

        def logs(run, numbers, step=None):
            logged.append((run.name, step, numbers))
            log(run, numbers, step=step)

        monkeypatch.setattr(wandb.Run, "log", logs)
        wandb.init(project="x", name="stages").log({"train/loss": 1.0}, step=500)
        track(Config(name="mine", report_to="wandb"), METRICS, tmp_path)
        assert wandb.run is None
        assert [(name, step) for name, step, _ in logged] == [("stages", 500), *(("mine-compare", i) for i in range(7))]
        assert "compare/ppo/curve/judge" in logged[2][2]
        table = logged[-1][2].pop("compare/arms")
        assert logged[-1][2] == final_numbers(METRICS) and [table.columns, *table.data] == rows(METRICS)


class TestNoTracker:
    def test_writes_nothing(self, tmp_path):
        track(Config(), METRICS, tmp_path)
        track(Config(report_to=["none"]), METRICS, tmp_path)
        assert not list(tmp_path.iterdir())
