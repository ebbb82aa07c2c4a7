"""What a bundle adds by itself is what the real libraries ask for, with the network cut."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bundles import InstalledBundle
from tests.support.programs import require_tool, run_bundle
from tests.support.servers.hub_server import Hub, serve_hub

MANIFEST = """\
name: reaching
version: "1"
target: {python: "3.11", platform: linux-x86_64, accelerator: cpu}
python: {requirements: [peft, transformers, "torch==2.13.0"]}
models:
  - {repo: org/odd, loader: files, trust_remote_code: true}
  - {repo: org/adapter, loader: files}
"""
MAKE = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel
out = Path(sys.argv[1])
out.mkdir()
small = dict(vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
BertModel(BertConfig(**small)).save_pretrained(out / "base")
(out / "adapter").mkdir()
(out / "odd").mkdir()
query = "base_model.model.encoder.layer.0.attention.self.query.lora_"
save_file({query + "A.weight": torch.ones(2, 8), query + "B.weight": torch.ones(8, 2)}, out / "adapter/adapter_model.safetensors")
adapter = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 2, "lora_alpha": 4,
           "target_modules": ["query"], "task_type": "FEATURE_EXTRACTION", "inference_mode": True}
(out / "adapter/adapter_config.json").write_text(json.dumps(adapter))
save_file({"scale.weight": torch.full((1, 3), 7.0)}, out / "odd/model.safetensors", {"format": "pt"})
"""
CODE = {
    "configuration.py": b"""
from transformers import PretrainedConfig
class OddConfig(PretrainedConfig):
    model_type = "odd"
""",
    "modeling.py": b"""
from transformers import PreTrainedModel
from .configuration import OddConfig
from .layers import made
class OddModel(PreTrainedModel):
    config_class = OddConfig
    def __init__(self, config):
        super().__init__(config)
        self.scale = made()
        self.post_init()
    def _init_weights(self, module):
        pass
""",
    "layers.py": b"""
import torch
def made():
    return torch.nn.Linear(3, 1, bias=False)
""",
}
ODD = {
    "model_type": "odd",
    "architectures": ["OddModel"],
    "auto_map": {"AutoConfig": "org/code--configuration.OddConfig", "AutoModel": "org/code--modeling.OddModel"},
}
LOAD_ODD = """
from transformers import AutoModel
print(AutoModel.from_pretrained("org/odd", trust_remote_code=True).scale.weight.tolist())
"""
LOAD_ADAPTER = """
from peft import AutoPeftModelForFeatureExtraction
model = AutoPeftModelForFeatureExtraction.from_pretrained("org/adapter")
print(sorted(name for name, _ in model.named_parameters() if "lora_" in name))
"""


def offer(hub: Hub, made: Path) -> None:
    for name in ("base", "adapter", "odd"):
        hub.repository(f"org/{name}", {path.name: path.read_bytes() for path in (made / name).iterdir()})
    hub.repositories["org/odd"].commit(
        {"config.json": json.dumps(ODD).encode(), "model.safetensors": (made / "odd/model.safetensors").read_bytes()}
    )
    hub.repository("org/code", CODE)


def run(prefix: Path, code: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run code in the installed environment, without a network and without any variable of ours."""
    cut = [require_tool("unshare"), "-n"] if os.getuid() == 0 else [require_tool("unshare"), "-rn"]
    told = {"PATH": os.environ["PATH"], "HOME": str(prefix)} | more
    python = prefix / "current" / "venv" / "bin" / "python"
    return subprocess.run([*cut, python, "-c", code], check=False, capture_output=True, text=True, env=told)


@pytest.mark.long
def test_code_and_base_models_load_by_id_without_a_network(
    demo: InstalledBundle, tmp_path: Path, run_installer: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    subprocess.run([demo.python, "-c", MAKE, tmp_path / "made"], check=True)
    manifest, packed, prefix = tmp_path / "m.yaml", tmp_path / "m.bundle.tar", tmp_path / "prefix"
    manifest.write_text(MANIFEST)
    with serve_hub() as hub:
        offer(hub, tmp_path / "made")
        told = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        told |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        done = run_bundle("build", "--no-rehearse", manifest, "-o", packed, "--quiet", "--no-pickles", env=told)
    assert done.returncode == 0, done.stderr
    done = run_installer("install", packed, "--prefix", prefix, "--no-smoke")
    assert done.returncode == 0, done.stderr

    odd = run(prefix, LOAD_ODD)
    assert odd.stdout == "[[7.0, 7.0, 7.0]]\n", odd.stderr
    adapter = run(prefix, LOAD_ADAPTER)
    assert adapter.stdout.count("query.lora_") == 2, adapter.stderr

    # what would have happened without: the same loads, with only what the manifest names
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("odd", "adapter"):
        (alone / f"models--org--{name}").symlink_to(prefix / "current" / "hub" / f"models--org--{name}")
    for code in (LOAD_ODD, LOAD_ADAPTER):
        failed = run(prefix, code, HF_HUB_CACHE=str(alone))
        assert failed.returncode != 0, failed.stdout
        assert "couldn't connect to" in failed.stderr or "offline" in failed.stderr
