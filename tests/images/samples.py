"""Documents of images, as registries give them, for tests to change."""

from __future__ import annotations

import json
from typing import Any

from longshore.images import media_types
from longshore.images.digests import digest_of

Json = dict[str, Any]


def encoded(document: Any) -> bytes:
    """A document as bytes."""
    return json.dumps(document).encode()


def descriptor(data: bytes = b"", media_type: str = media_types.OCI_LAYER + "+gzip", **more: Any) -> Json:
    """What names this content."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def config(layers: int = 2, **more: Any) -> Json:
    """The config of an image of so many layers."""
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-02T03:04:05.678901234Z",
        "config": {
            "Env": ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"],
            "Entrypoint": ["/entry"],
            "Cmd": ["serve"],
            "WorkingDir": "/srv",
            "User": "app",
            "Labels": {"a": "b"},
            "StopSignal": "SIGQUIT",
            "ExposedPorts": {"80/tcp": {}, "53/udp": None},
        },
        "rootfs": {"type": "layers", "diff_ids": [digest_of(str(number).encode()) for number in range(layers)]},
        "history": [{"created_by": "RUN x"}, {"created_by": "CMD y", "empty_layer": True}],
        **more,
    }


def manifest(config_data: bytes = b"{}", layers: int = 2, **more: Any) -> Json:
    """A manifest of the OCI's."""
    return {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": descriptor(config_data, media_types.OCI_CONFIG),
        "layers": [descriptor(str(number).encode()) for number in range(layers)],
        **more,
    }


def entry(platform: str, data: bytes | None = None, **more: Any) -> Json:
    """What an index has of the image of one platform, such as linux/arm/v7."""
    names = ("os", "architecture", "variant")
    wanted = dict(zip(names, platform.split("/"), strict=False))
    content = platform.encode() if data is None else data
    return descriptor(content, more.pop("media_type", media_types.OCI_MANIFEST), platform=wanted, **more)


def index(*manifests: Json, **more: Any) -> Json:
    """An index of the OCI's."""
    return {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": list(manifests), **more}
