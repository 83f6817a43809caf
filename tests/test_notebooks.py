"""Every shipped notebook is executed on the demo world, at toy size.

The cell with the tag `parameters`, which is the one a reader changes, is replaced: by the same names with toy settings,
on an untrained base (so that nothing waits for one to be trained); every other cell runs as it is shipped. An untrained
reward model is at chance, so PPO is forced and the notebooks' own gates are opened by their parameters.
"""

import ast
import base64
import json
import os
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import kit
from kit.labels.project import open_project
from kit.labels.rows import judgement_rows

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ["01_quickstart", "02_your_own_data", "03_ppo_or_dpo", "04_reward_hacking", "05_people_rank"]
TOY = {
    "name": "notebook",
    "lora": {"rank": 4},
    "data": {"preferences": "demo", "eval_fraction": 0.05, "max_prompt_tokens": 64, "max_response_tokens": 32},
    "sft": {"max_steps": 2, "batch_size": 8},
    "reward": {"max_steps": 2, "batch_size": 8},
    "ppo": {
        "episodes": 16, "batch_size": 4, "num_mini_batches": 2, "num_ppo_epochs": 1, "learning_rate": 0.01,
        "snapshots": 1, "force": True,
    },
    "dpo": {"max_steps": 2, "batch_size": 8, "learning_rate": 0.01, "snapshots": 1},
    "compare": {"prompts": 8, "validation_prompts": 8, "best_of": 2},
}  # fmt: skip
PARAMETERS = {
    "01_quickstart": {"CONFIG": TOY, "LOWEST_ACCURACY": 0.0},
    "02_your_own_data": {
        "CONFIG": TOY
        | {"data": TOY["data"] | {"preferences": "demo-preferences.jsonl"}}
        | {"compare": TOY["compare"] | {"judge": "held_out"}},
        "LOWEST_ACCURACY": 0.0,
        "VOTES": "votes.jsonl",
    },
    "03_ppo_or_dpo": {
        "CONFIG": TOY | {"compare": TOY["compare"] | {"seeds": 2}},
        "HYPOTHESIS": "Toys beat nothing.",
        "WORTH_HAVING": 0.6,
    },
    "04_reward_hacking": {
        "CONFIG": TOY | {"stages": ["sft", "reward", "ppo", "compare"]},
        "BREAK": {"kl_coef": 0.0},
        "MEND": {"kl_coef": 0.05},
        "LEAST_FALL": -100.0,
        "LEAST_MENDED": -100.0,
    },
    "05_people_rank": {
        "CONFIG": TOY
        | {"data": TOY["data"] | {"demonstrations": "demo", "preferences": "labels/notebook", "prompts": "demo"}},
        "ITEMS": 12,
        "ANSWERS": 4,
        "PEOPLE_AN_ITEM": 2,
        "TOKENS": 16,  # what an untrained model writes takes more tokens when it is read again
        "SIMULATED": True,
        "LOWEST_ALPHA": -1.0,
    },
}
shipped = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
in_full = [pytest.mark.pipeline, pytest.mark.filterwarnings("ignore")]


def read(file):
    return nbformat.read(file, as_version=4)


def code_of(file):
    """The sources of the code cells."""
    return [cell.source for cell in read(file).cells if cell.cell_type == "code"]


def parameters_of(notebook):
    """The one cell a reader changes."""
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def values_in(source):
    """The constants a cell assigns, by name."""
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}


def commented(source):
    """The settings for a real model, which the parameters cell holds as comments from `# CONFIG =` on."""
    comments = [line.removeprefix("#").removeprefix(" ") for line in source.splitlines() if line[:1] == "#"]
    return "\n".join(comments[[line.startswith("CONFIG") for line in comments].index(True) :])


@dataclass(frozen=True)
class Executed:
    """A notebook after its run in `folder`."""

    notebook: nbformat.NotebookNode
    folder: Path

    @property
    def outputs(self):
        return [output for cell in self.notebook.cells if cell.cell_type == "code" for output in cell.outputs]

    @property
    def printed(self):
        return "".join(output["text"] for output in self.outputs if output.get("name") == "stdout")

    @property
    def noise(self):
        """What stands on stderr and is no warning of the kit."""
        errors = "".join(output["text"] for output in self.outputs if output.get("name") == "stderr")
        return [line for line in errors.splitlines() if line.strip() and not line.startswith("kit: warning: ")]

    def shown(self, kind):
        """Everything the notebook shows as this MIME type."""
        return [output["data"][kind] for output in self.outputs if kind in output.get("data", {})]

    def figures(self):
        """(width, height) in pixels of each figure shown."""
        return [struct.unpack(">II", base64.b64decode(png)[16:24]) for png in self.shown("image/png")]


def execute(name, folder, **parameters):
    """The notebook, run in `folder` as a reader would, its parameters replaced."""
    from toy import base_folder

    notebook = read(ROOT / "notebooks" / f"{name}.ipynb")
    values = PARAMETERS[name] | parameters
    values["CONFIG"] = values["CONFIG"] | {"model": {"base": str(base_folder())}}
    parameters_of(notebook).source = "\n".join(f"{key} = {value!r}" for key, value in values.items())
    env = {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm's, where ipywidgets are not installed
        "IPYTHONDIR": str(folder / ".ipython"),
        "MPLCONFIGDIR": str(folder / ".matplotlib"),
    }
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources)
    return Executed(client.execute(env={**os.environ, **env}), folder)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Each notebook, executed once in a folder of its own."""
    done = {}

    def once(name):
        if name not in done:
            done[name] = execute(name, tmp_path_factory.mktemp(name))
        return done[name]

    return once


class TestShippedNotebooks:
    def test_are_these(self):
        assert [file.stem for file in NOTEBOOKS] == NAMES == list(PARAMETERS)

    @shipped
    def test_hold_no_outputs(self, file):
        cells = [cell for cell in read(file).cells if cell.cell_type == "code"]
        assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)

    @shipped
    def test_install_nothing_where_the_kit_is_there(self, file):
        cells = code_of(file)
        assert ["%pip" in source for source in cells] == [True] + [False] * (len(cells) - 1)
        assert 'if find_spec("kit") is None:' in cells[0]

    @shipped
    def test_ask_and_say_what_to_expect_before_each_call(self, file):
        cells = read(file).cells
        assert cells[0].source.startswith("# ")
        for before, cell in pairwise(cells):
            if cell.cell_type == "code" and cell.id not in ("install", "config", "end"):
                assert before.source.startswith("## ") and "xpect" in before.source, cell.id

    @shipped
    def test_keep_what_a_reader_changes_in_one_cell(self, file):
        cell = parameters_of(read(file)).source
        values = values_in(cell)
        assert values.keys() == PARAMETERS[file.stem].keys()
        for source in code_of(file)[1:]:
            stored = {
                node.id
                for node in ast.walk(ast.parse(source))
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
            assert source == cell or not stored & values.keys()

    @shipped
    def test_have_settings_that_exist(self, file):
        assert kit.load_config(values_in(parameters_of(read(file)).source)["CONFIG"]).model.base == "demo"

    @shipped
    def test_offer_a_real_model_whose_settings_exist(self, file):
        source = commented(parameters_of(read(file)).source)
        assert kit.load_config(values_in(source)["CONFIG"]).model.base != "demo"

    @pytest.mark.pipeline
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("name", NAMES)
    def test_say_nothing_on_stderr_but_the_kits_warnings(self, executed, name):
        assert executed(name).noise == []

    @pytest.mark.pipeline
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(("name", "count"), list(zip(NAMES, (1, 2, 5, 2, 1), strict=True)))
    def test_show_their_figures_at_a_readable_size(self, executed, name, count):
        sizes = executed(name).figures()
        assert len(sizes) == count
        assert all(width >= 500 and height >= 150 for width, height in sizes)


class TestTheQuickstartNotebook:
    pytestmark = in_full
    NAME = "01_quickstart"

    def test_has_the_settings_of_the_quickstart_config(self):
        config = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
        cell = parameters_of(read(ROOT / "notebooks" / f"{self.NAME}.ipynb"))
        assert values_in(cell.source)["CONFIG"] == config | {"name": "notebook"}

    def test_shows_the_comparison_and_the_answers(self, executed):
        ran = executed(self.NAME)
        assert "all good" in ran.printed and "held-out accuracy" in ran.printed
        tables = [html for html in ran.shown("text/html") if "<table" in html]
        assert "Full report" in tables[0] and "<th>prompt</th>" in tables[1]

    def test_stops_at_a_reward_model_near_chance(self, executed):
        with pytest.raises(CellExecutionError, match="Near chance: PPO optimised noise"):
            execute(self.NAME, executed(self.NAME).folder, LOWEST_ACCURACY=1.0)


class TestTheNotebookOnYourOwnData:
    pytestmark = in_full
    NAME = "02_your_own_data"

    def test_writes_the_file_and_says_what_was_recognised_and_dropped(self, executed):
        ran = executed(self.NAME)
        rows = [json.loads(line) for line in (ran.folder / "demo-preferences.jsonl").read_text().splitlines()]
        assert {tuple(row) for row in rows} == {("prompt", "chosen", "rejected")}
        assert f"recognised as prompt, chosen and rejected; {len(rows):,} pairs" in ran.printed
        for line in ("dropped 1 row: chosen equals rejected", "dropped 1 row: rejected empty", "all good"):
            assert line in ran.printed

    def test_shows_the_message_of_each_mistake(self, executed):
        printed = executed(self.NAME).printed
        assert "data.columns: {chosen: better, rejected: worse}" in printed
        for text in ("rejected is null", "did you mean demo-preferences.jsonl?", "did you mean kl_coef?", "own pupil"):
            assert text in printed

    def test_is_judged_by_a_reward_model_with_pairs_of_its_own(self, executed):
        run = executed(self.NAME).folder / "runs" / "notebook"
        assert json.loads((run / "compare" / "metrics.json").read_text())["judge"] == "held_out"
        assert (run / "judge" / "adapter_model.safetensors").exists()

    def test_takes_the_same_answers_to_other_judges(self, executed):
        ran = executed(self.NAME)
        votes = [json.loads(line) for line in (ran.folder / "demo-votes.jsonl").read_text().splitlines()]
        assert len(votes) == 3 * 8 and {vote["annotator"] for vote in votes} == {"Ada", "Ben", "Dan"}
        for judge in ("the held-out judge", "a house rule: tidy", "people's votes", "the truth (demo world)"):
            assert f"\n{judge}  " in ran.printed


class TestTheNotebookOfTheExperiment:
    pytestmark = in_full
    NAME = "03_ppo_or_dpo"

    def test_seals_hypothesis_rule_and_settings_before_the_run(self, executed):
        runs = executed(self.NAME).folder / "runs"
        sealed = json.loads((runs / "notebook-envelope.json").read_text())
        assert sealed.keys() == {"hypothesis", "worth having", "settings"}
        assert sealed["worth having"] == PARAMETERS[self.NAME]["WORTH_HAVING"]
        assert (runs / "notebook-envelope.json").stat().st_mtime < (runs / "notebook" / "sft").stat().st_ctime

    def test_decides_by_the_rule_over_all_training_seeds(self, executed):
        ran = executed(self.NAME)
        metrics = json.loads((ran.folder / "runs" / "notebook" / "compare" / "metrics.json").read_text())
        assert metrics["seeds"] == [0, 1] and "training seeds [0, 1]" in ran.printed
        pair = metrics["pairs"]["ppo_vs_dpo"]
        low, high = pair["ci95"]
        decided = "DPO" if high < 0.6 else "PPO" if low > 0.5 and pair["win_rate"] >= 0.6 else "undecided"
        assert f"Decision: {decided}\n" in ran.printed

    def test_stops_where_the_rule_was_changed_after_it_was_sealed(self, executed):
        with pytest.raises(CellExecutionError, match="holds another rule or other settings"):
            execute(self.NAME, executed(self.NAME).folder, WORTH_HAVING=0.5)


class TestTheNotebookOnRewardHacking:
    pytestmark = in_full
    NAME = "04_reward_hacking"

    def test_compares_two_runs_that_differ_in_the_penalty_alone(self, executed):
        runs = executed(self.NAME).folder / "runs"
        configs = [yaml.safe_load((runs / f"notebook-{end}" / "config.yaml").read_text()) for end in ("off", "on")]
        assert [config["ppo"].pop("kl_coef") for config in configs] == [0.0, 0.05]
        assert [config.pop("name") for config in configs] == ["notebook-off", "notebook-on"]
        assert configs[0] == configs[1]

    def test_trains_sft_and_the_reward_model_once(self, executed):
        printed = executed(self.NAME).printed
        for stage, times in (("sft", 1), ("reward", 1), ("ppo", 2)):
            assert printed.count(f"kit: {stage}: done in") == times
        assert "kit: sft: done before, kept" in printed and "kit: reward: done before, kept" in printed

    def test_follows_judge_and_proxy_along_the_checkpoints(self, executed):
        ran = executed(self.NAME)
        metrics = json.loads((ran.folder / "runs" / "notebook-off" / "compare" / "metrics.json").read_text())
        assert len(metrics["curves"]["ppo"]) == 3  # SFT, a snapshot, the last
        assert "The true reward was best at step" in ran.printed and "while the proxy went from" in ran.printed
        assert "Mended less broken, same prompts: " in ran.printed
        assert any("PPO without the rope" in html for html in ran.shown("text/html"))

    def test_stops_where_nothing_broke(self, executed):
        with pytest.raises(CellExecutionError, match="It did not break"):
            execute(self.NAME, executed(self.NAME).folder, LEAST_FALL=100.0)


class TestTheNotebookOfPeople:
    pytestmark = in_full
    NAME = "05_people_rank"

    def test_shows_the_page_and_the_agreement(self, executed):
        shown = executed(self.NAME).shown("text/html")
        assert any("<iframe" in html for html in shown)
        assert any("alpha" in html for html in shown)

    def test_every_simulated_person_ranks(self, executed):
        ran = executed(self.NAME)
        for name in ("Ada", "Ben", "Cleo", "Dan", "Eve"):
            assert f"{name} ranked " in ran.printed
        judged = len(list(judgement_rows(open_project(ran.folder / "labels" / "notebook"))))
        assert judged >= 12 * 2 and f"{judged} judgements in labels/notebook" in ran.printed

    def test_trains_on_what_was_said(self, executed):
        ran = executed(self.NAME)
        assert "labels/notebook: recognised as a labelling project" in ran.printed
        assert (ran.folder / "runs" / "notebook" / "ppo" / "adapter_model.safetensors").exists()

    def test_stops_where_people_agree_no_more_than_dice(self, executed):
        with pytest.raises(CellExecutionError, match="hardly more than dice"):
            execute(self.NAME, executed(self.NAME).folder, LOWEST_ALPHA=1.0)
