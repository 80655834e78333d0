"""Dense models: from any folder in diffusers' layout, from the hub, from an address; one sentence for each mistake."""

import base64
import errno
import hashlib
import http.server
import json
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from torch import nn

from diffprune.config.model_source import by_hand, origin
from diffprune.models import fetch
from diffprune.models.diffusion_model import DiffusionModel
from diffprune.models.fetch import fetch_file, fetch_repository, wanted
from diffprune.models.model_folder import load_model, save_model
from diffprune.models.weights import OLD_ATTENTION, WEIGHTS
from diffprune.runtime.addresses import hide_secrets, without_secrets
from diffprune.runtime.errors import UserError
from diffprune.stages.options import dense_model, load_dense
from tests.conftest import tiny_unet
from tests.models.test_formats_compvis import shapes_of
from tests.models.test_formats_ddim import original_shapes, random_state

TORCH_WEIGHTS = "diffusion_pytorch_model.bin"
DIFFUSERS = ["model=diffusers", "dataset=digits"]


def same(module: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in module.state_dict().items())


def old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` as diffusers named it when the hub's DDPMs were written."""
    past = {f"attentions.0.{new}.": f"attentions.0.{old}." for old, new in OLD_ATTENTION.items()}

    def renamed(name: str) -> str:
        for new, old in past.items():
            name = name.replace(new, old)
        return name
    return {renamed(name): tensor for name, tensor in state.items()}


def hub_folder(folder: Path, unet: nn.Module, weights: str = WEIGHTS, at_root: bool = True) -> Path:
    """A DDPM as the hub has it: at the repository's root, as google/ddpm-cifar10-32, or in sub-folders."""
    network = folder if at_root else folder / "unet"
    network.mkdir(parents=True)
    unet.save_config(network)
    state = old_names(unet.state_dict())
    save_file(state, network / weights) if weights == WEIGHTS else torch.save(state, network / weights)
    DDPMScheduler().save_pretrained(folder if at_root else folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({
        "_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}))
    return folder


@pytest.mark.parametrize("weights", [WEIGHTS, TORCH_WEIGHTS])
@pytest.mark.parametrize("at_root", [True, False])
def test_both_layouts_of_the_hub_load_under_their_old_names(tmp_path: Path, config, weights: str, at_root: bool) -> None:
    unet = tiny_unet()
    folder = hub_folder(tmp_path / "hub", unet, weights, at_root)
    model = load_dense(config(*DIFFUSERS, f"model.checkpoint={folder}"))
    assert same(model.unet, unet)
    assert not model.scheduler.config.clip_sample
    assert torch.equal(model.scheduler.alphas_cumprod, DDPMScheduler().alphas_cumprod)


def test_the_config_in_the_folder_decides_the_architecture(tmp_path: Path, config) -> None:
    folder = hub_folder(tmp_path / "hub", tiny_unet(widths=(8, 8, 16), layers=2))
    assert load_dense(config(*DIFFUSERS, f"model.checkpoint={folder}")).unet.config.block_out_channels == [8, 8, 16]


def test_a_model_of_other_images_is_refused(tmp_path: Path, config) -> None:
    folder = hub_folder(tmp_path / "hub", tiny_unet(size=16, channels=3))
    with pytest.raises(UserError, match=r"shape \(3, 16, 16\), dataset=digits has \(1, 8, 8\)"):
        load_dense(config(*DIFFUSERS, f"model.checkpoint={folder}"))


def test_a_folder_without_a_noise_schedule_says_so(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "hub", tiny_unet())
    (folder / "scheduler_config.json").unlink()
    with pytest.raises(UserError, match=r"scheduler/scheduler_config\.json is missing.*without the noise schedule"):
        load_model(folder)


def test_a_model_that_predicts_something_unknown_is_refused(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "hub", tiny_unet())
    DDPMScheduler(prediction_type="mine").save_pretrained(folder)
    with pytest.raises(UserError, match="predicts mine: only models that predict epsilon"):
        load_model(folder)


def test_a_model_that_takes_more_than_an_image_is_refused(tmp_path: Path, config) -> None:
    unet = tiny_unet()
    unet.register_to_config(in_channels=2)
    unet.conv_in = nn.Conv2d(2, 8, 3, padding=1)
    folder = hub_folder(tmp_path / "hub", unet)
    with pytest.raises(UserError, match="takes 2 channels and gives 1"):
        load_dense(config(*DIFFUSERS, f"model.checkpoint={folder}"))


class Burglar:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("burgled"),))


def test_no_code_in_torch_weights_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = hub_folder(tmp_path / "hub", tiny_unet(), TORCH_WEIGHTS)
    torch.save({"conv_in.weight": Burglar()}, folder / TORCH_WEIGHTS)
    with pytest.raises(UserError, match="holds objects besides tensors"):
        load_model(folder)
    assert not (tmp_path / "burgled").exists()


def test_an_architecture_that_only_a_checkpoint_has_needs_one(config) -> None:
    with pytest.raises(UserError, match=r"no architecture of its own: give model\.checkpoint"):
        load_dense(config(*DIFFUSERS, "model.checkpoint=null"))


def test_guidance_needs_classes(config) -> None:
    with pytest.raises(UserError, match=r"sampler\.guidance=2\.0 needs a model of classes or prompts"):
        load_dense(config("sampler.guidance=2.0"))


def test_random_weights_come_from_the_seed_alone(config) -> None:
    first, again, other = (dense_model(config(f"seed={seed}")).random().unet for seed in (0, 0, 1))
    assert same(first, again)
    assert not torch.equal(first.conv_in.weight, other.conv_in.weight)


# --- the hub

@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the hub: `hub.folder` is the repository, `hub.calls` what was downloaded of it, into `hub.cache`."""
    stand_in = SimpleNamespace(folder=tmp_path / "repository", cache=tmp_path / "snapshot", calls=[], licence="apache-2.0")

    def model_info(self, repository: str, files_metadata: bool) -> SimpleNamespace:
        files = [f for f in stand_in.folder.rglob("*") if f.is_file()]
        siblings = [SimpleNamespace(rfilename=str(f.relative_to(stand_in.folder)), size=f.stat().st_size) for f in files]
        return SimpleNamespace(siblings=siblings, card_data={"license": stand_in.licence}, sha="abc")

    def snapshot_download(repository: str, local_files_only: bool = False, revision: str | None = None,
                          allow_patterns: list[str] | None = None) -> str:
        if local_files_only:
            if not stand_in.cache.exists():
                raise LocalEntryNotFoundError("nothing here")
            return str(stand_in.cache)
        stand_in.calls.append((repository, revision, allow_patterns))
        for name in allow_patterns or []:
            (stand_in.cache / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(stand_in.folder / name, stand_in.cache / name)
        return str(stand_in.cache)

    monkeypatch.setattr(fetch.HfApi, "model_info", model_info)
    monkeypatch.setattr(fetch, "snapshot_download", snapshot_download)
    return stand_in


@pytest.mark.parametrize("at_root", [True, False])
def test_a_hub_model_is_fetched_once_and_only_what_is_used(hub: SimpleNamespace, config, at_root: bool,
                                                           caplog: pytest.LogCaptureFixture) -> None:
    unet = tiny_unet()
    hub_folder(hub.folder, unet, at_root=at_root)
    place, schedule = ("", "") if at_root else ("unet/", "scheduler/")
    for extra in ("README.md", place + TORCH_WEIGHTS, "images/one.png", "modeling_ddpm.py"):
        (hub.folder / extra).parent.mkdir(exist_ok=True)
        (hub.folder / extra).write_text("not used")
    cfg = config(*DIFFUSERS, "model.checkpoint=someone/ddpm")
    with caplog.at_level(logging.INFO):
        assert same(load_dense(cfg).unet, unet)
        assert same(load_dense(cfg).unet, unet)
    used = {"model_index.json", f"{place}config.json", place + WEIGHTS, f"{schedule}scheduler_config.json"}
    assert hub.calls == [("someone/ddpm", "abc", sorted(used))]
    assert re.search(r"fetching someone/ddpm \(0\.\d MB, licence apache-2\.0\) from the Hugging Face hub; "
                     "model.checkpoint=<folder> uses a local copy", caplog.text)
    assert caplog.text.count("fetching") == 1


def test_torch_weights_are_fetched_where_there_are_no_others(hub: SimpleNamespace) -> None:
    hub_folder(hub.folder, tiny_unet(), TORCH_WEIGHTS)
    assert (fetch_repository("google/ddpm-ema-church-256", "") / TORCH_WEIGHTS).exists()


def test_a_broken_off_download_is_taken_up_again(hub: SimpleNamespace) -> None:
    hub_folder(hub.folder, tiny_unet(), at_root=False)
    fetch_repository("someone/ddpm", "")
    (hub.cache / "unet" / WEIGHTS).unlink()
    fetch_repository("someone/ddpm", "")
    assert len(hub.calls) == 2
    assert (hub.cache / "unet" / WEIGHTS).exists()


def test_a_repository_without_a_unet_is_refused_before_anything_is_fetched(hub: SimpleNamespace) -> None:
    hub.folder.mkdir()
    (hub.folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds no UNet"):
        fetch_repository("someone/else", "")
    assert not hub.calls


def test_a_latent_models_first_stage_is_fetched_too() -> None:
    names = {f"{part}/{name}" for part in ("unet", "vqvae", "class_embedder", "image_encoder")
             for name in ("config.json", WEIGHTS)} | {"scheduler/scheduler_config.json"}
    assert {name.split("/")[0] for name in wanted(names)} == {"unet", "vqvae", "class_embedder", "scheduler"}


def test_what_reads_prompts_is_fetched_too_and_once() -> None:
    encoder = ("config.json", "model.safetensors", "pytorch_model.bin", "model.fp16.safetensors")
    names = {f"{part}/{name}" for part in ("unet", "vae", "safety_checker") for name in ("config.json", WEIGHTS)} | {
        f"text_encoder/{name}" for name in encoder}
    tokens = {"tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer_2/vocab.json"}
    assert {name for name in wanted(names | tokens) if name.startswith(("text", "token", "safety"))} == tokens | {
        "text_encoder/config.json", "text_encoder/model.safetensors"}
    assert f"transformer/{WEIGHTS}" in wanted({"transformer/config.json", f"transformer/{WEIGHTS}"})


def test_a_hub_that_cannot_be_reached_ends_in_one_sentence(hub: SimpleNamespace, config,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self, repository: str, files_metadata: bool) -> None:
        raise RepositoryNotFoundError("404\nmany lines", response=SimpleNamespace(headers={}, request=None))
    monkeypatch.setattr(fetch.HfApi, "model_info", gone)
    with pytest.raises(UserError, match="neither a local folder nor could it be fetched") as error:
        load_dense(config(*DIFFUSERS, "model.checkpoint=someone/nothing"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("error", "reason"), [
    (type("ConnectError", (HTTPError,), {})("[Errno -2] Name or service not known"), "ConnectError"),
    (OSError(errno.ENOSPC, "No space left on device"), "No space left on"),
    (RepositoryNotFoundError("401", response=SimpleNamespace(headers={}, request=None, status_code=401)), "answers 401")])
def test_why_the_hub_gives_nothing_is_said(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, error: Exception,
                                           reason: str) -> None:
    def fails(self, repository: str, files_metadata: bool) -> None:
        raise error
    monkeypatch.setattr(fetch.HfApi, "model_info", fails)
    with pytest.raises(UserError, match=f"could it be fetched \\(.*{reason}"):
        fetch_repository("someone/ddpm", "")


@pytest.mark.parametrize("options", [{"variant": "fp16"}, {"max_shard_size": "20KB"}], ids=["variant", "shards"])
def test_other_names_of_weights_are_fetched_too(hub: SimpleNamespace, options: dict) -> None:
    hub_folder(hub.folder, tiny_unet(), at_root=False)
    (hub.folder / "unet" / WEIGHTS).unlink()
    tiny_unet().save_pretrained(hub.folder / "unet", **options)
    assert same(load_model(fetch_repository("someone/ddpm", "")).unet, tiny_unet())
    assert fetch_repository("someone/ddpm", "")
    assert len(hub.calls) == 1
    next(hub.cache.glob("unet/*.safetensors")).unlink()
    assert same(load_model(fetch_repository("someone/ddpm", "")).unet, tiny_unet())
    assert len(hub.calls) == 2


# --- an address

class Server(http.server.BaseHTTPRequestHandler):
    """Serves `server.content`, with ranges; breaks off after `server.breaks_at` bytes."""

    def do_GET(self) -> None:
        content, start = self.server.content, 0
        self.server.asked.append((self.headers.get("Range"), self.headers.get("If-Range")))
        self.server.secrets.append((self.path, self.headers.get("Authorization")))
        if self.path.startswith("/absent"):
            self.send_error(404)
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        if self.headers.get("Range") and self.headers.get("If-Range") == etag:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", etag)
        self.end_headers()
        self.wfile.write(content[start:self.server.breaks_at or len(content)])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.content, running.breaks_at, running.asked = bytes(range(256)) * 20_000, None, []
        running.secrets = []
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_file_comes_whole_with_its_digest(server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fetch_file(f"{server.url}/model.ckpt", tmp_path / "model.ckpt", "from CompVis, about 5 MB, licence MIT", "")
    assert (tmp_path / "model.ckpt").read_bytes() == server.content
    record = json.loads((tmp_path / "model.ckpt.json").read_text())
    assert record == {"url": f"{server.url}/model.ckpt", "bytes": len(server.content),
                      "sha256": hashlib.sha256(server.content).hexdigest()}
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        ".model.ckpt.sha256", "model.ckpt", "model.ckpt.json"]
    assert "(from CompVis, about 5 MB, licence MIT); model.checkpoint=<folder> uses a local copy" in caplog.text


def test_the_secrets_of_an_address_go_to_its_server_alone(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                          caplog: pytest.LogCaptureFixture) -> None:
    address = f"{server.url.replace('//', '//user:s3cr%3At@')}/model.ckpt?token=s3cr3t"
    monkeypatch.setenv("DIFFPRUNE_ADDRESSES", "{}")
    monkeypatch.setattr("sys.argv", ["diffprune", f'model.checkpoint="{address}"'])
    hide_secrets()
    with caplog.at_level(logging.INFO):
        fetch_file(without_secrets(address), tmp_path / "model.ckpt", "", "")
    login = base64.b64encode(b"user:s3cr:t").decode()
    assert server.secrets == [("/model.ckpt?token=s3cr3t", f"Basic {login}")]
    assert json.loads((tmp_path / "model.ckpt.json").read_text())["url"] == without_secrets(address)
    assert "s3cr" not in caplog.text
    monkeypatch.setenv("DIFFPRUNE_ADDRESSES", "{}")
    with pytest.raises(UserError, match=r"\*-\w{8} lacks its password or the values of its query, which are never stored"):
        fetch_file(without_secrets(address), tmp_path / "again.ckpt", "", "by hand")


def test_a_download_that_breaks_off_leaves_no_file_and_goes_on_where_it_was(server, tmp_path: Path) -> None:
    server.breaks_at = 1_500_000
    with pytest.raises(UserError, match=r"could not be fetched \(ConnectionError\): get it by hand"):
        fetch_file(f"{server.url}/model.ckpt", tmp_path / "model.ckpt", "", "get it by hand")
    assert not (tmp_path / "model.ckpt").exists()
    server.breaks_at = None
    fetch_file(f"{server.url}/model.ckpt", tmp_path / "model.ckpt", "", "")
    assert (tmp_path / "model.ckpt").read_bytes() == server.content
    assert server.asked[1][0] == "bytes=1500000-"


def test_half_of_another_version_is_thrown_away(server, tmp_path: Path) -> None:
    server.breaks_at = 1_500_000
    with pytest.raises(UserError):
        fetch_file(f"{server.url}/model.ckpt", tmp_path / "model.ckpt", "", "")
    server.content, server.breaks_at = server.content[::-1], None
    fetch_file(f"{server.url}/model.ckpt", tmp_path / "model.ckpt", "", "")
    assert (tmp_path / "model.ckpt").read_bytes() == server.content


def test_a_download_that_was_whole_but_not_renamed_is_fetched_again(server, tmp_path: Path) -> None:
    part = tmp_path / "model.ckpt.part"
    fetch.receive(f"{server.url}/model.ckpt", part)
    fetch_file(f"{server.url}/model.ckpt", tmp_path / "model.ckpt", "", "")
    assert (tmp_path / "model.ckpt").read_bytes() == server.content


def test_an_address_without_the_file_is_named(server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent could not be fetched \(the server answers 404\): by hand"):
        fetch_file(f"{server.url}/absent", tmp_path / "model.ckpt", "", "by hand")
    assert not (tmp_path / "model.ckpt").exists()


DDIM = ["model=ddpm_cifar10", "dataset=image_folder", "dataset.path=.", "dataset.resolution=16", "model.unet.sample_size=16",
        "model.unet.block_out_channels=[32,64]", "model.unet.layers_per_block=1",
        "model.unet.down_block_types=[DownBlock2D,DownBlock2D]", "model.unet.up_block_types=[UpBlock2D,UpBlock2D]"]
LATENT = ["model=ldm_imagenet", "dataset=imagenet", "dataset.path=.", "dataset.resolution=16", "model.unet.sample_size=8",
          "model.unet.block_out_channels=[32,64]", "model.unet.layers_per_block=1", "model.unet.cross_attention_dim=16",
          "model.unet.down_block_types=[DownBlock2D,CrossAttnDownBlock2D]", "model.unet.attention_head_dim=[1,1]",
          "model.unet.up_block_types=[CrossAttnUpBlock2D,UpBlock2D]", "model.vqvae.block_out_channels=[32,32]",
          "model.vqvae.down_block_types=[DownEncoderBlock2D,DownEncoderBlock2D]", "model.vqvae.layers_per_block=1",
          "model.vqvae.up_block_types=[UpDecoderBlock2D,UpDecoderBlock2D]", "model.vqvae.num_vq_embeddings=12",
          "model.class_embedder.n_classes=11", "model.class_embedder.embed_dim=16"]


@pytest.fixture
def published(server, tmp_path: Path) -> Callable[[object], str]:
    """Puts a checkpoint on the server and gives its address."""
    def put(content: object) -> str:
        torch.save(content, tmp_path / "original.ckpt")
        server.content = (tmp_path / "original.ckpt").read_bytes()
        return f"{server.url}/model.ckpt?dl=1"
    return put


def test_a_ddim_checkpoint_at_an_address_becomes_the_model(published, server, config, tmp_path: Path) -> None:
    state = {key: tensor for key, tensor in random_state(original_shapes(mult=(1, 2), layers=1)).items()
             if ".attn." not in key or key.startswith("mid.")}
    cfg = config(*DDIM, f'model.checkpoint="{published(state)}"')
    model = load_dense(cfg)
    assert torch.equal(model.unet.conv_in.weight, state["conv_in.weight"])
    assert same(load_dense(cfg).unet, model.unet)
    assert len(server.asked) == 1
    cached = sorted(file.name for file in (tmp_path / "cache" / "models").iterdir())
    assert [name.partition(".")[2] for name in cached] == ["", "ckpt.json"]


def test_a_safetensors_file_at_an_address_with_a_query_is_read(server, config, tmp_path: Path) -> None:
    state = {key: tensor for key, tensor in random_state(original_shapes(mult=(1, 2), layers=1)).items()
             if ".attn." not in key or key.startswith("mid.")}
    save_file(state, tmp_path / "original.safetensors")
    server.content = (tmp_path / "original.safetensors").read_bytes()
    model = load_dense(config(*DDIM, f'model.checkpoint="{server.url}/model.safetensors?download=true"'))
    assert torch.equal(model.unet.conv_in.weight, state["conv_in.weight"])


@pytest.mark.slow
def test_a_latent_checkpoint_at_an_address_becomes_the_model(published, config) -> None:
    state = random_state(shapes_of(dense_model(config(*LATENT)).blank()))
    model = load_dense(config(*LATENT, f'model.checkpoint="{published({"state_dict": state})}"'))
    assert torch.equal(model.family.vqvae.quantize.embedding.weight, state["first_stage_model.quantize.embedding.weight"])
    assert torch.equal(model.family.class_embedder.embedding.weight, state["cond_stage_model.embedding.weight"])
    assert not any(p.requires_grad for part in model.networks[1:] for p in part.parameters())


def test_only_the_models_own_checkpoint_is_said_to_be_its_publishers(config) -> None:
    own = config("model=ldm_imagenet", "dataset=imagenet", "dataset.path=.").model
    assert origin(own) == ("published by github.com/CompVis/latent-diffusion, about 1827 MB, "
                           "licence MIT (of the code; the weights name none)")
    other = config("model=ldm_imagenet", "dataset=imagenet", "dataset.path=.", "model.checkpoint=http://mirror/model.ckpt").model
    assert origin(other) == "size and licence unknown"
    assert "--config configs/latent-diffusion/cin256-v2.yaml" in by_hand(other)


def test_a_checkpoint_of_another_model_says_where_it_lies_and_what_to_do(published, config, tmp_path: Path) -> None:
    url = published({"other": torch.zeros(1)})
    with pytest.raises(UserError, match="do not fit the architecture") as error:
        load_dense(config(*DDIM, f'model.checkpoint="{url}"'))
    assert f"it came from {without_secrets(url)}: delete it to fetch it again" in str(error.value)
    assert str(tmp_path / "cache" / "models") in str(error.value)


def test_what_is_saved_of_a_root_folder_has_the_present_layout(tmp_path: Path) -> None:
    model = load_model(hub_folder(tmp_path / "hub", tiny_unet(), TORCH_WEIGHTS))
    save_model(DiffusionModel(model.unet, model.scheduler), tmp_path / "saved")
    assert set(load_file(tmp_path / "saved" / "unet" / WEIGHTS)) == set(model.unet.state_dict())
