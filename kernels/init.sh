#!/bin/sh
# The first process of the virtual machine that run.sh boots. It runs every test
# binary in /tests as root and as an ordinary user, tells on the console what
# became of it, and switches the machine off. The lines for run.sh begin with @.
/bin/busybox --install -s
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/tmp TMPDIR=/tmp VDESTACK_PROGRAMS=/tests/programs
ulimit -Hn 524288 # as systemd has it

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p /run /var/run /tmp/log
ip link set lo up
# Others are loaded by the kernel when they are asked for, as on Debian.
modprobe -a tun veth || echo "@fail modules: tun and veth could not be loaded"
chmod 0666 /dev/net/tun
dmesg -n 1

echo "@kernel $(uname -r)"
. /tests/limits # run_limit: seconds for a test binary

# processes sets left to the processes of user space, but for this one. It must
# not start any itself.
processes() {
	left=
	for dir in /proc/[0-9]*; do
		pid=${dir#/proc/}
		if [ "$pid" != 1 ] && [ -e "$dir/exe" ]; then
			left="$left $pid"
		fi
	done
}

# ended waits until nothing of a test is left. Processes that were killed need a
# moment.
ended() {
	for try in 1 2 3 4 5 6 7 8 9 10; do
		processes
		[ -n "$left" ] || return 0
		sleep 0.5
	done
	for pid in $left; do
		echo "@fail $1: process $pid is left: $(tr '\0' ' ' <"/proc/$pid/cmdline")"
		kill -9 "$pid"
	done
	return 1
}

as() {
	case $1 in root) id=0 ;; nobody) id=65534 ;; esac
	shift
	exec setpriv --reuid $id --regid $id --clear-groups "$@"
}

# run runs a test binary: run PACKAGE USER
run() {
	cd "/tests/$1" || return
	log=/tmp/log/$1.$2
	start=$(cut -d. -f1 /proc/uptime)
	read -r pattern skip <pattern
	(as "$2" ./test -test.v -test.run "$pattern" -test.skip "$skip" -test.timeout "${run_limit}s") >"$log" 2>&1 </dev/null
	status=$?
	result=ok
	[ $status = 0 ] || result=FAIL
	ended "$1 as $2" || result=FAIL
	while read -r of test by; do
		if [ "$of" = "$1" ] && [ "${by:-$2}" = "$2" ] && ! grep -q "^--- PASS: $test " "$log"; then
			echo "@fail $1 as $2: $test did not run and pass"
			result=FAIL
		fi
	done </tests/must
	echo "@run $1 $2 $result $(grep -c '^--- PASS' "$log") $(grep -c '^ *--- SKIP' "$log") \
$(grep -c '^ *--- FAIL' "$log") $(($(cut -d. -f1 /proc/uptime) - start))"
	# The reason of a skip is what the test said last.
	awk -v who="$1 $2" '
		/^=== (RUN|CONT|NAME)/ { test = $3 }
		/^ +[a-z_]+_test\.go:[0-9]+: / { said[test] = $0; sub(/^[^:]*:[0-9]+: /, "", said[test]) }
		/^ *--- SKIP/ { print "@skip", who, $3 ": " said[$3] }' "$log"
	if [ $result = FAIL ]; then
		echo "@fail $1 as $2: exit status $status"
		sed "s/^/@log $1 $2 /" "$log"
	fi
}

for dir in /tests/*/test; do
	package=$(basename "${dir%/test}")
	for user in $(cat "${dir%/test}/users"); do
		run "$package" $user
	done
done
dmesg | grep -E 'BUG|WARNING|Oops|Call [Tt]race|refcount_t|unregister_netdevice|blocked for more than' | sed 's/^/@fail kernel: /'
echo "@end"
poweroff -f
