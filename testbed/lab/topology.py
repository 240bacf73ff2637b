"""What a testbed consists of, as data: a client, an edge router, balancers, servers, a database.

Lives here: the keys of a topology's file, and errors that name file, line and key.
Never here: addresses (`plan`), making anything (`driver`).
Source of the shipped ones: Table 1 of the RLB paper, App. C.2 of the Markov-potential-game paper.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from config.load import load_as
from config.section import Section

FOLDER = Path(__file__).parent / "topologies"
NAME = r"^[a-z][a-z0-9-]*$"

Kind = Literal["apache", "embedded"]
Site = Literal["loop", "static", "wiki-none", "wiki-memcached", "wiki-apcu", "wiki-file"]
NAME_MAX = 24
Name = Annotated[str, Field(pattern=NAME, max_length=NAME_MAX)]
Cores = Annotated[float, Field(ge=0.01, le=64)]
"""CPU time over wall time that a machine gets at most; None: as much as there is."""


class Client(Section):
    """Where load comes from."""

    cores: Cores | None = None


class Balancers(Section):
    """`count` places of balancers behind the edge router, alike."""

    count: Annotated[int, Field(ge=1, le=64)] = 2
    cores: Cores | None = None


class Servers(Section):
    """`count` servers alike: `name`1, `name`2, ...

    workers: requests that one serves at a time. backlog: connections that wait beyond those; what
    comes then is reset. site: the wiki's is the cache that pages come from.
    """

    name: Name
    count: Annotated[int, Field(ge=1, le=100)] = 1
    cores: Cores = 1.0
    kind: Kind = "apache"
    site: Site = "loop"
    workers: Annotated[int, Field(ge=1, le=256)] = 32
    backlog: Annotated[int, Field(ge=1, le=65_535)] = 128

    @model_validator(mode="after")
    def _served(self) -> Servers:
        if self.kind == "embedded" and self.site != "loop":
            raise ValueError(f"an embedded server has no site {self.site}, only loop")
        return self

    @property
    def has_wiki(self) -> bool:
        return self.site.startswith("wiki")


class Server(Servers):
    """One of them: `name` is its own, `group` its group's."""

    group: str


class Database(Section):
    """MariaDB and memcached, for all servers together."""

    cores: Cores | None = None
    memcached_mb: Annotated[int, Field(ge=16, le=4096)] = 128


class Topology(Section):
    """The whole. A database is there whenever a wiki is. port: of the service at the edge.

    groups: the servers, in groups of equal ones; `servers` has them one by one.
    """

    name: Name
    about: str = ""
    client: Client = Client()
    balancers: Balancers = Balancers()
    groups: Annotated[tuple[Servers, ...], Field(alias="servers", strict=False, min_length=1)]
    database: Database | None = None
    port: Annotated[int, Field(ge=1, le=65_535)] = 80

    @model_validator(mode="before")
    @classmethod
    def _with_database(cls, given: object) -> object:
        if isinstance(given, dict) and "database" not in given:
            servers = given.get("servers")
            sites = [s.get("site") for s in servers or () if isinstance(s, dict)]
            if any(isinstance(site, str) and site.startswith("wiki") for site in sites):
                return {**given, "database": {}}
        return given

    @field_validator("groups")
    @classmethod
    def _told_apart(cls, groups: tuple[Servers, ...]) -> tuple[Servers, ...]:
        names = [f"{group.name}{n + 1}" for group in groups for n in range(group.count)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two servers would be called {', '.join(twice)}")
        if len(names) > 100:
            raise ValueError(f"{len(names)} servers, at most 100")
        return groups

    @property
    def servers(self) -> tuple[Server, ...]:
        """Every server."""
        return tuple(
            Server(
                **{**group.model_dump(), "count": 1, "name": f"{group.name}{n + 1}"},
                group=group.name,
            )
            for group in self.groups
            for n in range(group.count)
        )

    @property
    def has_wiki(self) -> bool:
        """Whether any of its servers serves the wiki."""
        return any(group.has_wiki for group in self.groups)

    def serving(self, site: Site) -> Topology:
        """The same with that site on every Apache server."""
        data = self.model_dump(by_alias=True, exclude={"database"} if not self.database else None)
        for group in data["servers"]:
            if group["kind"] == "apache":
                group["site"] = site
        return Topology.model_validate(data)


def names() -> list[str]:
    """Every topology that comes with the testbed."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a topology: one of ours by its name, any other by its path."""
    ours = FOLDER / f"{name}.yaml"
    return ours if ours.is_file() else Path(name)


def load_topology(path: Path) -> Topology:
    """The topology in the file. Raises ConfigError with all of the file's problems."""
    return load_as(Topology, path)
