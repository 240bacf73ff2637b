"""Apache as the papers ran it: its configuration and PHP's, as text.

Lives here: mpm_prefork with as many workers at the start as at most, a bounded backlog, one
connection a request; where each site's pages are. Never here: starting it (`servers`), the pages
(`pages`), MediaWiki's own settings (`wiki`).
Source: 4.2 of the RLB paper, App. C.2.2 of the Markov-potential-game paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from testbed.lab.topology import Server

USER = "www-data"
PORT = 80
SHARED = "shm"
SCOREBOARD = "scoreboard"
PID_FILE = "apache.pid"
ERROR_LOG = "error.log"
PHP_LOG = "php.log"
MODULES = Path("/usr/lib/apache2/modules")
MEDIAWIKI = Path("/var/lib/mediawiki")

SETTINGS = {"net.ipv4.tcp_abort_on_overflow": 1}
"""Of the machine: who finds the backlog full is reset, not left to try again and again."""

_LOADED = ("mpm_prefork", "authz_core", "mime", "dir", "alias", "env", "status")

_PAGES = """\
ServerName {name}
DefaultRuntimeDir {folder}
PidFile {folder}/{pid_file}
ScoreBoardFile {folder}/{scoreboard}
ErrorLog {folder}/{error_log}
LogLevel warn
User {user}
Group {user}
Listen 0.0.0.0:{port}
ListenBacklog {backlog}
KeepAlive Off
ServerTokens Prod
ExtendedStatus Off
TypesConfig /etc/mime.types
ServerLimit {workers}
MaxRequestWorkers {workers}
StartServers {workers}
MinSpareServers {workers}
MaxSpareServers {workers}
MaxConnectionsPerChild 0
PHPIniDir {folder}
DirectoryIndex index.php index.html
DocumentRoot {pages}
<Directory {pages}>
    Require all granted
</Directory>
<FilesMatch "\\.php$">
    SetHandler application/x-httpd-php
</FilesMatch>
<Location /server-status>
    SetHandler server-status
</Location>
"""

_WIKI = """\
Alias /wiki {mediawiki}
<Directory {mediawiki}>
    Options FollowSymLinks
    Require all granted
</Directory>
<DirectoryMatch ^/usr/share/mediawiki(-|/)>
    Require all granted
</DirectoryMatch>
"""


def configuration(
    server: Server, folder: Path, pages: Path, php: Path, environment: Mapping[str, str]
) -> str:
    """The whole of httpd.conf. It includes nothing: no setting of this host's gets in.

    folder: the server's own. pages: DocumentRoot. php: the module's file. environment: what PHP
    sees of the wiki; nothing where there is none.
    """
    load = [f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in _LOADED]
    text = "\n".join([*load, f"LoadModule php_module {php}", ""]) + _PAGES.format(
        name=server.name,
        folder=folder,
        pid_file=PID_FILE,
        scoreboard=SCOREBOARD,
        error_log=ERROR_LOG,
        user=USER,
        port=PORT,
        backlog=server.backlog,
        workers=server.workers,
        pages=pages,
    )
    if environment:
        text += _WIKI.format(mediawiki=MEDIAWIKI)
        text += "".join(f"SetEnv {name} {value}\n" for name, value in environment.items())
    return text


def php_settings(folder: Path) -> str:
    """The php.ini that stands in the place of this host's.

    A request under a small quota may take long: nothing but the client gives up on it.
    """
    return (
        "max_execution_time = 0\nmemory_limit = 256M\nexpose_php = Off\n"
        f"error_log = {folder}/{PHP_LOG}\ndisplay_errors = Off\nlog_errors = On\n"
        "opcache.enable = 1\nopcache.memory_consumption = 96\nopcache.validate_timestamps = 0\n"
        "apc.enabled = 1\napc.shm_size = 64M\n"
    )


def php_module() -> Path | None:
    """The newest PHP module for Apache that is installed; None if none is."""
    return max(MODULES.glob("libphp*.so"), default=None)
