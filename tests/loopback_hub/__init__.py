"""A small Hub on loopback: what huggingface_hub asks of the real one, in memory and a folder, standard library only.

`store` keeps repositories, `errors` are the answers of the real Hub when something is wrong, `server` speaks HTTP.
"""

from .server import Hub

__all__ = ["Hub"]
