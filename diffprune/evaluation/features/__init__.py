"""Networks on whose features images are compared, by name."""

from collections.abc import Callable

from diffprune.evaluation.features.classifier import Classifier
from diffprune.evaluation.features.extractor import Extractor, module_sha256


def digits_cnn(weights: str | None) -> Extractor:
    """The digit classifier's penultimate layer, 64 numbers."""
    from diffprune.evaluation.features.digits_cnn import load_digits_cnn
    network, accuracy = load_digits_cnn(weights)
    return classifier("digits-cnn", network, accuracy, (1, 8, 8))


def cifar_cnn(weights: str | None) -> Extractor:
    """The CIFAR-10 classifier's penultimate layer, 160 numbers."""
    from diffprune.evaluation.features.cifar_cnn import load_cifar_cnn
    network, accuracy = load_cifar_cnn(weights)
    return classifier("cifar-cnn", network, accuracy, (3, 32, 32))


def classifier(name: str, network: Classifier, accuracy: float, takes: tuple[int, int, int]) -> Extractor:
    protocol = {"features_accuracy": accuracy, "features_sha256": module_sha256(network)}
    return Extractor(name, network, protocol, takes, network.logits)


def inception(weights: str | None) -> Extractor:
    from diffprune.evaluation.features.inception import inception as load
    return load(weights)


def dinov2(weights: str | None) -> Extractor:
    from diffprune.evaluation.features.dinov2 import dinov2 as load
    return load(weights)


EXTRACTORS: dict[str, Callable[[str | None], Extractor]] = {
    "digits-cnn": digits_cnn, "cifar-cnn": cifar_cnn, "inception": inception, "dinov2": dinov2}


def load_extractor(name: str, weights: str | None) -> Extractor:
    """The extractor `name`, its weights from a local file where one is given; raises UserError when they cannot be had."""
    return EXTRACTORS[name](weights)
