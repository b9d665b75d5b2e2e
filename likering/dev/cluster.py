"""The embedded cluster: a topology Postgres, shard nodes with a Postgres and a Valkey each, and a router."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TypeVar

from likering.dev import bootstrap, layout
from likering.dev.at_once import all_at_once
from likering.dev.errors import DevError, Interrupted
from likering.dev.layout import DirectoryLock, Layout
from likering.dev.node import PARTS, EmbeddedNode
from likering.dev.part import Part, PartState
from likering.dev.ports import HOST, choose_port
from likering.dev.postgres import PostgresServer
from likering.dev.securing import Secured
from likering.dev.service import Service
from likering.postgres.roles import Database, statements

T = TypeVar("T")

_REGISTER_SECONDS = 30.0
_PROBE_PAUSE = 0.05


def _started(thing: T | None) -> T:
    if thing is None:
        raise DevError("the cluster has not been started")
    return thing


class EmbeddedCluster:
    """Runs a whole cluster on this machine, as real processes that end with this one.

    A part that ends by itself is started again (with growing pauses) unless it was stopped on purpose. Data, ports and
    passwords stay in ``directory`` for the next start. All methods wait until what they do is done.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int | Sequence[str] = 3,
        port: int = 0,
        router_workers: int = 1,
        slots: int = 64,
        supervise: bool = True,
        secure: bool = False,
        progress: Callable[[str], None] | None = None,
        node_module: str = "shard_node",
    ) -> None:
        """``nodes`` and ``slots`` count at the first start in a directory only; later it knows its own.

        ``port`` is the router's (0: a free one); its port for operators is the next one, if that is free.
        ``secure``: with TLS, certificates and tokens, made in the directory; see ``secured``.
        ``progress`` gets a line for each part that comes up, dies or goes.
        ``node_module`` is what ``python -m`` runs for each node: a test may put itself in between.
        """
        self.directory = directory.absolute()
        self._node_names = layout.node_names(nodes) if isinstance(nodes, int) else list(nodes)
        self._port = port
        self._router_workers = router_workers
        self._slots = slots
        self._supervise = supervise
        self._secure = secure
        self.secured: Secured | None = None
        """The certificates and the issuer of tokens, once it was started; None where everybody may call everything."""
        self._progress = progress
        self._node_module = node_module
        self._progress_lock = threading.Lock()
        self._changing = threading.RLock()
        self._giving_up = False
        self._cancel = threading.Event()
        """Of the operation that holds ``_changing``, or held it last."""
        self._lock: DirectoryLock | None = None
        self._layout: Layout | None = None
        self._topology: PostgresServer | None = None
        self._topology_part: Part | None = None
        self._router: Service | None = None
        self._router_part: Part | None = None
        self._nodes: dict[str, EmbeddedNode] = {}

    def __repr__(self) -> str:
        return f"EmbeddedCluster({str(self.directory)!r}, nodes={list(self._nodes)})"

    def __enter__(self) -> EmbeddedCluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # What there is

    @property
    def address(self) -> str:
        """Of the router, host:port."""
        return _started(self._router).address

    @property
    def admin_address(self) -> str:
        """Of the router's port for operators, host:port."""
        return f"{HOST}:{_started(self._layout).admin_port}"

    @property
    def token_address(self) -> str:
        """Of the router's port for callers with tokens, host:port; only a secured cluster has one."""
        return f"{HOST}:{_started(self._layout).token_port}"

    @property
    def topology_dsn(self) -> str:
        """Of the topology database, with the password, of a superuser."""
        return _started(self._topology).dsn

    @property
    def nodes(self) -> Mapping[str, EmbeddedNode]:
        """By name; stopped ones too."""
        return MappingProxyType(self._nodes)

    @property
    def parts(self) -> Mapping[tuple[str, str], Part]:
        """All parts by (name, part): ("topology", "postgres"), ("router", "router"), ("a", "node"), …"""
        parts = {}
        if self._topology_part is not None:
            parts["topology", "postgres"] = self._topology_part
        if self._router_part is not None:
            parts["router", "router"] = self._router_part
        for name, node in self._nodes.items():
            parts.update({(name, part): node.parts[part] for part in PARTS})
        return parts

    @property
    def router_pid(self) -> int | None:
        """The router's first process, while it runs."""
        return _started(self._router).pid

    @property
    def router_pids(self) -> list[int]:
        """All processes of the router that serve calls."""
        return _started(self._router).serving_pids()

    # Start and stop

    def start(self) -> None:
        """Brings everything up, and creates the cluster the first time.

        Raises DevError with a sentence when that is not possible; then nothing is left running.
        """
        with self._changing:
            if self._lock is not None:
                raise DevError("the cluster has been started already")
            self._begin()
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DevError(f"{self.directory} cannot be made: {error.strerror}") from error
            lock = DirectoryLock(self.directory)
            lock.acquire()
            self._lock = lock
            try:
                self._build()
                self._bring_up_all()
            except BaseException:
                self.stop()
                raise

    def give_up(self) -> None:
        """Lets a start that is under way, or the next one, end soon with Interrupted. For signal handlers."""
        self._giving_up = True
        self._cancel.set()

    def _begin(self) -> None:
        self._cancel = threading.Event()
        if self._giving_up:
            raise Interrupted("the cluster is being stopped")

    def _build(self) -> None:
        """Makes the objects of all parts; starts nothing."""
        kept = layout.load(self.directory)
        self._layout = kept or Layout(self.directory, self._slots)
        for name in [] if kept else self._node_names:
            self._layout.nodes[layout.check_name(name)] = 0
        for name in self._layout.nodes if self._layout.complete else []:
            if not (self._layout.node(name) / "postgres" / "data").exists():
                raise DevError(
                    f"the data of node {name} is gone from {self._layout.node(name)};"
                    f" remove {self.directory} to begin anew"
                )
        logs = self._layout.logs
        self._topology = PostgresServer(
            self._layout.topology,
            log=logs / "topology-postgres.log",
            what="the topology's Postgres",
            settings={"shared_buffers": "32MB"},
        )
        self._topology_part = self._part(self._topology)
        port = choose_port(self._port, kept=0, what="the router")
        # Beside a port that somebody chose: where operators' commands look for it by default.
        kept_port = self._layout.admin_port or (self._port + 1 if 0 < self._port < 65535 else 0)
        self._layout.admin_port = choose_port(0, kept=kept_port, what="the router's port for operators")
        secured = self.secured = Secured(self._layout.tls) if self._secure else None
        if secured:
            token_port = self._layout.token_port or (self._port + 2 if 0 < self._port < 65534 else 0)
            self._layout.token_port = choose_port(0, kept=token_port, what="the router's port for tokens")
        self._router = Service(
            "router",
            [
                *("--listen", f"{HOST}:{port}", "--admin-listen", self.admin_address),
                *("--workers", str(self._router_workers)),
            ],
            port=port,
            environment=lambda: {
                "LIKERING_ROUTER_TOPOLOGY": self._topology_dsn_of_parts(),
                "LIKERING_ROUTER_SEEDS": ",".join(node.address for node in self._nodes.values()),
                **(secured.router_settings("LIKERING_ROUTER_", self.token_address) if secured else {}),
            },
            certificate=secured.router if secured else None,
            log=logs / "router.log",
            what="the router",
        )
        self._router_part = self._part(self._router)
        self._nodes = {name: self._make_node(name) for name in self._layout.nodes}
        self._layout.save()
        kind = "the" if kept else "a new"
        self._say(f"starting {kind} cluster in {self.directory}: {', '.join(self._nodes)}")

    def _part(self, server: PostgresServer | Service) -> Part:
        return Part(server, supervise=self._supervise, report=self._say)

    def _make_node(self, name: str) -> EmbeddedNode:
        assert self._layout is not None
        port = choose_port(0, kept=self._layout.nodes.get(name, 0), what=f"node {name}")
        self._layout.nodes[name] = port
        return EmbeddedNode(
            name,
            self._layout.node(name),
            port,
            logs=self._layout.logs,
            topology_dsn=self._topology_dsn_of_parts,
            supervise=self._supervise,
            report=self._say,
            secured=self.secured,
            module=self._node_module,
        )

    def _bring_up_all(self) -> None:
        assert self._layout is not None
        nodes, slots = list(self._nodes.values()), self._layout.slots
        topology_ready = threading.Event()

        def topology() -> None:
            self._bring_up(self.parts["topology", "postgres"])
            if bootstrap.create_cluster_once(self._make_topology_roles(), slots):
                self._say(f"created a cluster of {slots} slots")
            topology_ready.set()
            self._bring_up(self.parts["router", "router"])

        def await_topology() -> None:
            while not topology_ready.wait(_PROBE_PAUSE):
                if self._cancel.is_set():
                    raise Interrupted("the start was given up")

        bring_up_nodes = [partial(self._bring_up_node, node, await_topology) for node in nodes]
        all_at_once([topology, *bring_up_nodes], self._cancel)
        given = self._await_registered(self._nodes, assign=True)
        if given:
            self._say(f"gave {given} slots to {len(nodes)} nodes")
        self._await_serving(_REGISTER_SECONDS, patient=False)
        self._layout.complete = True
        self._layout.save()

    def _make_topology_roles(self) -> str:
        """Where the cluster is secured, makes them; the DSN for what makes the tables."""
        topology = _started(self._topology)
        if not self._secure:
            return topology.dsn
        topology.make_roles(statements(Database.TOPOLOGY), ("likering_migration", "likering_app"))
        return topology.dsn_as("likering_migration")

    def _topology_dsn_of_parts(self) -> str:
        return _started(self._topology).dsn_as("likering_app") if self._secure else self.topology_dsn

    def _await_registered(self, names: Collection[str], *, assign: bool) -> int:
        return bootstrap.await_nodes(
            self.topology_dsn, names, _REGISTER_SECONDS, assign=assign, cancel=self._cancel
        )

    def _bring_up_node(self, node: EmbeddedNode, before: Callable[[], None]) -> None:
        """Starts what the node stores in, does ``before``, and starts its process."""
        stores = [partial(self._bring_up, node.parts[kind]) for kind in ("postgres", "valkey")]
        all_at_once(stores, self._cancel)
        node.make_roles()
        before()
        self._bring_up(node.parts["node"])

    def _bring_up(self, part: Part) -> None:
        begun = time.monotonic()
        part.start(self._cancel)
        self._say(
            f"{part.server.what} serves on port {part.server.port}"
            f" (process {part.pid}, {time.monotonic() - begun:.1f} s)"
        )

    def stop(self) -> None:
        """Stops everything, callers first and the databases last. Safe to call twice; no process is left."""
        self.give_up()
        with self._changing:
            if self._lock is not None:
                self._stop_parts()
                self._lock.release()
                self._lock = None
                self._say("stopped")
            self._giving_up = False

    def _stop_parts(self) -> None:
        if self._router_part is not None:
            self._router_part.stop()
        self._stop_nodes(self._nodes.values())
        if self._topology_part is not None:
            self._topology_part.stop()

    def _stop_nodes(self, nodes: Collection[EmbeddedNode]) -> None:
        for kinds in (("node",), ("postgres", "valkey")):
            all_at_once([node.parts[kind].stop for node in nodes for kind in kinds], self._cancel)

    # Nodes

    def add_node(self, name: str) -> None:
        """Starts one more node, or a stopped one again. A new one registers itself, and owns no slots yet."""
        with self._changing:
            self._require_running()
            self._begin()
            assert self._layout is not None
            known = name in self._nodes
            if known and self._nodes[name].parts["node"].state is not PartState.STOPPED:
                raise DevError(f"node {name} runs already")
            node = self._nodes[name] if known else self._make_node(layout.check_name(name))
            try:
                self._bring_up_node(node, lambda: None)
                self._await_registered([name], assign=False)
            except BaseException:
                self._stop_nodes([node])
                if not known:
                    del self._layout.nodes[name]
                raise
            self._nodes[name] = node
            self._layout.save()

    def start_node(self, name: str) -> None:
        """Starts a node that was stopped on purpose."""
        self._node(name)
        self.add_node(name)

    def stop_node(self, name: str) -> None:
        """Stops a node with its Postgres and Valkey, on purpose: they stay down until ``start_node``."""
        with self._changing:
            self._require_running()
            node = self._node(name)
            self._stop_nodes([node])
            self._say(f"node {name} stopped")

    def kill(self, name: str, part: str = "node", signal: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal to one part of a node, or of "router" or "topology" (which have one part each).

        With SIGKILL the process is gone when this returns, and supervision starts it again.
        """
        self._require_running()
        if name in layout.RESERVED_NAMES:
            key = (name, {"router": "router", "topology": "postgres"}[name])
        else:
            self._node(name)
            key = (name, part)
        if key not in self.parts:
            raise DevError(f"a node has no part {part!r}, but {', '.join(PARTS)}")
        target = self.parts[key]
        if target.pid is None:
            raise DevError(f"{target.server.what} is not running")
        target.kill(signal)

    def wait_serving(self, timeout: float) -> None:
        """Waits until every part that was not stopped on purpose serves. Raises DevError after ``timeout`` seconds."""
        self._await_serving(timeout, patient=True)

    def _await_serving(self, timeout: float, *, patient: bool) -> None:
        """Not ``patient``: a part that ends by itself is reason enough to give up."""
        deadline = time.monotonic() + timeout
        while waiting := self._not_serving():
            if self._giving_up:
                raise Interrupted("the cluster is being stopped")
            trouble = next((part.trouble for part in self.parts.values() if part.trouble), None)
            if time.monotonic() > deadline or (trouble and not patient):
                raise DevError(trouble or f"not serving after {timeout:.0f} s: {', '.join(waiting)}")
            time.sleep(_PROBE_PAUSE)

    def _not_serving(self) -> list[str]:
        wanted = [part for part in self.parts.values() if part.state is not PartState.STOPPED]
        return [
            part.server.what
            for part in wanted
            if part.state is not PartState.SERVING
            or (isinstance(part.server, Service) and not part.server.is_serving())
        ]

    # Small things

    def _node(self, name: str) -> EmbeddedNode:
        if name not in self._nodes:
            raise DevError(f"there is no node {name}, but {', '.join(self._nodes)}")
        return self._nodes[name]

    def _require_running(self) -> None:
        if self._lock is None:
            raise DevError("the cluster is not running")

    def _say(self, line: str) -> None:
        if self._progress is not None:
            with self._progress_lock:
                self._progress(line)
