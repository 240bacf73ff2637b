#!/bin/sh
# Installs packages.txt from Debian. None of its daemons is started, now or at boot: labs start what
# they need by themselves, with their own configuration, and would find the ports taken.
set -eu
packages=$(dirname "$0")/packages.txt
policy=/usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive

new=
for unit in haproxy nginx memcached; do
    dpkg -s "$unit" > /dev/null 2>&1 || new="$new $unit"
done
# Somebody's own policy stays; whether it starts daemons is theirs to say.
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
apt-get update
xargs apt-get install --yes --no-install-recommends < "$packages"
if [ -n "$new" ] && command -v systemctl > /dev/null; then
    # shellcheck disable=SC2086
    systemctl disable $new
fi
