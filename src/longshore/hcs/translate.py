"""The earlier place of `schema1/translate.py`, for programs that import it from here."""

from .schema1.translate import Host, container_config

__all__ = ["Host", "container_config"]
