"""Feature extractors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from diffprune.evaluation.features import load_extractor
from diffprune.evaluation.features.cifar_cnn import augmented, load_cifar_cnn
from diffprune.evaluation.features.cifar_cnn import train as train_cifar_cnn
from diffprune.evaluation.features.classifier import SHIPPED, accuracy_of, save
from diffprune.evaluation.features.digits_cnn import DigitsCNN, held_out, load_digits_cnn, train
from diffprune.evaluation.features.inception import replaced
from diffprune.runtime.errors import UserError


def test_the_shipped_classifier_reads_unseen_digits() -> None:
    from diffprune.data.digits import labels, load
    network, stated = load_digits_cnn()
    test = held_out(labels())
    with torch.no_grad():
        found = network.logits(network(load(None, False).pixels[test].float() / 255)).argmax(1)
    measured = float((found == labels()[test]).float().mean())
    assert measured >= 0.97
    assert measured == pytest.approx(stated, abs=1e-4)


@pytest.mark.slow
def test_the_shipped_cifar_classifier_reads_the_test_images(shared: Path) -> None:
    from diffprune.data import cifar10
    test = cifar10.load(str(shared / "data" / "cifar10"), flip=False, split="test")
    network, stated = load_cifar_cnn()
    assert stated >= 0.85
    assert accuracy_of(network, test.pixels, test.labels) == pytest.approx(stated, abs=1e-3)
    assert (SHIPPED / "cifar_cnn.safetensors").stat().st_size <= 3_000_000


@pytest.mark.slow
def test_training_the_cifar_classifier_is_deterministic_and_learns() -> None:
    """Two classes, a dark and a bright one, are told apart after a few steps."""
    labels = torch.arange(64) % 2
    speckles = torch.randint(0, 100, (64, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    images = (labels.view(-1, 1, 1, 1) * 128 + speckles).to(torch.uint8)
    first, second = (train_cifar_cnn(images, labels, epochs=4, seed=0, batch=16) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    assert accuracy_of(first, images, labels) > 0.9


def test_training_images_are_moved_and_mirrored_but_keep_their_pixels() -> None:
    """Each is one of the 2 · 81 crops of the image, continued by reflection at its edges, and all come up alike."""
    image = torch.arange(3 * 32 * 32).view(3, 32, 32).remainder(251).to(torch.uint8)
    wide = np.pad(image.numpy(), ((0, 0), (4, 4), (4, 4)), mode="reflect")
    crops = {wide[:, y:y + 32, x:x + 32][:, :, ::step].tobytes(): (y, x, step)
             for y in range(9) for x in range(9) for step in (1, -1)}
    assert len(crops) == 162
    moved = (augmented(image.expand(400, -1, -1, -1), torch.Generator().manual_seed(0)) * 255).round().to(torch.uint8)
    found = [crops[picture.numpy().tobytes()] for picture in moved]
    for axis in (0, 1):
        assert {place[axis] for place in found} == set(range(9))
    assert 160 < sum(step == -1 for _, _, step in found) < 240


def test_the_cifar_features_are_pooled_and_classified() -> None:
    extractor = load_extractor("cifar-cnn", None)
    features = extractor.features(np.zeros((3, 32, 32, 3), np.uint8))
    assert features.shape == (3, 160)
    assert extractor.logits(features).shape == (3, 10)
    assert extractor.protocol["features_accuracy"] == load_cifar_cnn()[1]


@pytest.mark.parametrize(("name", "load"), [("digits-cnn", load_digits_cnn), ("cifar-cnn", load_cifar_cnn)])
def test_two_networks_of_equal_accuracy_are_told_apart(tmp_path: Path, name: str, load: Callable) -> None:
    network, accuracy = load()
    save(network, accuracy, tmp_path / "same.safetensors")
    network.head.bias.data += 1
    save(network, accuracy, tmp_path / "other.safetensors")
    shipped, same, other = (load_extractor(name, weights).protocol for weights in
                            (None, str(tmp_path / "same.safetensors"), str(tmp_path / "other.safetensors")))
    assert shipped == same
    assert shipped["features_accuracy"] == other["features_accuracy"]
    assert shipped["features_sha256"] != other["features_sha256"]


@pytest.mark.slow
def test_training_it_anew_is_deterministic() -> None:
    (first, accuracy), (second, _) = train(3, seed=0), train(3, seed=0)
    assert accuracy > 0.8
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_features_do_not_depend_on_the_batch_size() -> None:
    extractor = load_extractor("digits-cnn", None)
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), dtype=np.uint8)
    alone = torch.cat([extractor.features(images[i:i + 3]) for i in (0, 3, 6)])
    torch.testing.assert_close(alone, extractor.features(images), rtol=1e-5, atol=1e-6)
    assert alone.shape == (7, 64)
    assert extractor.logits(alone).shape == (7, 10)


def test_a_file_that_is_no_classifier_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"w\.safetensors holds no digits_cnn classifier"):
        load_extractor("digits-cnn", str(tmp_path / "w.safetensors"))
    assert sum(p.numel() for p in DigitsCNN().parameters()) * 4 < 1_000_000


@pytest.mark.slow
def test_inception_reads_a_local_weight_file_and_gives_2048_features(inception_file: Path) -> None:
    extractor = load_extractor("inception", str(inception_file))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    features = extractor.features(images)
    assert features.shape == (2, 2048)
    assert not torch.equal(features[0], features[1])
    assert extractor.logits(features).shape == (2, 1008)
    assert len(extractor.protocol["features_sha256"]) == 16


@pytest.mark.slow
def test_inception_features_are_pytorch_fids_own(inception_file: Path) -> None:
    import pytorch_fid.inception as source
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with replaced(source, "load_state_dict_from_url", lambda *_, **__: torch.load(inception_file, weights_only=True)):
        theirs = source.InceptionV3([3]).eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)[0].flatten(1)
    found = load_extractor("inception", str(inception_file)).features(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().mean()))


def test_missing_inception_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pth does not exist"):
        load_extractor("inception", str(tmp_path / "none.pth"))


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth"):
        load_extractor("inception", str(tmp_path / "other.pth"))


def test_a_failed_fetch_says_from_where_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(UserError, match=r"https?://.*evaluate.weights=<file>"):
        load_extractor("inception", None)


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 network of the real architecture, two narrow layers, random weights."""
    from transformers import Dinov2Config, Dinov2Model
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dinov2")
    narrow = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=224)
    Dinov2Model(narrow).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_dinov2_is_read_from_a_local_folder_and_gives_the_normalised_class_token(dinov2_folder: Path) -> None:
    from transformers import Dinov2Model
    extractor = load_extractor("dinov2", str(dinov2_folder))
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(dinov2_folder)(normal).last_hidden_state[:, 0]
    torch.testing.assert_close(extractor.features(images), expected, rtol=1e-4, atol=1e-4)
    assert extractor.logits(extractor.features(images)) is None
    assert len(extractor.protocol["features_sha256"]) == 16


@pytest.mark.slow
def test_dinov2_takes_small_and_grey_images(dinov2_folder: Path) -> None:
    extractor = load_extractor("dinov2", str(dinov2_folder))
    grey = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    torch.testing.assert_close(extractor.features(grey), extractor.features(grey.repeat(3, axis=3)))


@pytest.mark.slow
def test_a_folder_without_dinov2_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no DINOv2 network .* evaluate\.weights=<folder>"):
        load_extractor("dinov2", str(tmp_path))
    (tmp_path / "w.pth").write_bytes(b"weights")
    with pytest.raises(UserError, match=r"w\.pth is a file: give the folder"):
        load_extractor("dinov2", str(tmp_path / "w.pth"))
