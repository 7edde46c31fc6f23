"""Fits torchvision to a CPU torch: the general index has CUDA builds alone, which break `import torchvision`, so `import vllm`.

    .venv/bin/python tools/torchvision_cpu.py    # with the Python of the environment that has it

The compiled parts, which look for CUDA's libraries, are taken out of the installed package (nms, roi_align, decoders: no model
here uses them), and its fakes of nms and qnms are registered only where these exist, as it does with all its other operators.
What is left is called +cpu, as the builds on torch's own index are; one of those, or a CUDA torch, is left as it is.
"""

from __future__ import annotations

import csv
from importlib import metadata
from pathlib import Path

CPU = "+cpu"
FAKES = "_meta_registrations.py"
ALWAYS = "@torch.library.register_fake("
WHERE_COMPILED = "@(torch.library.register_fake if torchvision.extension._has_ops() else lambda name: lambda fake: fake)("


def fit(site: Path, folder: Path) -> None:
    """Rewrite an installed torchvision, and what pip has noted of its files.

    Args:
        site: The folder that packages are installed in.
        folder: torchvision's *.dist-info in it.

    Raises:
        SystemExit: This torchvision is not written as the known one is.
    """
    fakes = site / "torchvision" / FAKES
    text = fakes.read_text()
    if ALWAYS not in text and WHERE_COMPILED not in text:  # the latter where it was interrupted
        msg = f"{fakes} has no {ALWAYS!r}: {folder.name} is another torchvision than this script knows; adapt it"
        raise SystemExit(msg)
    fakes.write_text(text.replace(ALWAYS, WHERE_COMPILED))

    name, version = folder.name.removesuffix(".dist-info").split("-")
    described = folder / "METADATA"
    text = described.read_text()
    described.write_text(text.replace(f"\nVersion: {version}\n", f"\nVersion: {version}{CPU}\n", 1))

    renamed = f"{name}-{version}{CPU}.dist-info"
    kept = []
    for path, *noted in csv.reader((folder / "RECORD").read_text().splitlines()):
        if ".so" in Path(path).suffixes:
            (site / path).unlink(missing_ok=True)
            continue
        edited = path.endswith((FAKES, "/METADATA"))
        kept.append(",".join([path.replace(folder.name, renamed), *(["", ""] if edited else noted)]))
    (folder / "RECORD").write_text("\n".join(kept) + "\n")
    folder.rename(site / renamed)


def main() -> None:
    """Fit the torchvision of this Python, where it needs that."""
    found = metadata.distribution("torchvision")
    version, site = found.version, Path(str(found.locate_file("")))
    if CPU in version or not metadata.version("torch").endswith(CPU):
        return
    fit(site, site / f"torchvision-{version}.dist-info")
    print(f"torchvision {version} is now {version}{CPU}: without compiled operators")


if __name__ == "__main__":
    main()
