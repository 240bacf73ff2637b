"""MediaWiki with its pages, built once on a host and copied into each lab that asks for it.

Lives here: building the copy's original, MediaWiki's settings, MariaDB's and memcached's commands.
Never here: the text of pages (`pages`), Apache (`apache`), machines (`namespaces`).

The original is a folder below `CACHE`, named by what it was made of: MariaDB's data with the pages
in it, and MediaWiki's messages, parsed. It is made under another name first, so that one that is
there is whole.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed.lab import apache, pages
from testbed.lab.driver import LabError
from testbed.lab.record import locked
from testbed.lab.topology import Database, Site
from testbed.processes import Children

CACHE = Path("/var/cache/lbd-lab")
DATABASE_PORT, MEMCACHED_PORT = 3306, 11_211

_MAINTENANCE = Path("/usr/share/mediawiki/maintenance")
_NAME = "wiki"
_RECIPE = "1"
"""Another one for another way of building: what was built so far is another's then."""
_READY_S = 60.0
_STEP_S = 900.0
_END_S = 60.0
_CONNECTIONS_SPARE = 50

_SETTINGS = """\
<?php
// Read by every server's PHP: what differs between them is in their environment.
if (!defined('MEDIAWIKI')) {
    exit;
}
$wgSitename = 'Lab';
$wgServer = 'http://wiki.invalid';
$wgScriptPath = '/wiki';
$wgArticlePath = '/wiki/index.php/$1';
$wgDBtype = 'mysql';
$wgDBserver = getenv('LAB_DATABASE');
$wgDBname = $wgDBuser = $wgDBpassword = 'wiki';
$wgDBTableOptions = 'ENGINE=InnoDB, DEFAULT CHARSET=binary';
$wgSecretKey = '{secret}';
$wgEnableEmail = false;
$wgPingback = false;
$wgDiff3 = '';
$wgDefaultSkin = 'vector';
wfLoadSkin('Vector');
// Nothing but what is asked for: no jobs at the end of requests, no statistics.
$wgJobRunRate = 0;
$wgMiserMode = true;
$wgLocalisationCacheConf['store'] = 'array';
$wgLocalisationCacheConf['storeDirectory'] = '{messages}';
$wgLocalisationCacheConf['manualRecache'] = true;
$cache = getenv('LAB_CACHE');
$where = ['none' => CACHE_NONE, 'memcached' => CACHE_MEMCACHED][$cache] ?? CACHE_ACCEL;
$wgMainCacheType = $wgMessageCacheType = $wgParserCacheType = $where;
$wgMemCachedServers = [getenv('LAB_MEMCACHED')];
if ($cache === 'file') {
    $wgUseFileCache = true;
    $wgFileCacheDirectory = getenv('LAB_CACHE_FOLDER');
}
"""


def original(cache: Path = CACHE) -> Path:
    """The folder of the original, built now where it is not there; that takes a minute or two.

    Raises LabError where a step of it fails, OSError where `cache` cannot be written to.
    """
    texts = pages.wiki_texts()
    found = cache / f"wiki-{_made_of(texts)}"
    with locked(cache):
        if not found.exists():
            # Of that name and under the lock: only a build that was killed leaves one.
            draft = cache / f".{found.name}"
            if draft.exists():
                shutil.rmtree(draft)
            draft.mkdir(mode=0o755)
            try:
                _build(draft, texts)
                draft.rename(found)
            except BaseException:
                shutil.rmtree(draft)
                raise
    return found


def copy(folder: Path, cache: Path = CACHE, seen_at: Path | None = None) -> None:
    """What a lab's database and servers need of it: `mysql`, `messages`, the settings.

    seen_at: where servers find the folder, if not where it is.
    """
    source = original(cache)
    # Data of mostly empty files: without reflinks they stay sparse at least.
    argv = ["cp", "--archive", "--sparse=always", "--reflink=auto"]
    _run([*argv, str(source / "mysql"), str(source / "messages"), str(folder)], {})
    settings_file(folder).write_text(_settings((seen_at or folder) / "messages"))
    # Caches are of pages since then: the settings' age says nothing about them.
    os.utime(settings_file(folder), (0, 0))


def settings_file(folder: Path) -> Path:
    """MediaWiki's settings in the folder of a copy."""
    return folder / "LocalSettings.php"


def environment(folder: Path, database: str, site: Site, own: Path) -> dict[str, str]:
    """What PHP on a server sees of the wiki. own: a folder of the server's."""
    return {
        "MW_CONFIG_FILE": str(settings_file(folder)),
        "LAB_DATABASE": f"{database}:{DATABASE_PORT}",
        "LAB_MEMCACHED": f"{database}:{MEMCACHED_PORT}",
        "LAB_CACHE": site.removeprefix("wiki-"),
        "LAB_CACHE_FOLDER": str(own),
    }


def mariadb(folder: Path, address: str, connections: int) -> list[str]:
    """The command line of the copy's database. connections: that servers may open."""
    return [
        *_mariadb(folder),
        f"--bind-address={address}",
        f"--port={DATABASE_PORT}",
        f"--max-connections={connections + _CONNECTIONS_SPARE}",
    ]


def memcached(database: Database, address: str) -> list[str]:
    """The command line of memcached."""
    argv = ["memcached", "-u", apache.USER, "-l", address, "-p", str(MEMCACHED_PORT), "-U", "0"]
    return [*argv, "-m", str(database.memcached_mb)]


def _mariadb(folder: Path) -> list[str]:
    return [
        "mariadbd",
        "--no-defaults",
        f"--user={apache.USER}",
        f"--datadir={folder / 'mysql'}",
        f"--socket={_socket(folder)}",
        f"--pid-file={folder / 'mysql' / 'mysql.pid'}",
        "--skip-name-resolve",
        "--skip-log-bin",
        "--innodb-log-file-size=16M",
        "--innodb-buffer-pool-size=128M",
        # Nothing here is worth a write to the disk for each change.
        "--innodb-flush-log-at-trx-commit=0",
    ]


def _socket(folder: Path) -> Path:
    return folder / "mysql" / "mysql.sock"


def _settings(messages: Path) -> str:
    text = _SETTINGS.replace("{messages}", str(messages))
    return text.replace("{secret}", secrets.token_hex(32))


def _made_of(texts: Mapping[str, str]) -> str:
    """A digest of all that the original depends on."""
    parts = [
        _RECIPE,
        (apache.MEDIAWIKI / "includes" / "Defines.php").read_text(),
        _run(["mariadbd", "--no-defaults", "--version"], {}),
        *texts.values(),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _build(folder: Path, texts: Mapping[str, str]) -> None:
    shutil.chown(folder, apache.USER, apache.USER)
    _run(
        [
            *["mariadb-install-db", "--no-defaults", f"--user={apache.USER}"],
            *[f"--datadir={folder / 'mysql'}", "--skip-test-db", "--innodb-log-file-size=16M"],
            "--auth-root-authentication-method=normal",
        ],
        {},
    )
    with Children() as children:
        server = children.start("MariaDB", [*_mariadb(folder), "--skip-networking"])
        _until_answering(folder)
        _install(folder, texts)
        # An orderly end: a copy of data in good order starts at once.
        server.stop(_END_S)


def _until_answering(folder: Path) -> None:
    until_s = time.monotonic() + _READY_S
    while True:
        try:
            _sql(folder, "select 1")
            return
        except LabError:
            if time.monotonic() > until_s:
                raise
        time.sleep(0.1)


def _install(folder: Path, texts: Mapping[str, str]) -> None:
    grants = "".join(
        f"create user {_NAME}@'{host}' identified by '{_NAME}';"
        f"grant all on {_NAME}.* to {_NAME}@'{host}';"
        for host in ("%", "localhost")
    )
    _sql(folder, f"create database {_NAME} character set binary; {grants}")
    (folder / "messages").mkdir()
    local = f"localhost:{_socket(folder)}"
    php = {
        "MW_CONFIG_FILE": str(settings_file(folder)),
        "LAB_DATABASE": local,
        "LAB_MEMCACHED": "",
        "LAB_CACHE": "none",
        "LAB_CACHE_FOLDER": "",
    }
    account = {"dbname": _NAME, "dbuser": _NAME, "dbpass": _NAME}
    account |= {"installdbuser": _NAME, "installdbpass": _NAME}
    options = {"dbtype": "mysql", "dbserver": local, **account}
    options |= {"server": "http://wiki.invalid", "scriptpath": "/wiki", "confpath": str(folder)}
    options |= {"pass": secrets.token_urlsafe(18), "skins": "Vector"}
    flags = [f"--{name}={value}" for name, value in options.items()]
    _php("install.php", [*flags, "Lab", "Admin"], php)
    settings_file(folder).write_text(_settings(folder / "messages"))
    _php("rebuildLocalisationCache.php", ["--lang=en"], php)
    text = folder / "text"
    text.mkdir()
    files = [str(text / f"{title}.txt") for title in texts]
    # importTextFiles.php takes titles from the names of files.
    for file, written in zip(files, texts.values(), strict=True):
        Path(file).write_text(written)
    _php("importTextFiles.php", ["--bot", "--overwrite", "-s", "generated", *files], php)
    _php("runJobs.php", [], php)
    _php("initSiteStats.php", ["--update"], php)
    shutil.rmtree(text)


def _php(script: str, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    _run(["php", str(_MAINTENANCE / script), *arguments], environ)


def _sql(folder: Path, statement: str) -> None:
    _run(["mariadb", "--no-defaults", "-uroot", f"--socket={_socket(folder)}", "-e", statement], {})


def _run(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    done = subprocess.run(
        argv,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_STEP_S,
    )
    if done.returncode:
        said = "\n".join(done.stdout.splitlines()[-20:])
        raise LabError(f"{Path(argv[0]).name} ended with {done.returncode}:\n{said}")
    return done.stdout
