"""What the scripts share, in numbers: every copy of an idiom that they copy, or the one in a shared module."""

import importlib
import subprocess
import sys
from multiprocessing.pool import ThreadPool

import pytest
import torch
import torch.distributed.run
from conftest import ROOT
from test_in_step import SCRIPTS


def copies(name):
    """The modules that have this idiom."""
    modules = [importlib.import_module(module) for module in (*SCRIPTS, "datasets", "metrics")]
    return [pytest.param(module, id=module.__name__) for module in modules if hasattr(module, name)]


@pytest.mark.parametrize("script", copies("lr_factor"))
def test_lr_factor_is_constant_then_linear(script):
    table = [script.lr_factor(epoch, epochs=200, decay_from=100) for epoch in (0, 99, 100, 150, 199, 200)]
    assert table == pytest.approx([1, 1, 1, 0.5, 0.01, 0])
    assert script.lr_factor(12, epochs=20, decay_from=0) == script.lr_factor(7, epochs=8, decay_from=8) == 1


@pytest.mark.parametrize("script", copies("due"))
def test_due_each_so_many_steps_and_at_the_end(script):
    assert [step for step in range(1, 12) if script.due(step, 4, 11)] == [4, 8, 11]
    assert [step for step in range(1, 12) if script.due(step, 0, 11)] == [11]


@pytest.mark.parametrize("script", copies("draw_noise"))
def test_noise_of_two_processes_is_that_of_one(script):
    def draw(shape, rank=0, world=1):
        return script.draw_noise(shape, torch.Generator().manual_seed(3), "cpu", rank, world)

    whole = draw((6, 4))
    for world in (2, 3):
        parts = [draw((6 // world, 4), rank, world) for rank in range(world)]
        assert all(torch.equal(part, whole[rank::world]) for rank, part in enumerate(parts))
    many = draw((20000, 2))
    assert many.mean().abs() < 0.03 and (many.std() - 1).abs() < 0.03


@pytest.mark.parametrize("script", copies("pick_device"))
def test_pick_device(script, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert script.pick_device("cpu") == (torch.device("cpu"), 0, 1)
    assert script.pick_device("auto")[0].type in ("cpu", "cuda", "mps")


PROCESS = """
import sys, torch, torch.distributed as dist, importlib
script = importlib.import_module(sys.argv[1])
device, rank, world = script.pick_device("cpu")
net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
torch.nn.init.constant_(net[0].weight, rank + 5.0)
net[1].running_mean.fill_(rank + 7.0)
script.broadcast_weights(net)
assert (net[0].weight == 5).all() and (net[1].running_mean == 7).all()
frozen = torch.nn.Linear(1, 1)  # has no gradient
for i, p in enumerate(net.parameters()):
    p.grad = torch.full_like(p, rank + i)
script.average_gradients(net, frozen)
for i, p in enumerate(net.parameters()):
    assert torch.allclose(p.grad, torch.full_like(p, (world - 1) / 2 + i)), (i, p.grad)
assert frozen.weight.grad is None
if hasattr(script, "gather"):
    whole = torch.arange(12.0).view(6, 2).requires_grad_(True)
    assert torch.equal(script.gather(whole[rank::world], world), whole) and torch.equal(script.gather(whole, 1), whole)
    assert not script.gather(whole, world).requires_grad
dist.destroy_process_group()
"""


@pytest.mark.parametrize("script", copies("average_gradients"))
def test_processes_share_weights_and_gradients(script, monkeypatch, tmp_path):
    """Under torchrun itself, and in interpreters of their own; the tests of the scripts start forks instead."""
    (tmp_path / "process.py").write_text(PROCESS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = ["--standalone", "--nproc-per-node", "2", str(tmp_path / "process.py"), script.__name__]
    with ThreadPool(1) as pool:  # in here: in a process of its own torchrun would import torch too
        pool.apply_async(torch.distributed.run.main, (command,)).get(120)  # an exception if one of them fails


@pytest.mark.parametrize("script", copies("average_gradients"))
def test_one_process_keeps_its_gradients(script):
    net = torch.nn.Linear(2, 2)
    net(torch.ones(1, 2)).sum().backward()
    before = net.weight.grad.clone()
    script.average_gradients(net)
    assert torch.equal(net.weight.grad, before)


def test_help_answers_without_slow_imports():
    code = f"""
import importlib, sys
import metrics
assert not {{"torchvision", "matplotlib", "scipy", "datasets"}} & set(sys.modules), "metrics"
for script in {SCRIPTS}:
    importlib.import_module(script).build_parser().format_help()
    for name in ("torchvision", "matplotlib", "scipy.linalg", "torch._dynamo"):
        assert name not in sys.modules, (script, name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
