# What people do in a Debian root, from a bare one on. Run by real_system.rs inside the view, with bash -eu;
# stdin is the machine's bundle of certificate authorities; $HTTP and $REDIS are free ports.
step() { echo "step: $*"; }
fail() { echo "failed: $*"; exit 1; }
export DEBIAN_FRONTEND=noninteractive

step certificates
mkdir -p /etc/ssl/certs
cat > /tmp/ca
if [ -s /tmp/ca ]; then cp /tmp/ca /etc/ssl/certs/ca-certificates.crt; fi
# There is no init to start services.
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

step apt
apt-get -qq update
apt-get -qq install -y nginx-light redis-server git gcc libc6-dev sqlite3 > /tmp/apt.log 2>&1 || { tail -30 /tmp/apt.log; exit 1; }
dpkg --audit
dpkg --verify || fail "dpkg --verify"
apt-get check -qq

step redis
mkdir -p /srv/redis
redis() { redis-cli -p "$REDIS" "$@"; }
redis_up() {
    redis-server --port "$REDIS" --bind 127.0.0.1 --dir /srv/redis --appendonly yes --daemonize yes --logfile /srv/redis/log > /dev/null
    for _ in $(seq 100); do [ "$(redis ping 2>/dev/null)" = PONG ] && return; sleep 0.1; done
    tail /srv/redis/log; fail "redis does not answer"
}
redis_up
redis set greeting hello > /dev/null
for _ in $(seq 50); do redis incr counter > /dev/null; done
redis bgrewriteaof > /dev/null
redis shutdown nosave || true
redis_up
[ "$(redis get greeting) $(redis get counter)" = "hello 50" ] || fail "redis lost its append-only file"
redis shutdown nosave || true

step nginx
mkdir -p /srv/www
head -c 5000000 /dev/urandom > /srv/www/file
cat > /srv/nginx.conf <<EOF
pid /srv/nginx.pid;
error_log /srv/nginx.log;
events {}
http { access_log /srv/access.log; server { listen 127.0.0.1:$HTTP; root /srv/www; } }
EOF
chmod 755 /srv /srv/www
nginx -c /srv/nginx.conf
get() {
    exec 3<> "/dev/tcp/127.0.0.1/$HTTP"
    printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&3
    # The head ends with an empty line; what follows is the file.
    head=1
    while [ $head = 1 ] && IFS= read -r line <&3; do [ "$line" = $'\r' ] && head=0; done
    cat <&3
    exec 3<&-
}
get /file | cmp - /srv/www/file || fail "nginx serves something else"
echo replaced > /srv/www/new; mv /srv/www/new /srv/www/file
[ "$(get /file)" = replaced ] || fail "nginx serves a file that is gone"
nginx -c /srv/nginx.conf -s quit

step git
export HOME=/root GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
git init -q -b main /srv/repo
cd /srv/repo
for i in $(seq 300); do mkdir -p "d$((i % 7))"; echo "content $i" > "d$((i % 7))/f$i"; done
git add . && git commit -qm one
git mv d0 moved && git commit -qm two
git gc -q
git clone -q /srv/repo /srv/clone
git -C /srv/clone fsck --full --strict 2>&1 | grep -v '^notice' && fail "git fsck"
[ -z "$(git -C /srv/clone status --porcelain)" ] || fail "the clone is not clean"
[ "$(git -C /srv/clone ls-files | wc -l)" = 300 ] || fail "files are missing"
cd /

step gcc
cat > /tmp/hello.c <<'EOF'
#include <stdio.h>
int main(void) { printf("hello from %s\n", __VERSION__[0] ? "gcc" : ""); return 0; }
EOF
gcc -O2 -o /usr/local/bin/hello /tmp/hello.c
[ "$(hello)" = "hello from gcc" ] || fail "the program says something else"

step sqlite
for mode in wal delete; do
    db=/srv/$mode.db
    [ "$(sqlite3 $db "PRAGMA journal_mode=$mode; CREATE TABLE t(id INTEGER PRIMARY KEY, who TEXT, n INTEGER);")" = $mode ] \
        || fail "no journal mode $mode"
    writer() {
        { echo ".timeout 300000"
          for i in $(seq 5000); do echo "BEGIN IMMEDIATE; INSERT INTO t(who, n) VALUES('$1', $i); COMMIT;"; done
        } | sqlite3 -bail $db
    }
    writer a & one=$!
    writer b & two=$!
    wait $one || fail "sqlite $mode, first writer"
    wait $two || fail "sqlite $mode, second writer"
    [ "$(sqlite3 $db 'PRAGMA integrity_check')" = ok ] || fail "sqlite $mode: integrity_check"
    [ "$(sqlite3 $db 'SELECT count(*), count(DISTINCT who), max(n) FROM t')" = "10000|2|5000" ] || fail "sqlite $mode: lost"
done

echo all is well
