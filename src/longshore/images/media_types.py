"""Media types of the documents and layers of images: those of the OCI and docker's, which mean the same."""

from __future__ import annotations

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
DOCUMENTS = MANIFESTS | INDEXES
ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST))
"""The types that longshore reads, for the Accept header: some refuse an index to those who do not say so."""

SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)

CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream", ""})
"""The last two were written by early tools (distribution/distribution#1621); the document itself tells what it is."""

FOREIGN_LAYERS = frozenset(
    {_OCI_FOREIGN, f"{_OCI_FOREIGN}+gzip", f"{_OCI_FOREIGN}+zstd", _DOCKER_FOREIGN, f"{_DOCKER_FOREIGN}.gzip"}
)
"""Layers that are not to be pushed: base layers of Windows of before 2022."""

LAYERS = FOREIGN_LAYERS | {
    OCI_LAYER,
    f"{OCI_LAYER}+gzip",
    f"{OCI_LAYER}+zstd",
    DOCKER_LAYER,
    f"{DOCKER_LAYER}.gzip",
    f"{DOCKER_LAYER}.zstd",
}

_UNTOLD = frozenset({"", "application/json", "application/octet-stream", "text/plain", "binary/octet-stream"})


def of_content_type(header: str | None) -> str:
    """Return the media type of a Content-Type header; empty if it says nothing of what the content is."""
    found = (header or "").partition(";")[0].strip().lower()
    return "" if found in _UNTOLD else found
