"""Where the processes of a run on one machine meet: a store that only this machine can reach.

PyTorch's own rendezvous listens on all interfaces, asks for no password, and unpickles what it reads.
"""

import socket

from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

BACKEND = "lion-local"
HOST = "127.0.0.1"


class LocalRendezvous(RendezvousHandler):
    """The rendezvous of a single node. The processes use its store instead of starting one of their own."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        with socket.socket() as listening:
            listening.bind((HOST, 0))
            listening.listen()
            self._port = listening.getsockname()[1]
            self._store = TCPStore(
                HOST, self._port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
            )

    def get_backend(self) -> str:
        """The name under which it is registered."""
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """Whether the processes use its store."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """This node, as the only one."""
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo(HOST, self._port))

    def is_closed(self) -> bool:
        """Never: nothing is restarted."""
        return False

    def set_closed(self) -> None:
        """Do nothing: no other node has to know."""

    def num_nodes_waiting(self) -> int:
        """No other node can join."""
        return 0

    def get_run_id(self) -> str:
        """As given."""
        return self._run_id

    def shutdown(self) -> bool:
        """True: there is nothing to shut down, since the store ends with this process."""
        return True


def _create(parameters: RendezvousParameters) -> RendezvousHandler:
    return LocalRendezvous(parameters.run_id)


def register() -> None:
    """Register it with PyTorch's launcher under the name BACKEND."""
    rendezvous_handler_registry.register(BACKEND, _create)
