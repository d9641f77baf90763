"""Platforms of images: `linux/amd64`, `linux/arm/v7`, `windows/amd64`; which of them a machine can run, best first.

The names are Go's. A machine runs its own variant and those below it: an amd64 machine of level v3 runs v3, v2 and v1,
and an image that names no variant is for the lowest. On arm64 there is one variant, v8, which most images leave out.
"""

from __future__ import annotations

import os
import re

import msgspec

from ..errors import InvalidSpec

_WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v7"),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86": ("386", ""),
    "loongarch64": ("loong64", ""),
}
"""What others call a processor, and Go's word and variant for it."""

_LOWER_VARIANTS = {
    "amd64": ("v4", "v3", "v2", "v1"),
    "arm": ("v7", "v6", "v5", ""),  # an image that does not say for which of them is the last choice
    "arm64": ("v9", "v8"),
}
"""Variants from the highest down: what a machine runs is its own and those after it."""

_IMPLIED = {"amd64": "v1", "arm64": "v8"}
"""The variant of an image that names none."""

_MEANT = {"arm": "v7"}
"""The variant of a machine for which none is named."""

_LEVELS = (  # https://gitlab.com/x86-psABIs/x86-64-ABI: the flags of /proc/cpuinfo that each level adds
    ("v2", "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"),
    ("v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"),
    ("v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
)


class Platform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A platform, as documents of images write it. `os_version` is a build of Windows, such as `10.0.20348.169`."""

    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: list[str] = msgspec.field(default=[], name="os.features")

    def __str__(self) -> str:
        text = f"{self.os or 'unknown'}/{self.architecture or 'unknown'}" + (f"/{self.variant}" if self.variant else "")
        return f"{text} ({self.os_version})" if self.os_version else text


def parse_platform(text: str, field: str = "platform") -> Platform:
    """Return the platform of `OS/ARCH[/VARIANT]`; the names of others for a processor (`x86_64`) are known.

    Raises: InvalidSpec.
    """
    if not isinstance(text, str):
        raise InvalidSpec(field, f"must be text, not {type(text).__name__}", hint=f"write {field}='linux/arm64'")
    parts = text.lower().split("/")
    if not 2 <= len(parts) <= 3 or not all(_WORD.fullmatch(part) for part in parts):
        raise InvalidSpec(field, f"{text[:100]!r} is not OS/ARCH[/VARIANT]", hint="write linux/arm64, or linux/arm/v7")
    architecture, variant = _ARCHITECTURES.get(parts[1], (parts[1], ""))
    return Platform(os=parts[0], architecture=architecture, variant=parts[2] if len(parts) > 2 else variant)


def this_platform() -> Platform:
    """Return the platform of this machine: of Windows with its build, of amd64 with its level."""
    if os.name == "nt":
        machine = os.environ.get("PROCESSOR_ARCHITEW6432") or os.environ.get("PROCESSOR_ARCHITECTURE", "")
        architecture, variant = _normal(machine)
        return Platform(os="windows", architecture=architecture, variant=variant, os_version=_windows_build())
    system, machine = _uname()
    architecture, variant = _normal(machine)
    if architecture == "amd64":
        variant = amd64_level(_processor_flags())
    return Platform(os=system.lower(), architecture=architecture, variant=variant)


def amd64_level(flags: set[str]) -> str:
    """Return the level of a processor with these flags of /proc/cpuinfo: v1 to v4."""
    level = "v1"
    for name, wanted in _LEVELS:
        if not flags.issuperset(wanted.split()):
            break
        level = name
    return level


def rank(offered: Platform, wanted: Platform) -> int | None:
    """Return how well an offered platform suits: 0 is best, more is worse, None if it cannot be run.

    Of Windows, `os_version` counts as well: a process shares the kernel, so the build number has to be the same.
    """
    if offered.os != wanted.os or _normal(offered.architecture)[0] != _normal(wanted.architecture)[0]:
        return None
    if wanted.os_version and offered.os_version and build_of(offered) != build_of(wanted):
        return None
    architecture, variant = _normal(wanted.architecture)
    return _runnable(architecture, wanted.variant or variant).get(_variant_of(offered))


def build_of(platform: Platform) -> list[int]:
    """Return Windows' build, without the revision: 10, 0, 20348 of `10.0.20348.169`."""
    return version_of(platform)[:3]


def version_of(platform: Platform) -> list[int]:
    """Return the numbers of `os_version`, to compare; empty where there are none."""
    parts = platform.os_version.split(".")
    numbers = all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts)
    return [int(part) for part in parts] if numbers else []


def _runnable(architecture: str, variant: str) -> dict[str, int]:
    """The variants that a machine of this one runs, and their rank; an image without a variant has the implied one."""
    own = variant or _MEANT.get(architecture) or _IMPLIED.get(architecture, "")
    known = _LOWER_VARIANTS.get(architecture, ())
    if own not in known:
        return {own: 0}
    return {each: place for place, each in enumerate(known[known.index(own) :])}


def _variant_of(platform: Platform) -> str:
    architecture, variant = _normal(platform.architecture)
    return platform.variant or variant or _IMPLIED.get(architecture, "")


def _normal(machine: str) -> tuple[str, str]:
    """Go's word for a processor, and the variant that the given word implies."""
    return _ARCHITECTURES.get(machine.lower(), (machine.lower(), ""))


def _uname() -> tuple[str, str]:
    found = getattr(os, "uname")()  # noqa: B009  # type checkers for Windows know no uname
    return found.sysname, found.machine


def _windows_build() -> str:
    import sys

    version = getattr(sys, "getwindowsversion")().platform_version  # noqa: B009  # only Windows has it
    return ".".join(str(number) for number in version)


def _processor_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("flags"):
                    return set(line.partition(":")[2].split())
    except OSError:
        pass  # then the lowest level, which every machine runs
    return set()
