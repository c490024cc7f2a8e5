"""Where the processes of a run on one machine meet: a store that only this machine can reach.

PyTorch's own rendezvous listens on all interfaces, asks for no password, and unpickles what it reads.
"""

import socket

from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import RendezvousParameters, rendezvous_handler_registry
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

BACKEND = "lion-local"
HOST = "127.0.0.1"


class LocalRendezvous(StaticTCPRendezvous):
    """The rendezvous of a single node. The processes use its store instead of starting one of their own."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        with socket.socket() as listening:
            listening.bind((HOST, 0))
            listening.listen()
            port = listening.getsockname()[1]
            super().__init__(HOST, port, rank=0, world_size=1, run_id=parameters.run_id, timeout=0)
            self._store = TCPStore(
                HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
            )

    def get_backend(self) -> str:
        """The name under which it is registered."""
        return BACKEND


def register() -> None:
    """Register it with PyTorch's launcher under the name BACKEND."""
    rendezvous_handler_registry.register(BACKEND, LocalRendezvous)
