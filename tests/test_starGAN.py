"""starGAN.py: labels and targets, whose loss reaches whom, the penalty, exact resume, its command line, complaints."""

import csv
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import count, differences, log_of, same
from PIL import Image

import datasets
import metrics
import starGAN as S

SMALL = "--image-size 16 --batch-size 4 --ngf 4 --ndf 4 --blocks 1 --device cpu --save-every 0 --sample-every 0".split()
NAMES = ["Black_Hair", "Blond_Hair", "Brown_Hair", "Smiling"]
HAIR = {"Black_Hair": (20, 20, 20), "Blond_Hair": (240, 210, 90), "Brown_Hair": (120, 60, 20)}
RIVALS = [[1, 2], [0, 2], [0, 1], []]


def parsed(*flags):
    return S.build_parser().parse_args([*SMALL, *map(str, flags)])


def networks(*flags, channels=(3, 4)):
    torch.manual_seed(0)
    return S.build(parsed(*flags), channels, "cpu").values()


def labels(n, seed=0):
    """n faces' attributes (n, 4): one hair colour in three, or none, and Smiling."""
    draw = np.random.default_rng(seed)
    hair = np.eye(4)[draw.integers(0, 4, n)][:, :3]
    return torch.tensor(np.hstack([hair, draw.integers(0, 2, (n, 1))]), dtype=torch.float32)


@pytest.fixture(scope="session")
def heads(tmp_path_factory):
    """24 training and 8 test pictures of 16 px, with a CSV: hair above, below a white mouth where it smiles."""
    folder, draw = tmp_path_factory.mktemp("heads"), np.random.default_rng(0)
    rows = [["file", "Smiling", *HAIR]]
    for split, n in (("train", 24), ("test", 8)):
        (folder / split).mkdir()
        for i in range(n):
            picture = np.full((16, 16, 3), draw.integers(90, 160, 3), np.uint8)
            hair, smiling = list(HAIR)[i % 3], i // 3 % 2
            picture[:6] = HAIR[hair]
            picture[11:14, 4:12] = 255 if smiling else picture[11:14, 4:12]
            Image.fromarray(picture).save(folder / split / f"{split}{i}.png")
            rows.append([f"{split}{i}.png", smiling, *(int(name == hair) for name in HAIR)])
    (folder / "attributes.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def classes(tmp_path_factory):
    """A folder of three classes, 10 plain pictures of 16 px each; every tenth is a test picture."""
    folder = tmp_path_factory.mktemp("classes")
    for name, colour in (("blue", (20, 40, 230)), ("green", (30, 200, 40)), ("red", (230, 30, 30))):
        (folder / name).mkdir()
        for i in range(10):
            Image.new("RGB", (16, 16), tuple(c + i for c in colour)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def hasty_judges(monkeypatch):
    monkeypatch.setattr(metrics, "CLASSIFIER_STEPS", (40, 40))


@pytest.fixture
def flags(heads, data_dir):
    return [*SMALL, "--dataset", heads, "--attributes", ",".join(NAMES), "--data-dir", data_dir]


@pytest.fixture
def train(train_here, tmp_path):
    """train("--max-steps", 1) -> the checkpoint of a run in this process."""

    def train(*more, dataset=None, out="run"):
        other = ["--dataset", dataset, "--attributes", ""] if dataset else []  # classes: all of them
        return train_here(tmp_path / out, *other, *more)

    return train


# ---------------------------------------------------------------------------------------------------------- networks


def test_parameter_counts_are_the_papers():
    assert count(S.Generator(3, 5, 64, 6)) == 8_430_528
    assert count(S.Generator(3, 8, 64, 6)) == 8_439_936
    assert count(S.Discriminator(3, 5, 64, 128)) == 44_762_048
    assert count(S.Discriminator(3, 8, 64, 128)) == 44_786_624


@pytest.mark.parametrize("size, side", [(16, 2), (48, 3), (64, 2), (128, 2)])
def test_shapes_at_every_size(size, side):
    G, D = S.Generator(1, 3, 2, 1), S.Discriminator(1, 3, 2, size)
    x, c = torch.rand(2, 1, size, size) * 2 - 1, torch.eye(3)[:2]
    fake = G(x, c)
    assert fake.shape == x.shape and fake.abs().max() <= 1
    src, cls = D(fake)
    assert src.shape == (2, 1, side, side) and cls.shape == (2, 3)


def test_convolutions_before_a_normalisation_have_no_bias_and_all_padding_is_of_zeros():
    G, D = networks()
    for net in (G, D):
        convs = [m for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))]
        assert all(conv.padding_mode == "zeros" for conv in convs)
        bare = convs[:-1] if net is G else [D.src, D.cls]  # G's last has one, for its mask
        assert all((conv.bias is None) == (conv in bare) for conv in convs)
    assert not [m for m in D.modules() if "Norm" in type(m).__name__] and not list(G.buffers())


def test_the_label_changes_the_picture_from_the_start():
    torch.manual_seed(0)
    G, x = S.Generator(3, 5, 16, 2), torch.rand(4, 3, 32, 32) * 2 - 1
    c = torch.tensor([[1.0, 0, 0, 0, 1]]).expand(4, -1)
    with torch.no_grad():
        assert (G(x, c) - G(x, 1 - c)).abs().mean() > 0.05
        for conv in (m for m in G.modules() if isinstance(m, torch.nn.Conv2d)):
            conv.padding_mode = "reflect"
            conv._reversed_padding_repeated_twice = [n for n in reversed(conv.padding) for _ in range(2)]
        assert (G(x, c) - G(x, 1 - c)).abs().mean() < 1e-4  # what the comment in Generator says


def test_where_the_mask_is_0_the_picture_stays_as_it_was():
    G, x = S.Generator(3, 4, 4, 1, mask=True), torch.rand(2, 3, 16, 16) * 2 - 1
    G.net[-1].weight.data.zero_()
    for logit, expected in ((-30.0, x), (30.0, torch.full_like(x, np.tanh(0.5)))):  # 1: painted over
        G.net[-1].bias.data = torch.tensor([0.5, 0.5, 0.5, logit])
        assert torch.allclose(G(x, labels(2)), expected, atol=1e-6)
    G = S.Generator(3, 4, 4, 1)
    G.net[-1].weight.data.zero_()
    assert G.net[-1].bias is None and (G(x, labels(2)) == 0).all()


def test_training_and_evaluation_mode_compute_the_same_and_no_picture_sees_another():
    G, D = networks()
    x, c = torch.rand(3, 3, 16, 16) * 2 - 1, labels(3)
    with torch.no_grad():
        for _ in range(3):
            G.train()(x * 0.1, c)  # running statistics would move here
        assert torch.equal(G.train()(x, c), G.eval()(x, c))
        assert torch.allclose(G(x, c)[:1], G(x[:1], c[:1]), atol=1e-5)
        assert torch.allclose(D(x)[0][:1], D(x[:1])[0], atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ losses


def test_adversarial_losses_in_closed_form():
    x = torch.tensor([[[[0.5, -2.0]]]])
    assert S.gan_loss(x, True, "wgan-gp").item() == pytest.approx(0.75)
    assert S.gan_loss(x, False, "wgan-gp").item() == pytest.approx(-0.75)
    fake = (math.log1p(math.exp(0.5)) + math.log1p(math.exp(-2))) / 2  # -log(1 - sigmoid(x))
    assert S.gan_loss(x, False, "bce").item() == pytest.approx(fake)
    assert S.gan_loss(-x, True, "bce").item() == pytest.approx(fake)
    sure = torch.tensor([-100.0], requires_grad=True)
    S.gan_loss(sure, True, "bce").backward()
    assert sure.grad.item() < -0.9  # a sigmoid in D would give 0


def test_classification_is_summed_over_attributes_and_averaged_over_pictures():
    logits, c = torch.tensor([[2.0, -1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    expected = math.log1p(math.exp(-2)) + math.log1p(math.exp(1)) + math.log(2)
    assert S.cls_loss(logits, c, False).item() == pytest.approx(expected)
    assert S.cls_loss(logits.repeat(7, 1), c.repeat(7, 1), False).item() == pytest.approx(expected)
    one_hot = torch.tensor([[0.0, 1.0, 0.0]])
    assert S.cls_loss(logits, one_hot, True).item() == pytest.approx(-logits.log_softmax(1)[0, 1].item())


def linear(weights, side):
    """A D whose src is a 2 x 2 map, each of the four being w.x: the sum has the slope 4 |w|; its cls is a trap."""

    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.src = torch.nn.Identity(), torch.nn.Conv2d(3, 4, side, bias=False)
            self.src.weight.data[:] = weights

        def cls(self, x):
            raise AssertionError("the penalty is about src")

    return Linear()


def test_the_penalty_in_closed_form():
    w = torch.randn(3, 5, 5)
    D, x, y = linear(w, 5), torch.randn(6, 3, 5, 5), torch.randn(6, 3, 5, 5)
    penalty = S.src_penalty(D, x, y, torch.rand(6, 1, 1, 1))
    assert penalty.item() == pytest.approx((4 * w.norm().item() - 1) ** 2, rel=1e-4)
    penalty.backward()  # second order: it reaches the weights
    grad = 2 * (4 * w.norm() - 1) * w / w.norm()
    assert torch.allclose(D.src.weight.grad, grad.expand(4, -1, -1, -1), rtol=1e-3, atol=1e-4)


def test_the_penalty_looks_between_real_and_fake():
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, x):
            seen.append(x.detach())
            return x

    D = linear(torch.ones(3, 5, 5), 5)
    D.body = Watch()
    real, fake = torch.ones(3, 3, 5, 5), -torch.ones(3, 3, 5, 5)
    S.src_penalty(D, real, fake, torch.tensor([1.0, 0.0, 0.75]).view(3, 1, 1, 1))
    assert seen[0][:, 0, 0, 0].tolist() == [1.0, -1.0, 0.5]


def test_a_flat_critic_gives_a_penalty_of_one_and_no_nan():
    _, D = networks()
    for p in D.parameters():
        p.data.zero_()
    penalty = S.src_penalty(D, torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16), torch.rand(2, 1, 1, 1))
    penalty.backward()
    assert penalty.item() == 1 and all(torch.isfinite(p.grad).all() for p in D.parameters() if p.grad is not None)
    assert D.cls.weight.grad is None  # through src alone


# ------------------------------------------------------------------------------------------------ labels and targets


def test_no_target_has_two_hair_colours_and_permuting_keeps_the_counts():
    noise, seen = torch.Generator().manual_seed(0), 0
    while seen < 10_000:
        c = labels(16, seed=seen)
        target = S.permuted(c, noise, 0, 1)
        assert target[:, :3].sum(dim=1).max() <= 1
        assert Counter(map(tuple, target.tolist())) == Counter(map(tuple, c.tolist()))
        seen += len(c)
    assert not torch.equal(target, c)


def test_setting_a_hair_colour_takes_its_rivals_place_and_a_flip_leaves_nobody_without():
    c = torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]])
    blond = datasets.change(c, {1: None}, RIVALS)
    assert blond.tolist() == [[0, 1, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0]]
    assert torch.equal(datasets.change(blond, {1: None}, RIVALS), blond)  # already so: no bald head
    assert datasets.change(c, {3: None}, RIVALS)[:, 3].tolist() == [0, 1, 1]
    assert datasets.change(c, {3: 0, 0: 1}, RIVALS).tolist() == [[1, 0, 0, 0]] * 3
    assert datasets.change(c, {0: 0}, RIVALS)[0].tolist() == [0, 0, 0, 1] and c[0, 0] == 1  # the argument is left alone


def test_exclusive_groups():
    assert S.exclusive(parsed(), NAMES, False) == RIVALS
    assert S.exclusive(parsed(), ["Smiling", "Blond_Hair", "Gray_Hair"], False) == [[], [2], [1]]  # by name
    assert S.exclusive(parsed("--exclusive", "Smiling/Brown_Hair"), NAMES, False) == [[], [], [3], [2]]
    assert S.exclusive(parsed("--exclusive", ""), NAMES, False) == [[], [], [], []]
    assert S.exclusive(parsed(), ["a", "b", "c"], True) == [[1, 2], [0, 2], [0, 1]]


def test_reading_the_labels_of_a_stranger():
    logits = torch.tensor([[2.0, 3.0, -1.0, 0.5], [-3.0, -2.0, -1.0, -0.5]])
    assert S.read_logits(logits, RIVALS).tolist() == [[0, 1, 0, 1], [0, 0, 0, 0]]
    assert S.read_logits(logits[:, :3], [[1, 2], [0, 2], [0, 1]]).tolist() == [[0, 1, 0], [0, 0, 1]]  # classes: one


def test_parsing_a_change():
    assert S.parse("Blond_Hair=1,Smiling=0", NAMES, RIVALS) == {1: 1, 3: 0}
    assert S.parse("Black_Hair=0, Blond_Hair=1", NAMES, RIVALS) == {0: 0, 1: 1}
    for text in ("Blond_Hair=0", "Blond_Hair=1,Black_Hair=1", "Smiling=2", "Smiling=-1", "Beard=1", "Smiling"):
        with pytest.raises(datasets.DataError, match=text.split(",")[0]):
            S.parse(text, NAMES, RIVALS)


def test_attributes_are_chosen_by_name_in_the_order_asked_for(heads, data_dir):
    where = "--dataset", heads, "--data-dir", data_dir
    everything = S.load_attributes(parsed(*where), "train")
    some = S.load_attributes(parsed(*where, "--attributes", "Brown_Hair, Smiling"), "train")
    assert everything.attribute_names == ["Smiling", *HAIR] and some.attribute_names == ["Brown_Hair", "Smiling"]
    assert np.array_equal(some.attributes, everything.attributes[:, [3, 0]])
    assert set(np.unique(everything.attributes)) == {0, 1}
    colours = some.images[:, :, 2, 2]
    assert (np.abs(colours - np.array(HAIR["Brown_Hair"])).max(axis=1) < 3).tolist() == some.attributes[:, 0].tolist()


def test_the_number_of_attributes_follows_from_their_names(train, classes):
    assert train("--max-steps", 1)["channels"] == (3, 4)
    state = train("--max-steps", 1, dataset=classes, out="classes")
    assert state["channels"] == (3, 3) and state["names"] == ["blue", "green", "red"] and state["one_hot"]


# ------------------------------------------------------------------------------------------------ one step of training


def test_which_labels_go_where(train, monkeypatch):
    """D learns what is true of real pictures; fakes are made and judged by targets; G leads back to what was true."""
    calls, cls_loss, forward, permuted = [], S.cls_loss, S.Generator.forward, S.permuted

    def spy_cls(logits, c, one_hot):
        calls.append(("cls", c.clone(), logits.requires_grad))
        return cls_loss(logits, c, one_hot)

    def spy_G(G, x, c):
        calls.append(("G", c.clone(), torch.is_grad_enabled()))
        return forward(G, x, c)

    def spy_permuted(c, *rest):
        calls.append(("org", c.clone(), None))
        calls.append(("trg", permuted(c, *rest), None))
        return calls[-1][1]

    monkeypatch.setattr(S, "cls_loss", spy_cls)
    monkeypatch.setattr(S.Generator, "forward", spy_G)
    monkeypatch.setattr(S, "permuted", spy_permuted)
    monkeypatch.setattr(S.datasets, "save_rows", lambda *_, **__: None)
    monkeypatch.setattr(S.datasets, "generate", lambda *_: None)
    train("--max-steps", 2, "--n-critic", 2, "--log-every", 0)
    assert [name for name, *_ in calls] == ["org", "trg", "G", "cls"] * 2 + ["G", "cls"]
    org, trg = calls[4][1], calls[5][1]
    assert not torch.equal(org, trg)
    for call, c in ((6, trg), (7, org), (8, org), (9, trg)):  # fake, D's cls, rec, G's cls
        assert torch.equal(calls[call][1], c), calls[call][0]
    assert [calls[2][2], calls[6][2]] == [False, True]  # G's graph is built only where G learns


@pytest.fixture
def gradients(watched):
    """gradients(*flags) -> [{net: its gradients}] after D's and after G's backward of one step."""
    return lambda *more: [grads for _, grads in watched("--n-critic", 1, "--max-steps", 1, *more)["after"]]


@pytest.mark.parametrize("adv", ["wgan-gp", "bce"])
def test_each_step_leaves_the_other_player_alone(gradients, adv):
    after_D, after_G = gradients("--adv", adv)
    assert all(g is None for g in after_D["G"])  # no gradient into G in D's step
    assert all(g is not None for g in after_G["G"])
    assert same(after_D["D"], after_G["D"])  # D is frozen in G's step


def test_the_classification_of_fakes_does_not_teach_d(gradients, monkeypatch):
    before = gradients()[0]["D"]
    chunk = torch.Tensor.chunk

    def louder(x, *rest):  # what D says of the fakes' attributes, a hundred times as loud
        parts = chunk(x, *rest)
        return (parts[0], 100 * parts[1]) if x.shape[1:] == (4,) else parts

    monkeypatch.setattr(torch.Tensor, "chunk", louder)
    assert same(before, gradients("--seed", 0)[0]["D"])


def test_every_term_reaches_its_player(gradients):
    usual, *others = (gradients(*flags) for flags in ((), *((f"--lambda-{term}", 3) for term in ("cls", "rec", "gp"))))
    changed = [[not same(usual[i][net], other[i][net]) for i, net in enumerate("DG")] for other in others]
    # G's gradient is taken after D's update, so what teaches D reaches G too, through D.
    assert [change[0] for change in changed] == [True, False, True] and changed[1][1]


def test_g_learns_in_every_n_critic_th_step(train):
    states = [train("--n-critic", 3, "--max-steps", n, out=f"run{n}") for n in (1, 2, 3)]
    assert differences(states[0]["G"], states[1]["G"]) == []
    assert differences(states[1]["G"], states[2]["G"]) and differences(states[0]["D"], states[1]["D"])
    assert states[2]["opt_G"]["state"][0]["step"] == 1 and states[2]["opt_D"]["state"][0]["step"] == 3


def test_the_rate_falls_to_zero(train):
    state = train("--epochs", 3, "--decay-from", 1, "--lr", 1e-3, "--n-critic", 1)  # 6 steps an epoch
    for name in ("opt_G", "opt_D"):
        assert state[name]["param_groups"][0]["lr"] == pytest.approx(1e-3 / 12)  # a step later it would be 0
    assert train("--epochs", 2, "--decay-from", 0, out="b")["opt_G"]["param_groups"][0]["lr"] == parsed().lr


def test_it_learns_to_change_what_is_asked(train, heads, data_dir, tmp_path):
    """Hair above, a white mouth below: after a few seconds the edits are seen, by their colours."""
    flags = "--ngf 8 --ndf 8 --n-critic 1 --batch-size 8 --lr 3e-3 --epochs 70 --decay-from 45 --no-flip".split()
    state = train(*flags)
    args = parsed(*flags, "--dataset", heads, "--data-dir", data_dir)
    G = S.build(args, state["channels"], "cpu", state)["G"]
    batch = datasets.fixed_batch(S.load_attributes(args, "test", state), 8, "cpu")
    x, c = batch["image"], batch["attributes"].float()
    with torch.no_grad():
        blond = datasets.to_uint8(G(x, datasets.change(c, {1: 1}, RIVALS)))[:, :, 1:5, 2:14].float().mean((2, 3))
        black = datasets.to_uint8(G(x, datasets.change(c, {0: 1}, RIVALS)))[:, :, 1:5, 2:14].float().mean((2, 3))
        smile, none = (G(x, datasets.change(c, {3: v}, RIVALS))[:, :, 11:14, 5:11].mean((1, 2, 3)) for v in (1, 0))
        rec = (G(G(x, datasets.change(c, {3: None}, RIVALS)), c) - x).abs().mean()
    assert (blond[:, 0] - black[:, 0]).min() > 60 and (smile - none).min() > 0.3 and rec < 0.25
    rows = list(csv.DictReader(open(tmp_path / "run" / "log.csv")))
    assert float(rows[-1]["edited"]) > 0.9 > float(rows[0]["edited"])
    assert float(rows[-1]["loss_rec"]) < 0.1


# ---------------------------------------------------------------------------------------- resume, several processes


@pytest.mark.parametrize("adv", ["wgan-gp", "bce"])
def test_2n_epochs_equal_n_and_n_resumed_to_the_bit(in_two_parts, adv):
    more = "--adv", adv, "--n-critic", 4, "--log-every", 3, "--epochs", 2  # 4 divides neither 5 nor 12 steps
    assert in_two_parts(["--max-steps", 5], *more)["step"] == 12


def test_ctrl_c_and_sigterm_end_a_run_after_a_checkpoint(stops_cleanly):
    stops_cleanly("--n-critic", 2)


def test_the_same_command_gives_the_same_bits_and_looking_on_changes_nothing(reproducible):
    reproducible("--max-steps", 3, "--log-every", 3)


def test_two_processes_equal_one_with_twice_the_batch(torchrun, train, flags, tmp_path):
    torchrun(tmp_path / "two", *flags, "--max-steps", 4, "--log-every", 1)
    one = train("--max-steps", 4, "--log-every", 1, "--batch-size", 8, out="one")
    two = torch.load(tmp_path / "two" / "last.pt", weights_only=True)
    results, x, c = [], torch.rand(4, 3, 16, 16) * 2 - 1, labels(4)
    for state in (None, one, two):
        torch.manual_seed(0)
        nets = S.build(parsed(), (3, 4), "cpu", state)
        with torch.no_grad():
            results.append([nets["G"](x, c), *nets["D"](x)])
    for start, a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-4), (a - b).abs().max()
        assert (start - a).abs().max() > 1e-3  # and they did move


# ------------------------------------------------------------------------------------------------------- command line


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def test_smoke_train_sample_resume(smoke, tmp_path):
    smoke()
    width, height = size_of(tmp_path / "run" / "samples" / "samples.png")
    assert width == 2 + 5 * 18 and height > 2 + 8 * 18  # the input and four changes; eight faces below the titles
    rows = log_of(tmp_path / "run")
    assert rows[0]["loss_rec"] == "" and float(rows[1]["loss_rec"]) > 0


def test_columns_of_a_picture_are_the_changes(train, tmp_path, monkeypatch):
    train("--max-steps", 1)
    saved, save_rows = {}, datasets.save_rows

    def spy(columns, *rest, **options):
        saved.update(columns)
        save_rows(columns, *rest, **options)

    monkeypatch.setattr(datasets, "save_rows", spy)
    S.main(["--sample", str(tmp_path / "run" / "last.pt")])
    assert list(saved) == ["input", *NAMES] and all(len(column) == 8 for column in saved.values())
    saved.clear()
    steps = "Smiling=1; Smiling=1,Black_Hair=1"
    S.main(["--sample", str(tmp_path / "run" / "last.pt"), "--where", "Blond_Hair=1,Smiling=0", "--translate", steps])
    assert list(saved) == ["input", "Smiling=1", "Smiling=1,Black_Hair=1"]
    top = datasets.to_uint8(saved["input"])[:, :, 2, 2].float()
    assert len(top) == 2 and (top - torch.tensor(HAIR["Blond_Hair"])).abs().max() < 3


def test_faces_of_ones_own(train, tmp_path, monkeypatch):
    """What is true of them D says; each translated picture becomes a file."""
    train("--max-steps", 1)
    (tmp_path / "in").mkdir()
    Image.new("L", (50, 40), 255).save(tmp_path / "in" / "grey.png")
    Image.new("RGBA", (33, 70), (0, 0, 0, 0)).save(tmp_path / "in" / "clear.png")
    asked, change = [], datasets.change
    monkeypatch.setattr(datasets, "change", lambda c, *rest: (asked.append(c), change(c, *rest))[1])
    monkeypatch.setattr(S, "read_logits", lambda logits, rivals: torch.tensor([[1.0, 0, 0, 1]] * len(logits)))
    flags = ["--input", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    S.main(["--sample", str(tmp_path / "run" / "last.pt"), *flags, "--translate", "Blond_Hair=1,Smiling=0"])
    made = sorted(p.name for p in (tmp_path / "out" / "samples").iterdir())
    assert made == ["0000_clear_Blond_Hair=1,Smiling=0.png", "0001_grey_Blond_Hair=1,Smiling=0.png", "samples.png"]
    assert size_of(tmp_path / "out" / "samples" / made[0]) == (16, 16) and asked[0].tolist() == [[1, 0, 0, 1]] * 2


def test_evaluate_attributes(train, tmp_path, monkeypatch):
    train("--max-steps", 2, "--eval-every", 2)
    S.main(["--evaluate", str(tmp_path / "run" / "last.pt")])
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())
    scores = {score["metric"]: score for score in facts["scores"]}
    names = ["in-domain edit success", "in-domain rest kept", "in-domain mean domain FID", "|x - G(fake, c_org)|"]
    assert list(scores) == names and facts["step"] == 2 and facts["minutes"] > 0
    assert 0 <= scores[names[0]]["value"] <= 1 and 0 < scores[names[3]]["value"] < 2
    assert scores[names[2]]["value"] > scores[names[2]]["floor"] > 0 and "Smiling" in scores[names[2]]["note"]
    assert json.loads((tmp_path / "run" / "metrics-0000002.json").read_text())["scores"] == facts["scores"]


def test_measuring_asks_for_what_is_not_there_yet(train, heads, data_dir, monkeypatch):
    """A generator that does nothing succeeds nowhere and keeps the rest; hair colours are asked of others only."""
    state, asked = train("--max-steps", 1), {}
    args = parsed("--dataset", heads, "--data-dir", data_dir)
    train, test = (S.load_attributes(args, split, state) for split in ("train", "test"))
    judges = metrics.load_judges(0, train, test, "", data_dir, "cpu")
    monkeypatch.setattr(metrics, "edit_fidelity", lambda edits, judge: asked.update(edits) or [])
    monkeypatch.setattr(S.datasets, "generate", lambda G, x, c: x)
    *_, rec = S.measure({"G": None}, train, test, args, "cpu", judges)
    assert rec.value == pytest.approx(0, abs=0.004)
    for name, (pictures, wanted, changed) in asked.items():
        k = NAMES.index(name)
        truth = wanted.bool() ^ changed
        assert len(pictures) == len(wanted) == (8 if name == "Smiling" else (test.attributes[:, k] == 0).sum())
        assert changed[:, k].all() and changed.sum() == len(changed) * (1 if name == "Smiling" else 2)
        assert truth[:, :3].sum(1).tolist() == [1] * len(truth)


def test_evaluate_classes(train, classes, tmp_path):
    state = train("--max-steps", 2, dataset=classes)
    S.main(["--evaluate", str(tmp_path / "run" / "last.pt")])
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())["scores"]
    assert (
        scores[0]["metric"] == "in-domain edit success" and scores[0]["n_fake"] == 6
    )  # 3 test pictures, each two ways
    assert state["losses_G"]["loss_cls"] > 0
    S.main(["--sample", str(tmp_path / "run" / "last.pt"), "--translate", "red=1"])


def test_every_option(train):
    flags = "--max-steps 2 --adv bce --no-flip --amp --n-critic 1 --beta1 0 --no-mask --exclusive".split()
    state = train(*flags, "")
    assert state["D"]["cls.weight"].shape == (4, 16, 2, 2) and "net.0.bias" not in state["G"]
    assert train("--max-steps", 2, "--n-critic", 1, "--amp", out="b")["losses_G"]["loss_rec"].isfinite()


def test_half_precision_keeps_the_penalty_in_32_bits(train, monkeypatch):
    kinds, penalty = [], S.src_penalty

    def spy(D, real, fake, a):
        assert not torch.is_autocast_enabled("cpu")
        kinds.append({real.dtype, fake.dtype})
        return penalty(D, real, fake, a)

    monkeypatch.setattr(S, "src_penalty", spy)
    train("--amp", "--max-steps", 2)
    assert kinds == [{torch.float32}] * 2


# --------------------------------------------------------------------------------------------------------- bad input


def test_complaints_name_the_thing_and_the_remedy(complaint, train, heads, classes, data_dir, tmp_path):
    train("--max-steps", 1)
    trained = tmp_path / "run" / "last.pt"
    flags = [*SMALL, "--data-dir", data_dir, "--dataset", heads, "--out", tmp_path / "new"]
    assert "Young" in complaint(*flags, "--attributes", "Smiling,Young")
    assert "Beard" in complaint(*flags, "--exclusive", "Smiling/Beard")
    assert "the classes" in complaint(*flags, "--dataset", classes, "--attributes", "red")
    assert "no attributes or classes" in complaint(*flags, "--dataset", heads / "train")
    assert "--image-size 50" in complaint(*flags, "--image-size", 50)
    assert "--image-size 0" in complaint(*flags, "--image-size", 0)
    for flag, value in (("--n-critic", 0), ("--lr", -1), ("--ngf", 0), ("--blocks", -1)):
        assert flag in complaint(*flags, flag, value)
    assert "--sample" in complaint(*flags, "--translate", "Smiling=1")
    sample = ["--sample", trained, "--out", tmp_path / "new"]
    assert "exactly one" in complaint(*sample, "--translate", "Blond_Hair=1,Brown_Hair=1")
    assert "Hat" in complaint(*sample, "--translate", "Hat=1")
    assert "Hat" in complaint(*sample, "--where", "Hat=1")
    assert "no picture has Blond_Hair=1, Brown_Hair=1" in complaint(*sample, "--where", "Blond_Hair=1,Brown_Hair=1")
    assert "asked for" in complaint("--evaluate", trained, "--dataset", classes)
    resume = ["--resume", trained, "--max-steps", 2, "--attributes", "Smiling"]
    assert "attributes Black_Hair" in complaint(*resume)
    assert "holds a run" in complaint(*flags, "--out", tmp_path / "run")
    assert "24 images" in complaint(*flags, "--batch-size", 64)
    assert not (tmp_path / "new").exists()  # nothing was begun


def test_foreign_and_broken_checkpoints(refuses_foreign_and_broken, train, tmp_path):
    train("--max-steps", 1)
    refuses_foreign_and_broken(tmp_path / "run" / "last.pt")


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(stops_at_nan):
    stops_at_nan()
