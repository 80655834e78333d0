"""Checkpoints from elsewhere: repositories of the Hugging Face hub, and files at an address."""

import base64
import hashlib
import logging
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError as StatusError
from urllib.parse import unquote, urlsplit, urlunsplit

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

from diffprune.models.families import Family
from diffprune.models.model_folder import SCHEDULER, read_config
from diffprune.models.weights import weight_files
from diffprune.runtime.addresses import MASK, complete_address, without_secrets
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import remove, rename, write_json
from diffprune.runtime.progress import progress

log = logging.getLogger(__name__)

# Older repositories have the UNet at their root.
DENOISERS = ("unet/", "transformer/")
NETWORKS = ("", *DENOISERS, *dict.fromkeys(f"{name}/" for kind in Family.registered for name in kind.fixed))
TOKENIZER = "tokenizer"     # the folders tokenizer/ and tokenizer_2/
TEXT_WEIGHTS = ("model.safetensors", "pytorch_model.bin")       # as transformers names them
COPY = "model.checkpoint=<folder> uses a local copy"
CHUNK = 1 << 20


def wanted(names: set[str]) -> list[str]:
    """Of a repository's files those that make a model folder; safetensors rather than torch files."""
    files = {"model_index.json", SCHEDULER, f"scheduler/{SCHEDULER}"}
    for network in NETWORKS[1:] if any(weights_in(denoiser, names) for denoiser in DENOISERS) else NETWORKS:
        files |= {network + "config.json", *weights_in(network, names)}
    return sorted(files & names)


def weights_in(network: str, names: set[str]) -> list[str]:
    """Of a repository's files those with the weights of the folder `network`; none where its config is missing."""
    if network.startswith(TOKENIZER):
        return [name for name in names if name.startswith(network)]
    if network + "config.json" not in names:
        return []
    if text := [network + name for name in TEXT_WEIGHTS if network + name in names]:
        return text[:1]
    variants = weight_files(name.removeprefix(network) for name in names if name.startswith(network))
    files = [variants[""]] if "" in variants else variants.values()
    return [network + name for variant in files for name in variant]


def fetch_repository(repository: str, origin: str) -> Path:
    """The folder of a hub repository's model, from the hub's own cache or downloaded into it: only the files that are used.

    `origin` says size and licence where the hub does not. UserError where it cannot be fetched or holds no UNet.
    """
    try:
        return cached(repository) or download(repository, origin)
    except (OSError, ValueError, RuntimeError, HTTPError) as error:     # no connection is an HTTPError and no OSError
        raise UserError(f"model.checkpoint={repository} is neither a local folder nor could it be fetched "
                        f"({reason(error)}): download it elsewhere and give its folder") from error


def cached(repository: str) -> Path | None:
    """The repository's folder in the hub's cache, where an earlier download was finished."""
    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    if weights_in("", names):
        return folder
    components = read_config(folder / "model_index.json") if "model_index.json" in names else {}
    needed = {f"{name}/" for name, kind in components.items() if kind != [None, None]} & set(NETWORKS) or {"unet/"}
    return folder if all(weights_in(network, names) for network in needed) else None


def download(repository: str, origin: str) -> Path:
    """Fetches a repository's model after saying what, from whom, how large and under which licence."""
    info = HfApi().model_info(repository, files_metadata=True)
    sizes = {file.rfilename: file.size for file in info.siblings or []}
    if not any(weights_in(denoiser, set(sizes)) for denoiser in ("", *DENOISERS)):
        raise UserError(f"model.checkpoint={repository} holds no UNet or transformer with weights in diffusers' layout: "
                        "give another one")
    files = wanted(set(sizes))
    listed = [count for file in files if (count := sizes[file]) is not None]
    licence = info.card_data.get("license") if info.card_data else None
    size = f"{sum(listed) / 1e6:.1f} MB, licence {licence or 'not stated'}" if listed else origin
    log.info("fetching %s (%s) from the Hugging Face hub; %s", repository, size, COPY)
    return Path(snapshot_download(repository, revision=info.sha, allow_patterns=files))


def fetch_file(url: str, target: Path, origin: str, by_hand: str) -> None:
    """Downloads `url` to `target` and writes `target`.json with its address (without secrets), bytes and sha256.

    An interrupted download stays in `target`.part and is continued if the server supports that. `origin` is logged first;
    `by_hand` ends the message of the UserError that a failed download raises.
    """
    url, shown = complete_address(url), without_secrets(url)
    if MASK in url:
        raise UserError(f"{url} lacks its password or the values of its query, which are never stored: give the complete "
                        f"address on the command line; or {by_hand}")
    log.info("fetching %s (%s); %s", shown, origin, COPY)
    partial = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            receive(url, partial)
        except StatusError as error:
            if error.code != 416:
                raise
            remove(partial)        # it ends where the file does, or beyond
            receive(url, partial)
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(f"{shown} could not be fetched ({reason(error)}): {by_hand}") from error
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    write_json(target.with_name(f"{target.name}.json"), {"url": shown, "bytes": partial.stat().st_size, "sha256": digest})
    remove(tag_of(partial))
    rename(partial, target, checksum=True)


def reason(error: Exception) -> str:
    """Why nothing could be fetched: what the server answers, what the system says, or else the kind of the error."""
    if status := getattr(getattr(error, "response", error), "status_code", None) or getattr(error, "code", None):
        return f"the server answers {status}"
    return getattr(getattr(error, "reason", error), "strerror", None) or type(error).__name__


def receive(url: str, partial: Path) -> None:
    """Fills `partial` with the content of `url`, from where it ends if the server still has the same file."""
    request, tag = request_for(url), tag_of(partial)
    if partial.exists() and tag.exists():
        request.add_header("Range", f"bytes={partial.stat().st_size}-")
        request.add_header("If-Range", tag.read_text())
    with urllib.request.urlopen(request, timeout=60) as response:
        continued = response.status == 206
        start = partial.stat().st_size if continued else 0
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        remove(tag)
        with partial.open("ab" if continued else "wb") as file:
            if version:
                tag.write_text(version)
            for chunk in chunks(response, start):
                file.write(chunk)
        length = response.headers.get("Content-Length")
    if length is not None and partial.stat().st_size != start + int(length):
        raise ConnectionError("the download broke off")


def request_for(url: str) -> urllib.request.Request:
    """The request for `url`; user and password become a header, which a redirect to another place does not take along."""
    address = urlsplit(url)
    host = address.netloc.rpartition("@")[2]
    request = urllib.request.Request(urlunsplit(address._replace(netloc=host)), headers={"User-Agent": "diffprune"})
    if address.username is not None:
        login = f"{unquote(address.username)}:{unquote(address.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    return request


def tag_of(partial: Path) -> Path:
    """The file with the server's name for the version of a partial download."""
    return partial.with_name(f"{partial.name}.tag")


def chunks(response: HTTPResponse, start: int) -> Iterator[bytes]:
    """The body in pieces of a megabyte, with progress; after `start` bytes of an earlier download."""
    total, done = start + int(response.headers.get("Content-Length") or 0), start // CHUNK
    yield from progress(iter(lambda: response.read(CHUNK), b""), "downloading (MiB)", max(total // CHUNK, 1), done=done)
