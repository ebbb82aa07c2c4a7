"""NLTK's data asked for by name, through build and install: the real NLTK reads it with the network cut."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.support.programs import require_tool, run_bundle
from tests.support.servers.loopback import serve

PUNKT = {"abbrev_types.txt": "dr", "collocations.tab": "", "sent_starters.txt": "", "ortho_context.tab": ""}
TAGGER = {"weights": '{"bias": {"NN": 1.0}}', "tagdict": '{"the": "DT"}', "classes": '["NN", "DT"]'}
NAMED = "averaged_perceptron_tagger_eng"
ARCHIVES = {
    "tokenizers/punkt_tab": {f"punkt_tab/english/{name}": text for name, text in PUNKT.items()},
    f"taggers/{NAMED}": {f"{NAMED}/{NAMED}.{name}.json": text for name, text in TAGGER.items()},
    "corpora/stopwords": {"stopwords/english": "the\n"},
}
MANIFEST = """\
name: words
version: "1"
target: {{python: "3.11", platform: linux-x86_64, libc: glibc-2.17, accelerator: cpu}}
assets: [{{nltk: [punkt_tab, averaged_perceptron_tagger_eng, stopwords], mirror: "{url}/mirror/"}}]
"""
CODE = """\
import nltk
from nltk.corpus import stopwords
print(nltk.sent_tokenize("Dr. Kim came. She left."), nltk.pos_tag(["the", "dog"]), stopwords.words("english"))
"""


def pack_archive(files: dict[str, str]) -> bytes:
    """An archive as NLTK's server has them: with an entry for each folder."""
    made = io.BytesIO()
    folders = {f"{parent}/" for name in files for parent in Path(name).parents if parent != Path()}
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in {**dict.fromkeys(sorted(folders), ""), **files}.items():
            archive.writestr(name, text)
    return made.getvalue()


def test_nltk_reads_what_was_asked_for_by_name(
    builder_env: dict[str, str],
    run_installer: Callable[..., subprocess.CompletedProcess[str]],
    libraries: Path,
    tmp_path: Path,
) -> None:
    manifest, out, prefix = tmp_path / "m.yaml", tmp_path / "words.tar", tmp_path / "opt"
    with serve() as server:
        listed = ""
        for place, files in ARCHIVES.items():
            data = server.files[f"/mirror/packages/{place}.zip"] = pack_archive(files)
            subdir, _, name = place.partition("/")
            md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
            listed += f'<package id="{name}" subdir="{subdir}" size="{len(data)}" checksum="{md5}" unzip="1"/>'
        server.files["/mirror/index.xml"] = f"<nltk_data><packages>{listed}</packages></nltk_data>".encode()
        manifest.write_text(MANIFEST.format(url=server.url))
        done = run_bundle("build", "--no-rehearse", manifest, "-o", out, "--quiet", env=builder_env)
    assert done.returncode == 0, done.stderr
    assert run_installer("install", out, "--prefix", prefix).returncode == 0
    told = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(libraries), "BUNDLE_GUARD": "strict"}
    cut = [require_tool("unshare"), "-rn" if os.getuid() else "-n"]
    python = prefix / "current" / "venv" / "bin" / "python"
    found = subprocess.run([*cut, python, "-c", CODE], env=told, check=False, capture_output=True, text=True)
    assert found.stdout == "['Dr. Kim came.', 'She left.'] [('the', 'DT'), ('dog', 'NN')] ['the']\n", found.stderr
