"""Feature extractors."""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffprune.digits_cnn import DigitsCNN, held_out, load_digits_cnn, train
from diffprune.errors import UserError
from diffprune.features import load_extractor, replaced


def test_the_shipped_classifier_reads_unseen_digits() -> None:
    from diffprune.data.digits import labels, load
    network, stated = load_digits_cnn()
    test = held_out(labels())
    with torch.no_grad():
        found = network.logits(network(load(None, False).pixels[test].float() / 255)).argmax(1)
    measured = float((found == labels()[test]).float().mean())
    assert measured >= 0.97
    assert measured == pytest.approx(stated, abs=1e-4)


def test_training_it_anew_is_deterministic() -> None:
    (first, accuracy), (second, _) = train(3, seed=0), train(3, seed=0)
    assert accuracy > 0.8
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_features_do_not_depend_on_the_batch_size() -> None:
    extractor = load_extractor("digits-cnn", None)
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), dtype=np.uint8)
    np.testing.assert_allclose(extractor.of(images, 3), extractor.of(images, 7), rtol=1e-5, atol=1e-6)
    assert extractor.of(images, 7).shape == (7, 64)


def test_a_file_that_is_no_classifier_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"w\.safetensors holds no digits_cnn classifier"):
        load_extractor("digits-cnn", str(tmp_path / "w.safetensors"))
    assert sum(p.numel() for p in DigitsCNN().parameters()) * 4 < 1_000_000


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised weight file in pytorch-fid's format: names and shapes are real, values are not."""
    import pytorch_fid.inception as source
    from torchvision.models.inception import Inception3
    torch.manual_seed(0)
    with replaced(source, "load_state_dict_from_url", lambda *_, **__: {}), \
            replaced(Inception3, "load_state_dict", lambda *_: None):
        network = source.fid_inception_v3()
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_reads_a_local_weight_file_and_gives_2048_features(inception_file: Path) -> None:
    extractor = load_extractor("inception", str(inception_file))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    features = extractor.of(images, 2)
    assert features.shape == (2, 2048)
    assert not np.array_equal(features[0], features[1])
    assert len(extractor.about["features_sha256"]) == 16


@pytest.mark.slow
def test_inception_features_are_pytorch_fids_own(inception_file: Path) -> None:
    import pytorch_fid.inception as source
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with replaced(source, "load_state_dict_from_url", lambda *_, **__: torch.load(inception_file, weights_only=True)):
        theirs = source.InceptionV3([3]).eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)[0].flatten(1).numpy()
    np.testing.assert_allclose(load_extractor("inception", str(inception_file)).of(images, 2), expected, rtol=1e-5)


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
