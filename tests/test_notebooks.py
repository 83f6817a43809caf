"""Every shipped notebook is executed on the demo world, at toy size.

The cell with the tag `parameters`, which is the one a reader changes, is replaced by TOY's, on an untrained base (so
that nothing waits for one to be trained); every other cell runs as it is shipped.
"""

import ast
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import kit

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TOY = {
    "name": "notebook",
    "lora": {"rank": 4},
    "data": {"preferences": "demo", "eval_fraction": 0.05, "max_prompt_tokens": 64, "max_response_tokens": 16},
    "sft": {"max_steps": 2, "batch_size": 8},
    "reward": {"max_steps": 2, "batch_size": 8},
    "ppo": {"episodes": 16, "batch_size": 4, "num_mini_batches": 2, "num_ppo_epochs": 2},
    "dpo": {"max_steps": 2, "batch_size": 8},
    "compare": {"prompts": 8},
}
shipped = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)


def parameters_of(notebook):
    """The one cell a reader changes."""
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def values_in(source):
    """The constants a cell assigns, by name."""
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}


def execute(file, folder, lowest_accuracy):
    """The notebook after a run in `folder`, its parameters replaced by TOY's."""
    from toy import base_folder

    notebook = nbformat.read(file, as_version=4)
    config = TOY | {"model": {"base": str(base_folder())}}
    parameters_of(notebook).source = f"CONFIG = {config!r}\nLOWEST_ACCURACY = {lowest_accuracy}"
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    return client.execute()


def outputs_of(notebook):
    """(kind, content) of everything the notebook prints or shows: `text` or a MIME type."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = [("text", output["text"]) for output in outputs if "text" in output]
    return printed + [(kind, str(content)) for output in outputs for kind, content in output.get("data", {}).items()]


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A reader's folder, in which the kernel starts and finds the kit."""
    home = {"IPYTHONDIR": str(tmp_path / "ipython"), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    for name, value in {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **home}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


class TestShippedNotebooks:
    def test_are_found(self):
        assert "01_quickstart.ipynb" in {file.name for file in NOTEBOOKS}

    @shipped
    def test_hold_no_outputs(self, file):
        cells = [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
        assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)

    @shipped
    def test_install_nothing_where_the_kit_is_there(self, file):
        cells = [cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
        assert ["%pip" in source for source in cells] == [True] + [False] * (len(cells) - 1)
        assert 'if find_spec("kit") is None:' in cells[0]


class TestTheQuickstartNotebook:
    FILE = ROOT / "notebooks" / "01_quickstart.ipynb"

    def cell(self):
        return parameters_of(nbformat.read(self.FILE, as_version=4)).source

    def test_has_the_settings_of_the_quickstart_config(self):
        config = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
        assert values_in(self.cell())["CONFIG"] == config | {"name": "notebook"}

    def test_offers_a_real_model_whose_settings_exist(self):
        comments = [line.removeprefix("#").removeprefix(" ") for line in self.cell().splitlines() if line[:1] == "#"]
        source = "\n".join(comments[[line.startswith("CONFIG") for line in comments].index(True) :])
        assert kit.load_config(values_in(source)["CONFIG"]).model.base != "demo"

    @pytest.mark.pipeline
    @pytest.mark.filterwarnings("ignore")
    def test_runs_on_the_demo_world_and_stops_at_its_gate(self, reader):
        seen = outputs_of(execute(self.FILE, reader, lowest_accuracy=0.0))
        printed = "".join(content for kind, content in seen if kind == "text")
        assert "all good" in printed and "held-out accuracy" in printed
        assert [kind for kind, _ in seen].count("image/png") == 1
        tables = [content for kind, content in seen if kind == "text/html" and "<table" in content]
        assert "Full report" in tables[0] and "<th>prompt</th>" in tables[1]
        with pytest.raises(CellExecutionError, match="Near chance: PPO optimised noise"):
            execute(self.FILE, reader, lowest_accuracy=1.0)
