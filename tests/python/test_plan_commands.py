"""``transfuse plan``, ``transfuse bench plan``, generators and profiles."""

import json
import pathlib

import pytest
from processes import run_python
from typer.testing import CliRunner

from transfuse.cli import app
from transfuse.plan import Accelerator, Plan, amdahl, load, model, profile, solve, transformer

DATA = pathlib.Path(__file__).parents[1] / "data" / "planner"
BERT = str(DATA / "piper" / "bert32a100.json")


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_plan_of_a_file(tmp_path):
    files = {name: tmp_path / name for name in ("plan.json", "plan.svg", "trace.json")}
    result = run(
        "plan", BERT, "-p", "24", "--effort", "0.01", "--json", str(files["plan.json"]), "--gantt",
        str(files["plan.svg"]), "--perfetto", str(files["trace.json"]),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "lower bound" in result.output
    assert all(path.exists() for path in files.values())
    plan = Plan.from_json(files["plan.json"])
    assert plan.verify()
    assert plan.accelerators == 24


def test_plan_of_a_model_with_communication():
    result = run("plan", "--model", "gpt2", "-p", "2", "--mode", "stages", "--bandwidth", "1e10")
    assert result.exit_code == 0, result.output
    assert "communication: transfer" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan"], "either a graph or --model"),
        (["plan", "--model", "gpt9"], "model must be one of"),
        (["plan", "no-such-file.json"], "no-such-file.json"),
        (["plan", BERT, "-p", "0"], "accelerators must be"),
        (["plan", BERT, "-p", "64", "--gantt", "plan.xyz"], "gantt: the path must end with"),  # before it is solved
        (["plan", BERT, "-p", "4", "--memory", "1"], "memory: no plan"),
        (["plan", BERT, "--mode", "wide"], "mode must be"),
        (["bench", "plan", "--suite", "all"], "suite must be one of"),
        (["bench", "plan", "--suite", "bert32"], "needs the folder"),
    ],
)
def test_bad_input(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_file_that_cannot_be_written(tmp_path):
    result = run("plan", BERT, "--mode", "stages", "--json", str(tmp_path / "none" / "plan.json"))
    assert result.exit_code == 1
    assert "error:" in result.output


def test_bench(tmp_path):
    values, table = tmp_path / "values.json", tmp_path / "table.md"
    result = run("bench", "plan", "--effort", "0.1", "--json", str(values), "--markdown", str(table))
    assert result.exit_code == 0, result.output
    (row,) = json.loads(values.read_text())
    assert (row["period"], row["gap"], row["reached"]) == ("2.5", "0", "yes")
    assert table.read_text().startswith("| case |")


def test_bench_published():
    result = run("bench", "plan", "--suite", "published", "--data", str(DATA), "--only", "bert32")
    assert result.exit_code == 0, result.output
    assert " no" not in result.output.replace("no transfers", "")


def test_import_is_light():
    program = """
        import sys
        import transfuse
        print(sorted(name for name in sys.modules if name.startswith("transfuse.plan")))
        import transfuse.plan
        print(sorted({"scipy", "ortools", "matplotlib", "torch", "networkx"} & set(sys.modules)))
    """
    assert run_python(program).stdout == "[]\n[]\n"


def test_llama_block():
    graph = transformer(2, 4096, 32, 11008, 4096, max_width=8)
    assert len(graph.operations) == 28
    gate = graph.operations[graph.index["block0.gate"]]
    assert list(gate.times) == [1, 2, 4, 8]
    assert gate.times[1] == pytest.approx(2 * 4096 * 4096 * 11008 / (0.6 * 312e12) + 5e-6)
    assert gate.parameters == 4096 * 11008 * 2
    weights = sum(o.parameters for o in model("llama2-7b").operations)
    assert weights == pytest.approx(2 * 6.48e9, rel=0.01)  # without the embeddings


def test_wider_operations_cost_more_work():
    for kind in ("llama", "gpt"):
        for operation in transformer(1, 1024, 16, 4096, 512, block=kind, max_width=16).operations:
            work = [width * time for width, time in operation.times.items()]
            assert work == sorted(work)


@pytest.mark.parametrize(
    "options",
    [
        {"layers": 0},
        {"layers": 1.5},
        {"heads": 5},
        {"kv_heads": 3},
        {"block": "rnn"},
        {"accelerator": "abacus"},
        {"max_width": 0},
    ],
    ids=lambda o: next(iter(o)),
)
def test_bad_models(options):
    sizes = {"layers": 1, "hidden": 64, "heads": 4, "ffn": 128, "seq": 32}
    with pytest.raises(ValueError, match=next(iter(options))):
        transformer(**{**sizes, **options})


def test_heads_that_do_not_divide_evenly():
    chip = Accelerator("mine", flops=1e12, memory_bandwidth=1e15, link_bandwidth=1e10, link_latency=0.0, overhead=0.0)
    graph = transformer(1, 75, 25, 256, 1024, accelerator=chip, max_width=8, block="gpt")
    times = graph.operations[graph.index["block0.attention"]].times
    assert times[8] == pytest.approx(times[1] * 4 / 25)


def test_own_accelerator():
    chip = Accelerator("mine", flops=1e12, memory_bandwidth=1e12, link_bandwidth=1e10, link_latency=0.0, efficiency=1.0)
    graph = transformer(1, 64, 4, 256, 1024, accelerator=chip, max_width=2)
    assert graph.operations[graph.index["block0.up"]].times[1] == pytest.approx(2 * 1024 * 64 * 256 / 1e12 + 5e-6)


def test_profile_of_a_module(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 8))
    graph = profile(module, (torch.ones(4, 32),), max_width=4, scaling=amdahl(0.5, latency=0.0, bandwidth=1e12))
    kinds = [operation.kind for operation in graph.sorted()]
    assert [kind for kind in kinds if kind in ("linear", "gelu")] == ["linear", "gelu", "linear"]
    first = graph.sorted()[kinds.index("linear")]
    assert first.parameters == (32 * 64 + 64) * 4
    assert first.memory == 4 * 64 * 4
    assert first.times[4] == pytest.approx(first.times[1] * 0.625, rel=1e-2)
    assert module.training  # as it was
    with pytest.raises(TypeError, match="example_inputs must be a tuple"):
        profile(module, torch.ones(4, 32))
    with pytest.raises(ValueError, match="scaling must be one of"):
        profile(module, (torch.ones(4, 32),), scaling="magic")
    graph.to_json(tmp_path / "graph.json")
    assert load(tmp_path / "graph.json") == graph
    assert solve(graph, 2, mode="stages").verify()
