"""The services that a guest can run: where their programs come from and how they are started.

A script starts its service in the foreground; its second line names the port that must be open for
the service to be ready. All of them can run side by side, so the web servers have ports of their
own. Every web server serves the same files, whose contents `ground.stream` gives.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from backends.qemu.errors import LiveError

WEB_FILES: Mapping[str, int] = {"1k": 1 << 10, "16k": 1 << 14, "64k": 1 << 16, "1m": 1 << 20}
WEB_INDEX = b"<!doctype html><title>guest</title><p>It works.\n"


@dataclass(frozen=True, slots=True)
class Service:
    """One service. ``files`` are taken from the packages, ``texts`` are written as they are."""

    port: int
    command: str
    packages: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    web: bool = False

    @property
    def script(self) -> str:
        return f"#!/bin/sh\n# {self.port}\nexec {self.command}\n"


_NGINX = """\
user root;
worker_processes 1;
daemon off;
pid /run/nginx.pid;
error_log stderr;
events { worker_connections 512; }
http {
  access_log off;
  sendfile on;
  # header and body in one segment: passt would hold the second until the first is acknowledged
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_requests 1000000;
  default_type application/octet-stream;
  types { text/html html; }
  open_file_cache max=64;
  client_body_temp_path /tmp/body;
  proxy_temp_path /tmp/proxy;
  fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi;
  server { listen 80; root /www; index index.html; }
}
"""

_LIGHTTPD = """\
server.port = 8080
server.bind = "0.0.0.0"
server.document-root = "/www"
server.compat-module-load = "disable"
server.modules = ( "mod_indexfile", "mod_staticfile" )
server.upload-dirs = ( "/tmp" )
index-file.names = ( "index.html" )
mimetype.assign = ( ".html" => "text/html", "" => "application/octet-stream" )
"""

SERVICES: Mapping[str, Service] = {
    "ground": Service(5000, '/bin/ground serial=/dev/ttyS1 ${GROUND:+"$GROUND"}'),
    "redis": Service(
        6379,
        "/usr/bin/redis-server --bind 0.0.0.0 --protected-mode no --save '' --appendonly no"
        " --daemonize no --loglevel warning --dir /tmp",
        packages=("redis-server", "redis-tools"),
        files=("usr/bin/redis-server",),
    ),
    "nginx": Service(
        80,
        "/usr/sbin/nginx -e stderr -c /etc/nginx.conf",
        packages=("nginx",),
        files=("usr/sbin/nginx",),
        texts={"etc/nginx.conf": _NGINX},
        folders=("usr/share/nginx", "var/log/nginx", "var/lib/nginx"),
        web=True,
    ),
    "lighttpd": Service(
        8080,
        "/usr/sbin/lighttpd -D -f /etc/lighttpd.conf",
        packages=("lighttpd",),
        files=("usr/sbin/lighttpd",),
        texts={"etc/lighttpd.conf": _LIGHTTPD},
        web=True,
    ),
    "memcached": Service(
        11211,
        "/usr/bin/memcached -u root -l 0.0.0.0 -m 16 -t 1",
        packages=("memcached",),
        files=("usr/bin/memcached",),
    ),
    "httpd": Service(8081, "/bin/httpd -f -p 0.0.0.0:8081 -h /www", web=True),
}


def chosen(services: Collection[str]) -> tuple[str, ...]:
    """Return the services asked for, each once, in the order of `SERVICES`.

    Raises LiveError for an unknown name and for none at all.
    """
    unknown = sorted(set(services) - set(SERVICES))
    if unknown or not services:
        what = f"guest has no service {', '.join(unknown)}" if unknown else "guest has no services"
        raise LiveError(f"{what}: choose one or more of {', '.join(SERVICES)}")
    return tuple(name for name in SERVICES if name in services)
