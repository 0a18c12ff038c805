"""cgan.py: who is told which class, its step against one by hand, its pictures, exact resume, its complaints."""

import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import cells, differences, far, log_of, of_type
from PIL import Image

import cgan
import datasets
import dcgan
import metrics

SMALL = "--image-size 16 --batch-size 4 --nz 8 --ngf 4 --ndf 4 --device cpu --save-every 0 --sample-every 0".split()
NAMES, COUNTS = ["bird", "cat", "dog"], (12, 5, 4)  # of which 10, 4 and 3 are of the split "train"


def networks(size=16, channels=3, K=3, width=4):
    torch.manual_seed(0)
    G, D = cgan.Generator(8, K, channels, width, size), cgan.Discriminator(channels, K, width, size)
    cgan.init_weights(G), cgan.init_weights(D)
    return G, D


def hot(labels, K=3):
    return torch.eye(K)[torch.as_tensor(labels)]


# ---------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("size", [28, 32, 64])
def test_networks_are_dcgans_with_room_for_the_class(size):
    def shapes(net):
        return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}

    for channels in (1, 3):
        assert shapes(cgan.Generator(100, 10, channels, 32, size)) == shapes(dcgan.Generator(110, channels, 32, size))
        d = shapes(cgan.Discriminator(channels, 10, 32, size))
        assert d == shapes(dcgan.Discriminator(channels + 10, 32, size))
    mine, theirs = networks(size), (dcgan.Generator(11, 3, 4, size), dcgan.Discriminator(6, 4, size))
    for net, other in zip(mine, theirs, strict=True):
        assert [str(module) for module in net.net] == [str(module) for module in other.net]
        assert all(m.eps == 1e-5 for m in of_type(net, torch.nn.BatchNorm2d))
        assert not of_type(net, torch.nn.Sigmoid, torch.nn.Embedding)


@pytest.mark.parametrize("size", [28, 32, 48, 64, 128])
def test_shapes_at_every_size(size):
    for channels in (1, 3):
        G, D = networks(size, channels, 3, 2)
        fake = G(torch.randn(2, 8), hot([0, 2]))
        assert fake.shape == (2, channels, size, size) and fake.abs().max() <= 1
        assert D(fake, hot([0, 2])).shape == (2,)


def test_weights_begin_as_the_paper_says():
    torch.manual_seed(0)
    for net in (cgan.Generator(100, 10, 3, 32, 64), cgan.Discriminator(3, 10, 64, 64)):
        cgan.init_weights(net)
        for conv in of_type(net, torch.nn.Conv2d, torch.nn.ConvTranspose2d):
            assert conv.weight.std().item() == pytest.approx(0.02, rel=5 / (2 * conv.weight.numel()) ** 0.5)
        scales = torch.cat([norm.weight for norm in of_type(net, torch.nn.BatchNorm2d)])
        assert abs(scales.mean() - 1) < 0.005 and 0.015 < scales.std() < 0.025


def test_d_sees_a_map_of_ones_for_the_class():
    _, D = networks()
    seen, x = [], torch.randn(3, 3, 16, 16)
    D.net[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    D(x, hot([2, 0, 2]))
    assert torch.equal(seen[0][:, :3], x) and seen[0].shape == (3, 6, 16, 16)
    for i, label in enumerate((2, 0, 2)):
        assert all((seen[0][i, 3 + k] == (k == label)).all() for k in range(3))


def test_g_appends_the_class_to_the_code():
    G, _ = networks()
    seen, z = [], torch.randn(2, 8)
    G.net[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1)))
    G(z, hot([2, 0]))
    assert torch.equal(seen[0], torch.tensor(np.hstack([z, np.eye(3)[[2, 0]]]), dtype=torch.float32))


def test_class_numbers_in_place_of_one_hot_are_refused():
    G, D = networks()
    labels, z, x = torch.tensor([0, 1, 2]), torch.randn(3, 8), torch.randn(3, 3, 16, 16)
    for wrong in (labels, labels.float(), labels.float()[:, None]):
        for net, first in ((G, z), (D, x)):
            with pytest.raises((RuntimeError, IndexError)):
                net(first, wrong)
    c = cgan.one_hot(np.array([2, 0]), 3, "cpu")
    assert torch.equal(c, hot([2, 0])) and c.dtype == torch.float32
    assert torch.equal(cgan.one_hot(torch.tensor([1]), 3, "cpu"), hot([1]))


@pytest.mark.parametrize("size", [16, 28, 64])
def test_the_class_matters_from_the_start(size):
    G, D = networks(size)
    z = torch.randn(8, 8)
    with torch.no_grad():
        fakes = [G(z, hot([k] * 8)) for k in range(3)]
        scores = [D(fakes[0], hot([k] * 8)) for k in range(3)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (fakes[i] - fakes[j]).abs().mean(dim=(1, 2, 3)).min() > 1e-3
        assert (scores[i] - scores[j]).abs().min() > 0


def test_an_image_does_not_depend_on_the_others_of_its_picture():
    G, _ = networks()
    with torch.no_grad():
        for _ in range(20):
            G(torch.randn(16, 8), hot([0] * 16))
    z, c, before = torch.randn(205, 8), hot([i % 3 for i in range(205)]), copy.deepcopy(G.state_dict())
    images = datasets.generate(G, z, c)
    for i in (0, 99, 100, 204):
        assert torch.allclose(images[i], datasets.generate(G, z[i : i + 1], c[i : i + 1])[0], atol=1e-6)
    assert all(module.training for module in G.modules())
    assert differences(dict(before), dict(G.state_dict())) == []
    assert (G(z[:4], c[:4])[0] - G(z[:40], c[:40])[0]).abs().max() > 0.01  # in training mode it does


# ------------------------------------------------------------------------------------------------------------ losses


def test_losses_in_closed_form():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0, -4.0, 1.0])
    D = torch.sigmoid(real).double(), torch.sigmoid(fake).double()  # equation 2
    assert cgan.d_loss(real, fake).item() == pytest.approx(-(D[0].log().mean() + (1 - D[1]).log().mean()).item())
    assert cgan.g_loss(fake).item() == pytest.approx(-D[1].log().mean().item())


def slope(loss, at):
    logit = torch.tensor([float(at)], requires_grad=True)
    return torch.autograd.grad(loss(logit), logit)[0].item()


def test_a_d_that_is_sure_and_wrong_still_learns():
    none = torch.zeros(1)
    assert slope(lambda logit: cgan.d_loss(logit, none), -100) < -0.9
    assert slope(lambda logit: cgan.d_loss(none, logit), 20) > 0.9
    assert slope(cgan.g_loss, -100) < -0.9 and slope(cgan.g_loss, -6) == pytest.approx(-0.9975, abs=1e-4)


# ------------------------------------------------------------------------------------------------ one step of training


@pytest.fixture(scope="session")
def animals(tmp_path_factory):
    """A folder of three classes: red birds, green cats, blue dogs, of 16 x 16; as many as COUNTS says."""
    folder = tmp_path_factory.mktemp("animals")
    rng = np.random.default_rng(0)
    for k, (name, count) in enumerate(zip(NAMES, COUNTS, strict=True)):
        (folder / name).mkdir()
        for i in range(count):
            image = rng.integers(0, 100, (16, 16, 3), np.uint8)
            image[:, :, k] += 150
            Image.fromarray(image).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture
def flags(animals, data_dir):
    return [*SMALL, "--dataset", str(animals), "--data-dir", str(data_dir)]


def test_the_same_labels_go_to_both_for_the_fakes_and_the_true_ones_to_d(watched):
    seen = watched("--epochs", 2)
    assert len(seen["G"]) == 8 and len(seen["D"]) == 24  # 17 images: the last batch, of one, is left out
    for (z, c, fake), real, of_fake, again in zip(seen["G"], *(seen["D"][i::3] for i in range(3)), strict=True):
        assert len(z) == len(c) == len(real[0]) == 4
        assert torch.equal(of_fake[0], fake) and torch.equal(of_fake[1], c)
        assert torch.equal(again[0], fake) and torch.equal(again[1], c)
        assert torch.equal(real[1], hot(real[0].mean(dim=(2, 3)).argmax(dim=1)))  # red birds, green cats, blue dogs
        for labels in (c, real[1]):
            assert labels.shape == (4, 3) and labels.dtype == torch.float32
            assert ((labels == 0) | (labels == 1)).all() and (labels.sum(dim=1) == 1).all()
    assert any(not torch.equal(g[1], real[1]) for g, real in zip(seen["G"], seen["D"][::3], strict=True))


def test_each_step_leaves_the_other_player_alone(watched):
    seen = watched("--max-steps", 1)
    (first, after_d), (second, after_g) = seen["after"]
    assert first == (seen["nets"]["D"],) and second == (seen["nets"]["G"],)  # D first
    assert all(g is None for g in after_d["G"])  # detached
    assert all(g.abs().sum() > 0 for g in after_d["D"] + after_g["G"])
    D, (real, fake, _) = seen["start"]["D"], seen["D"]
    alone = D(*real[:2]), D(*fake[:2])
    expected = torch.autograd.grad(cgan.d_loss(*alone), list(D.parameters()))
    for a, b, grad in zip(after_d["D"], after_g["D"], expected, strict=True):
        assert torch.equal(a, b) and torch.allclose(a, grad, rtol=1e-4, atol=1e-7)
    shared = D(torch.cat([real[0], fake[0]]), torch.cat([real[1], fake[1]]))
    for a, b in zip((real[2], fake[2]), alone, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert (shared - torch.cat(alone)).abs().max() > 1e-4  # BatchNorm's statistics of one batch of both would show


def by_hand(flags, steps):
    """The algorithm as the papers have it, with torch's own losses -> networks, and the gradients of the last step."""
    args = cgan.build_parser().parse_args(flags)
    data = cgan.load_labelled(args, "train")
    torch.manual_seed(args.seed)
    nets = cgan.build(args, (3, 3), "cpu")
    G, D = nets["G"], nets["D"]
    opts = {n: torch.optim.Adam(net.parameters(), lr=args.lr, betas=(0.5, 0.999)) for n, net in nets.items()}
    noise, loader = torch.Generator().manual_seed(args.seed), datasets.make_loader(data, 4, seed=args.seed)
    bce, yes, no = F.binary_cross_entropy_with_logits, torch.ones(4), torch.zeros(4)
    for _, _, batch in metrics.steps(loader, 0, steps):
        x, y = batch["image"].float() / 127.5 - 1, hot(batch["label"])
        z, u = torch.randn(4, args.nz, generator=noise), torch.rand(4, generator=noise)
        c, grads = hot([data.labels[int(u_i * len(data))] for u_i in u]), {}
        fake = G(z, c)
        for net, name in ((D, "D"), (G, "G")):
            loss = bce(D(x, y), yes) + bce(D(fake.detach(), c), no) if net is D else bce(D(fake, c), yes)
            grads[name] = torch.autograd.grad(loss, list(net.parameters()))
            for p, grad in zip(net.parameters(), grads[name], strict=True):
                p.grad = grad
            opts[name].step()
    return nets, grads


def test_three_steps_equal_three_by_hand(flags, watched):
    more = ["--max-steps", "3", "--lr", "1e-3"]
    seen = watched(*more)
    nets, grads = by_hand([*flags, *more], 3)
    for name in ("D", "G"):
        assert far(seen["state"][name], nets[name].state_dict()) < 1e-5, name
        assert far(seen["start"][name].state_dict(), nets[name].state_dict()) > 1e-3, name
        for p, expected in zip(seen["nets"][name].parameters(), grads[name], strict=True):
            assert torch.allclose(p.grad, expected, rtol=1e-3, atol=1e-5), name


def toy(monkeypatch, counts, shades, size=8):
    """Makes cgan's data a set of len(counts) classes of plain grey images."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.clip((np.array(shades)[labels] + 1) * 127.5, 0, 255).round().astype(np.uint8)
    images = np.broadcast_to(images[:, None, None, None], (len(labels), 1, size, size)).copy()
    names = [f"class {k}" for k in range(len(counts))]
    data = datasets.ImageSet("toy", "train", images, labels=labels, classes=names)
    monkeypatch.setattr(cgan, "load_labelled", lambda *a, **k: data)
    return data


def test_fakes_are_of_each_class_as_often_as_the_data(monkeypatch, watched):
    toy(monkeypatch, (180, 2, 18), (-0.5, 0, 0.5))
    seen = watched("--image-size", 8, "--batch-size", 100, "--epochs", 15)
    drawn = torch.cat([c for _, c, _ in seen["G"]])
    assert len(drawn) == 3000
    for share, expected in zip(drawn.mean(dim=0).tolist(), (0.90, 0.01, 0.09), strict=True):
        assert share == pytest.approx(expected, abs=5 * (expected * (1 - expected) / 3000) ** 0.5)
    first, second = seen["G"][0][1], seen["G"][1][1]
    assert not torch.equal(first, second)


def test_it_learns_which_class_is_which(monkeypatch, train_here, tmp_path):
    """Light images of one class, dark ones of the other: D must notice a wrong class, G make what it is asked for.

    D is asked early: once G makes no image of a wrong class any more, nothing reminds D of what it thinks of them.
    """
    data = toy(monkeypatch, (64, 64), (0.8, -0.8), size=16)
    flags = ["--batch-size", 32, "--lr", 2e-3, "--ngf", 8, "--ndf", 8, "--epochs", 100]

    def after(steps):
        state = train_here(tmp_path / "run", *flags, "--max-steps", steps, "--resume", "auto")
        return cgan.build(cgan.build_parser().parse_args([*SMALL, *map(str, flags)]), (1, 2), "cpu", state)

    D = after(20)["D"].eval()
    x, y = torch.from_numpy(data.images).float() / 127.5 - 1, torch.from_numpy(data.labels)
    with torch.no_grad():
        true, wrong = D(x, hot(y, 2)), D(x, hot(1 - y, 2))
    assert (wrong < true).all(), (wrong - true).max()
    G = after(60)["G"]
    light, dark = (datasets.generate(G, torch.randn(200, 8), hot([k] * 200, 2)).mean(dim=(1, 2, 3)) for k in (0, 1))
    assert min((light > 0).float().mean(), (dark < 0).float().mean()) > 0.95
    assert light.mean() > 0.4 and dark.mean() < -0.4


def test_amp_and_the_log(train_here, tmp_path):
    state = train_here(tmp_path / "run", "--amp", "--max-steps", 2, "--log-every", 1)
    assert all(t.dtype == torch.float32 for t in state["G"].values() if t.is_floating_point())
    rows = log_of(tmp_path / "run")
    assert len(rows) == 2 and all(math.isfinite(float(value)) for row in rows for value in row.values())
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("acc_real", "acc_fake", "distinct"))


# -------------------------------------------------------------------------------------------- resume, several processes


def test_2n_epochs_equal_n_and_n_resumed_to_the_bit(in_two_parts, tmp_path):
    assert in_two_parts(("--epochs", 1), "--epochs", 2, "--log-every", 3)["step"] == 8
    assert len(log_of(tmp_path / "whole")) == 3


def test_a_run_continues_in_the_middle_of_an_epoch(in_two_parts):
    in_two_parts(("--max-steps", 5), "--epochs", 2)


def test_ctrl_c_and_sigterm_end_a_run_after_a_checkpoint(stops_cleanly):
    stops_cleanly()


def test_the_same_command_gives_the_same_bits_and_another_seed_does_not(reproducible):
    reproducible("--max-steps", 2)


PROCESS = """
asked, one_hot = [], script.one_hot
script.one_hot = lambda *a: asked.append(one_hot(*a)) or asked[-1]
train(out, *flags)
torch.save(asked[:6], f"{out}/asked{os.environ['RANK']}.pt")
"""


def test_two_processes_keep_equal_weights_and_share_the_labels_out(torchrun, flags, watched, tmp_path):
    out = tmp_path / "two"
    torchrun(out, *flags, "--max-steps", 3, "--batch-size", 2, code=PROCESS)
    a, b, saved = (torch.load(out / f"{name}.pt", weights_only=True) for name in ("0", "1", "last"))
    for name in ("G", "D"):
        weights = [key for key in a[name] if "running" not in key]
        assert len(weights) > 3 and all(torch.equal(a[name][key], b[name][key]) for key in weights)
        assert far(a[name], saved[name]) == 0  # rank 0 saves
    assert far(a["D"], b["D"]) > 0  # each has seen images of its own
    seen, whole = watched("--max-steps", 3), []
    for (_, c_fake, _), (_, c, _) in zip(seen["G"], seen["D"][::3], strict=True):
        whole += [c, c_fake]
    for rank in (0, 1):  # the true ones and those of the fakes, of each step
        asked = torch.load(out / f"asked{rank}.pt", weights_only=True)
        assert all(torch.equal(mine, all_[rank::2]) for mine, all_ in zip(asked, whole, strict=True))


# ------------------------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="session")
def trained(animals, data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = [*SMALL, "--dataset", animals, "--data-dir", data_dir, "--max-steps", 2, "--out", out]
    cgan.main([*map(str, flags)])
    return out / "last.pt"


def test_smoke_train_sample_resume(smoke, tmp_path):
    assert "step 1: D is right on" in smoke()
    assert Image.open(tmp_path / "run" / "samples" / "samples.png").width == 3 * 18 + 2


class Painter(torch.nn.Module):
    """Paints the code's first number in the upper half, and the number of the class in the lower one."""

    def forward(self, z, c):
        top = z[:, 0, None, None, None].expand(-1, 3, 16, 8)
        return torch.cat([top, c.argmax(dim=1)[:, None, None, None].expand_as(top) / 10], dim=3).transpose(2, 3)


def test_a_row_for_each_code_and_a_column_for_each_class(tmp_path):
    z = torch.linspace(-1, 1, 20)[:, None]
    for labels in ([0, 1, 2], [2, 0]):
        for name in "ab":
            cgan.draw_grid(Painter(), z, labels, NAMES, tmp_path / f"{name}.png")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
        picture = cells(tmp_path / "a.png")
        assert picture.shape[:2] == (20, len(labels))
        for row in range(20):
            for column, label in enumerate(labels):
                top, bottom = picture[row, column, :8], picture[row, column, 8:]
                assert (abs(top / 127.5 - 1 - z[row].item()) < 0.01).all()
                assert (abs(bottom / 127.5 - 1 - label / 10) < 0.01).all()


def test_the_class_decides_in_a_trained_grid_too(trained, tmp_path):
    cgan.main(["--sample", str(trained), "--out", str(tmp_path), "--num-samples", "9"])
    picture = cells(tmp_path / "samples" / "samples.png")
    assert picture.shape[:2] == (3, 3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (picture[:, i] != picture[:, j]).any(axis=(1, 2, 3)).all()


def test_pictures_along_the_way_are_of_the_same_codes(train_here, tmp_path, monkeypatch):
    asked, draw_grid = [], cgan.draw_grid

    def spy(G, z, labels, names, path):
        asked.append((z.clone(), list(labels), list(names)))
        draw_grid(G, z, labels, names, path)

    monkeypatch.setattr(cgan, "draw_grid", spy)
    train_here(tmp_path / "run", "--max-steps", 3, "--sample-every", 1, "--num-samples", 7)
    assert len(asked) == 3 and asked[0][0].shape == (3, 8)  # three rows of three: at least 7
    assert all(torch.equal(z, asked[0][0]) and (labels, names) == ([0, 1, 2], NAMES) for z, labels, names in asked)
    assert cells(tmp_path / "run" / "samples" / "0000002.png").shape[:2] == (3, 3)


def test_some_classes_by_number_or_by_name(trained, tmp_path, complaint):
    def picture(name, *more):
        cgan.main(["--sample", str(trained), "--out", str(tmp_path / name), "--num-samples", "6", *more])
        return tuple(cells(tmp_path / name / "samples" / f"{n}.png") for n in ("samples", "interpolation"))

    whole, walk = picture("whole", "--num-samples", "9")
    assert whole.shape[:2] == (3, 3) and walk.shape[:2] == (10, 3)
    for name, flag in (("numbers", "2,0"), ("names", "dog,bird"), ("both", "dog, 0")):
        some, some_walk = picture(name, "--classes", flag)
        assert np.array_equal(some, whole[:, [2, 0]]) and np.array_equal(some_walk, walk[:, [2, 0]])
    assert picture("one", "--classes", "cat")[0].shape[:2] == (6, 1)  # as many samples, of fewer classes
    assert np.array_equal(walk[[0, 9]], whole[:2])  # from the first code to the second
    for bad in ("3", "fish", "dog,-1", "1.5", "Dog"):
        text = complaint("--sample", trained, "--classes", bad)
        assert f"--classes {bad.split(',')[-1]}: " in text and "bird, cat, dog" in text and "0 to 2" in text


def test_a_name_comes_before_a_number():
    assert cgan.choose_classes("3,7", [str(i) for i in range(10)]) == [3, 7]
    assert cgan.choose_classes("2", ["2", "1", "0"]) == [0]
    assert cgan.choose_classes("", NAMES) == [0, 1, 2]


def test_evaluate_writes_every_score(train_here, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "CLASSIFIER_STEPS", (3, 3))
    asked, label_fidelity, generate = [], metrics.label_fidelity, datasets.generate

    def spy(fake, labels, test, classifier):
        asked.append((fake, np.asarray(labels), test))
        return label_fidelity(fake, labels, test, classifier)

    def spy_generate(G, z, c):
        asked.append(c)
        return generate(G, z, c)

    monkeypatch.setattr(metrics, "label_fidelity", spy)
    monkeypatch.setattr(datasets, "generate", spy_generate)
    train_here(tmp_path, "--max-steps", 2, "--eval-every", 2)
    asked.clear()
    cgan.main(["--evaluate", str(tmp_path / "last.pt")])
    c, (fake, labels, test) = asked
    assert fake.dtype == torch.uint8 and fake.shape == (4, 3, 16, 16) and test.split == "test"
    assert labels.tolist() == test.labels.tolist() == [0, 0, 1, 2] and torch.equal(c, hot(labels))
    facts = json.loads((tmp_path / "metrics.json").read_text())
    assert facts["step"] == 2 and facts["minutes"] > 0 and facts["args"]["nz"] == 8
    scores = {score["metric"].removeprefix("in-domain "): score for score in facts["scores"]}
    assert {"FID", "IS", "label accuracy"} <= set(scores) and 0 <= scores["label accuracy"]["value"] <= 1
    fid = scores["FID"]
    assert fid["n_fake"] == fid["n_real"] == 4 and fid["floor"] >= 0 and "too few" in fid["note"]
    assert json.loads((tmp_path / "metrics-0000002.json").read_text())["scores"] == facts["scores"]


# --------------------------------------------------------------------------------------------------------- bad input


def test_complaints_name_the_thing_and_the_remedy(complaint, trained, flags, tmp_path):
    flags = [*flags, "--max-steps", 1, "--out", tmp_path / "run"]
    assert "unknown data set 'cats'" in complaint(*flags, "--dataset", "cats")
    assert "--image-size 30: use" in complaint(*flags, "--image-size", 30)
    for flag in ("--num-samples", "--lr", "--nz", "--ngf", "--ndf", "--fid-images"):
        assert flag in complaint(*flags, flag, 0)
    for flag in ("--beta1", "--beta2"):
        assert flag in complaint(*flags, flag, 1)
    assert "17 images" in complaint(*flags, "--batch-size", 64)
    assert "holds a run" in complaint(*flags, "--out", trained.parent)
    assert "no checkpoint" in complaint("--sample", tmp_path / "none.pt")
    assert "--ngf 4" in complaint("--resume", trained, "--ngf", 8, "--epochs", 2)
    assert "at its end" in complaint("--resume", trained, "--max-steps", 2)
    assert not (tmp_path / "run").exists()  # nothing was begun


def test_a_set_without_classes_or_with_others_is_refused(complaint, trained, flags, tmp_path):
    flat, two = tmp_path / "flat", tmp_path / "two"
    for folder, names in ((flat, ("",)), (two, ("bird", "cat"))):
        for name in names:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for i in range(11):
                Image.new("RGB", (16, 16)).save(folder / name / f"{i:02}.png")
    out = ["--out", tmp_path / "run"]
    assert "flat has no classes" in complaint(*flags, *out, "--dataset", flat)
    assert "8gaussians" in complaint(*flags, *out, "--dataset", "8gaussians")
    assert "flat has no classes" in complaint("--evaluate", trained, "--dataset", flat)
    assert "2 classes" in complaint("--evaluate", trained, "--dataset", two)
    assert not (tmp_path / "run").exists()


def test_foreign_and_broken_checkpoints(refuses_foreign_and_broken, trained):
    refuses_foreign_and_broken(trained)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(stops_at_nan):
    stops_at_nan()
