"""What a runner needs to know of its replica, as a file: a running engine needs no look-up in a database."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from playground.engines.base import Gpu, Hardware, LocalAdapter, LocalModel


@dataclass(frozen=True)
class Spec:
    """One start attempt, decided. Times in seconds. Holds two keys: its file has mode 0600."""

    replica: int
    deployment: int
    engine: str
    environment: Path
    model: LocalModel
    options: dict[str, Any]
    served_name: str
    hardware: Hardware
    slots: tuple[str, ...]
    """Names of the locks it holds: "gpu-0", "gpu-0.1" (a share), "cpu-3"."""
    gpus: tuple[int, ...]
    cores: int
    home: Path
    node_address: str
    relay: bool
    relay_key: str
    engine_key: str
    task: str
    load_timeout_s: float
    frozen_after_s: float
    grace_s: float
    drain_s: float
    heartbeat_s: float
    tls_cert: str = ""
    tls_key: str = ""
    server_key: str = ""
    """What a server of others asks for; never written to the file."""
    extra: tuple[str, ...] = ()
    """Arguments that an administrator added to the engine's command."""

    @property
    def folder(self) -> Path:
        """`home/replicas/<replica>`: spec.json, engine.log, runner.log, runner.lock."""
        return self.home / "replicas" / str(self.replica)

    def to_json(self) -> str:
        fields = dataclasses.asdict(self) | {"server_key": ""}
        fields["model"]["facts"] = dict(self.model.facts)
        return json.dumps(fields, default=str, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        fields["model"] = _model(fields["model"])
        gpus = tuple(Gpu(**gpu) for gpu in fields["hardware"].pop("gpus"))
        fields["hardware"] = Hardware(**fields["hardware"], gpus=gpus)
        fields |= {name: tuple(fields[name]) for name in ("slots", "gpus", "extra") if name in fields}
        fields |= {"home": Path(fields["home"]), "environment": Path(fields["environment"])}
        return cls(**fields)

    def save(self) -> Path:
        """Write `folder/spec.json`, readable by its owner only; returns its path."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / "spec.json"
        path.touch(mode=0o600)
        path.write_text(self.to_json())
        return path


def _model(fields: dict[str, Any]) -> LocalModel:
    """A model with its adapters and its draft, from JSON."""
    adapters = [{**one, "path": Path(one["path"])} for one in fields.get("adapters", ())]
    draft = _model(fields["draft"]) if fields.get("draft") else None
    given = {**fields, "path": Path(fields["path"]), "draft": draft}
    return LocalModel(**given | {"adapters": tuple(LocalAdapter(**one) for one in adapters)})
