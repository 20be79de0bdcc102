#!/bin/bash
# Runs the tests on kernels that users have: Debian's, on amd64 and arm64. Each is
# booted by qemu from an initramfs that holds the static test binaries and a few
# Debian programs, and runs them as root and as an ordinary user (init.sh).
#
#	kernels/run.sh [-1] [-a] [-f] [-i] [-v] [suite/architecture ...]
#
# Without arguments: the kernels of Debian 12. -1 runs each test once: what depends on the
# architecture too as root on amd64 and as the ordinary user on arm64, the rest on amd64, as
# the ordinary user if both can. -a adds the newer ones of Debian 13 and
# of the backports to both. -f runs every test of every package, not only those that
# depend on the kernel; that takes its time where the machine is emulated. -i only
# installs the programs that this script calls. -v shows why tests were skipped.
#
# Nothing is installed on the machine but, as root on Debian, the programs that
# this script calls. Kernels and programs for the machines are downloaded once a
# day to $XDG_CACHE_HOME or /tmp, from where apt has its packages. A machine that
# hangs is ended after its time, which does not depend on how busy this computer is.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
module=$(GOWORK=off go list -m)

stable=(bookworm/amd64 bookworm/arm64)
newer=(bookworm-backports/amd64 bookworm-backports/arm64 trixie/amd64 trixie/arm64
	trixie-backports/amd64 trixie-backports/arm64)
mirror=http://deb.debian.org/debian
security=http://deb.debian.org/debian-security
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# Programs in the machine, from Debian 12 whatever the kernel is.
userland=(base-passwd busybox-static dash iproute2 iputils-ping libc-bin procps tcpdump util-linux vde2 vdeplug)
# Modules, with what they depend on. The tests ask for no others.
modules=(tun veth bridge dummy macvlan vxlan 8021q tcp_diag udp_diag raw_diag inet_diag
	unix_diag af_packet_diag netlink_diag sch_fq sch_fq_codel wireguard)

# What runs without -f: package, pattern of its tests, pattern of those to skip:
# what depends on the kernel, without what takes long where it is emulated.
tests=(
	"internal/netns ." "internal/rlimit ." "rtnl . WatchOverrun"
	"vdeplug TAP|Mem|Cmd|Conn$" "vdestack . SwitchErrors|PlugErrors|LocatorErrors|PlugFileErrors|ConfigErrors"
	"stack . Capture|Reconnect|Netemu|UserSpace|FirstFrame|PlugEnds|PlugsLeave|StatsTruth"
	"internal/test/lifecycle . Many|KillShared" "internal/test/permissions ."
	"internal/test/conformance ECN|PacketInfo|DontFragment|GSO"
	"autoconf Apply|Conflict|Kernel|DownUp|Eth" "autoconf/internal/link ."
	"wireguard KernelLink"
)
# Those of them that depend on the architecture: its calls, its assembly, its layouts.
native=(internal/netns internal/rlimit internal/test/lifecycle internal/test/conformance rtnl vdestack)
# Those of the rest that -1 runs as root: some of their tests need it.
privileged=(vdeplug)
# Tests that must have run and passed in every machine that has their package: package,
# with - for /, the test, and the user if one of the two cannot run it.
must=(
	"internal-netns TestSocket" "internal-netns TestSocketPoolFresh"
	"internal-netns TestStart" "internal-netns TestWithoutUserNS"
	"internal-test-lifecycle TestKill" "internal-test-lifecycle TestHelperKilled"
	"internal-test-lifecycle TestJoin" "internal-test-lifecycle TestSurroundings"
	"internal-test-permissions TestRefusals" "internal-test-conformance TestPacketInfo"
	"autoconf TestApply" "autoconf TestConflict" "wireguard TestKernelLink"
	"rtnl TestLinks" "rtnl TestAddrs" "rtnl TestRoutes" "rtnl TestWatch"
	"vdeplug TestTAPFrames root" "vdeplug TestConn" "vdeplug TestCmdKilled"
	"vdestack TestConn" "vdestack TestUDP" "vdestack TestEscape" "vdestack TestString"
	"vdestack TestHTTP" "vdestack TestCloseSockets" "stack TestInterfaces"
	"stack TestCommand" "stack TestShared" "stack TestMixedMTU" "stack TestCloseKillsCommands"
)

step() { printf '== %s (%ds)\n' "$*" $SECONDS; }
die() { echo "kernels/run.sh: $*" >&2; exit 1; }

# In seconds: of a processor of the host for a machine, of the machine's own clock
# for one test binary in it. A third of the first is enough where the machine is
# emulated. One that idles takes no time of the processor if it is not; the clock of
# the host, with four times as much, ends that.
machine_limit=1800
run_limit=600
memory=1G

verbose= full= once= install=
while getopts 1afiv opt; do
	case $opt in
	1) once=1 ;;
	a) stable+=("${newer[@]}") ;;
	f) full=1 machine_limit=$((4 * machine_limit)) run_limit=$((3 * run_limit)) memory=2G ;;
	i) install=1 ;;
	v) verbose=1 ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || set -- "${stable[@]}"
for kernel; do
	[[ $kernel =~ ^[a-z-]+/(amd64|arm64)$ ]] || die "$kernel: want suite/architecture, such as bookworm/arm64"
done

command -v apt-get >/dev/null || die "the kernels come from Debian, by apt-get"
missing=()
while read -r program package; do
	command -v "$program" >/dev/null || [ -e "$program" ] || missing+=("$package")
done <<-END
	qemu-system-x86_64 qemu-system-x86
	qemu-system-aarch64 qemu-system-arm
	cpio cpio
	depmod kmod
	xz xz-utils
	zstd zstd
	$keyring debian-archive-keyring
END
if [ ${#missing[@]} -gt 0 ]; then
	[ "$(id -u)" = 0 ] || die "missing: apt-get install ${missing[*]}"
	step "installing ${missing[*]}"
	timeout 120 apt-get update -q >/dev/null
	DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
fi

[ -z "$install" ] || exit 0

cache=${XDG_CACHE_HOME:-/tmp}/vdestack-kernels-$(id -u)
mkdir -p -m 700 "$cache"
[ -O "$cache" ] || die "$cache belongs to somebody else"
exec 9>"$cache/lock"
flock -w 300 9 || die "another run has been downloading to $cache for long"
work=$(mktemp -d "$cache/run.XXXXXX")
# A machine is ended with the script.
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT

# sources takes mirror and security from apt's own configuration, where this is
# Debian and they are called as mirrors are.
sources() {
	local id codename uri release
	id=$(. /etc/os-release && echo "$ID") codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	[ "$id" = debian ] || return 0
	while read -r uri release; do
		case $uri,$release in
		*/debian/,"$codename") mirror=${uri%/} ;;
		*/debian-security/,"$codename-security") security=${uri%/} ;;
		esac
	done < <(apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE)' "Component: main")
}
sources

# fresh says whether a download of the last day is there.
fresh() { [ -n "$(find "$1" -maxdepth 0 -mtime -1 2>/dev/null)" ]; }

# limited SECONDS COMMAND... limits the processor time. How long the rest takes depends on
# what else the machine does, and apt itself gives up a server that sends nothing.
limited() { (ulimit -t "$1" && shift && exec "$@"); }

# private_apt SUITE ARCHITECTURE writes an apt configuration that touches nothing
# outside the cache and believes that no package is installed.
private_apt() {
	local dir=$cache/apt/$1/$2
	mkdir -p "$dir"/{lists,archives}/partial "$dir/none"
	: >"$dir/status"
	echo "deb [signed-by=$keyring] $mirror $1 main" >"$dir/sources.list"
	case $1 in *-backports | sid) ;; *)
		echo "deb [signed-by=$keyring] $security $1-security main" >>"$dir/sources.list" ;;
	esac
	cat >"$dir/apt.conf" <<-END
		APT::Architecture "$2";
		#clear APT::Architectures;
		APT::Architectures { "$2"; };
		APT::Sandbox::User "";
		APT::Get::Assume-Yes "true";
		APT::Install-Recommends "false";
		Acquire::Languages "none";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		Acquire::Retries "2";
		Acquire::http::Timeout "20";
		Dir::Etc::sourcelist "$dir/sources.list";
		Dir::Etc::sourceparts "-";
		Dir::Etc::preferences "$dir/none/none";
		Dir::Etc::preferencesparts "$dir/none";
		Dir::State "$dir";
		Dir::State::lists "$dir/lists";
		Dir::State::status "$dir/status";
		Dir::Cache "$dir";
		Dir::Cache::archives "$dir/archives";
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
		#clear DPkg::Post-Invoke;
		#clear DPkg::Pre-Install-Pkgs;
	END
	conf=$dir/apt.conf archives=$dir/archives
	if ! fresh "$dir/updated"; then
		limited 120 apt-get -q -c "$conf" update >"$dir/log" 2>&1 || { cat "$dir/log"; die "no package lists of $1"; }
		touch "$dir/updated"
	fi
}

# extract DIRECTORY DEB... fills a directory, all or nothing.
extract() {
	local dir=$1
	shift
	rm -rf "$dir" "$dir.new"
	mkdir -p "$dir.new"
	for deb; do
		dpkg-deb -x "$deb" "$dir.new"
	done
	rm -f "$@"
	mv "$dir.new" "$dir"
	touch "$dir"
}

# get_userland ARCHITECTURE
get_userland() {
	local dir=$cache/userland-$1
	fresh "$dir" && [ "$(cat "$dir.list" 2>/dev/null)" = "${userland[*]}" ] && return
	private_apt bookworm "$1"
	limited 400 apt-get -q -c "$conf" install --download-only "${userland[@]}" >"$work/log" 2>&1 ||
		{ cat "$work/log"; die "no programs for $1"; }
	extract "$dir" "$archives"/*.deb
	rm -rf "$dir"/usr/{include,games,src} "$dir"/usr/lib/*/{gconv,perl*} \
		"$dir"/usr/share/{doc,man,locale,perl*,info,lintian,bash-completion,bug,pam*,zsh}
	echo "${userland[*]}" >"$dir.list"
}

# get_kernel SUITE ARCHITECTURE
get_kernel() {
	local dir=$cache/kernel-$1-$2
	fresh "$dir" && return
	private_apt "$1" "$2"
	# Newer kernels come in several packages.
	limited 400 bash -euc '
		cd "$2"
		apt-get -q -c "$1" download $(apt-cache -c "$1" --recurse --no-recommends --no-suggests --important depends linux-image-$3 |
			grep -oE "^ *linux-(image|binary|modules|base)-[0-9][^ ]*" | sort -u)
	' _ "$conf" "$archives" "$2" >"$work/log" 2>&1 || { cat "$work/log"; die "no kernel $1/$2"; }
	extract "$dir" "$archives"/linux-*.deb
}

# build ARCHITECTURE makes the test binaries.
build() {
	local out=$work/tests-$1 pkg dir name pattern
	mkdir -p "$out"
	while read -r pkg dir; do
		name=${pkg#"$module"/}
		name=${name##*"$module"} # the package at the root
		name=${name:-vdestack}
		pattern=.
		if [ -z "$full" ]; then
			pattern=$(printf '%s\n' "${tests[@]}" | awk -v name="$name" '$1 == name { print $2, $3 }')
			[ -n "$pattern" ] || continue
		fi
		users=$(users "$1" "$name")
		[ -n "$users" ] || continue
		name=${name//\//-}
		CGO_ENABLED=0 GOOS=linux GOARCH=$1 limited 600 go test -ldflags="-s -w" -c -o "$out/$name/test" "$pkg"
		echo "$pattern" >"$out/$name/pattern"
		echo "$users" >"$out/$name/users"
		[ ! -d "$dir/testdata" ] || cp -R "$dir/testdata" "$out/$name/"
	done < <(cd .. && GOOS=linux GOARCH=$1 go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}' ./... ./autoconf/... ./vdens/... ./wireguard/...)
	printf '%s\n' "${must[@]}" >"$out/must"
	for name in "${tests[@]}"; do
		name=${name%% *}
		[ -d "$out/${name//\//-}" ] || [ -z "$(users "$1" "$name")" ] || die "there are no tests of $name"
	done
	while read -r name _; do
		printf '%s\n' "${tests[@]%% *}" | tr / - | grep -qx -e "$name" || die "there are no tests of $name"
	done <"$out/must"
	[ -z "$full" ] || (cd .. && CGO_ENABLED=0 GOOS=linux GOARCH=$1 limited 600 go build -o "$out/programs/" ./echo_example ./http_example ./vdens ./slirp/slirp_plug)
	chmod -R a+rX "$out"
}

# add_modules KERNEL ROOT copies the modules to a root file system.
add_modules() {
	local base=$1 version file to
	[ -d "$base/lib/modules" ] || base+=/usr
	version=$(basename "$base"/lib/modules/*)
	depmod -b "$base" "$version"
	for m in "${modules[@]}"; do
		modprobe -q -d "$base" -S "$version" --show-depends "$m" || true
	done | awk '$1 == "insmod" { print $2 }' | sort -u | while read -r file; do
		to=$2/lib/modules/$version/${file##*/}
		mkdir -p "${to%/*}"
		case $file in
		*.xz) xz -dc "$file" >"${to%.xz}" ;;
		*.zst) zstd -qdc "$file" >"${to%.zst}" ;;
		*) cp "$file" "$to" ;;
		esac
	done
	cp "$base/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$2/lib/modules/$version/"
	depmod -b "$2" "$version"
}

# machine ARCHITECTURE sets qemu to the command of a machine, and console to the
# kernel's name of its serial port. The clock of an emulated one counts instructions
# (500 million a second) and jumps while it sleeps: what the tests say of time holds
# however busy the host is. That takes one processor; with two, qemu 7.2 also
# confuses kernels that change their code while they run (int3 in a static branch,
# seen on amd64 with Linux 7.3).
machine() {
	local cpu=max
	case $1 in
	amd64) qemu=(qemu-system-x86_64 -M q35) console=ttyS0 ;;
	arm64) qemu=(qemu-system-aarch64 -M virt) console=ttyAMA0 cpu=cortex-a72 ;;
	esac
	if [ "$1" = "$kvm" ]; then
		qemu+=(-accel kvm -smp 2) cpu=host
	else
		qemu+=(-smp 1 -icount shift=1,sleep=off)
	fi
	qemu+=(-cpu $cpu -m $memory -display none -monitor none -serial stdio -no-reboot -nic none)
}

# image SUITE ARCHITECTURE prints the name of the kernel.
image() {
	local dir=$cache/kernel-$1-$2
	find "$dir/boot" "$dir"/usr/lib/modules/*/ -maxdepth 1 -name 'vmlinu[xz]*' 2>/dev/null | head -n 1
}

# probe_kvm SUITE ARCHITECTURE sets kvm to the architecture if KVM can be used.
# There are machines with a /dev/kvm on which no kernel boots. The one booted here
# has no file system, which ends it at once.
kvm=
probe_kvm() {
	[ "$2" = "$(dpkg --print-architecture)" ] && [ -w /dev/kvm ] && [ -z "$kvm" ] || return 0
	kvm=$2
	machine "$2"
	{
		timeout -k 5 10 "${qemu[@]}" -kernel "$(image "$1" "$2")" -append "console=$console panic=-1" </dev/null
	} >"$work/kvm.log" 2>&1 || true
	grep -q 'Linux version' "$work/kvm.log" || { kvm=no; step "KVM does not boot it: emulating"; }
}

# users ARCHITECTURE PACKAGE prints who runs its tests.
users() {
	if [ -z "$once" ]; then
		echo root nobody
	elif [[ " ${native[*]} " = *" $2 "* ]]; then
		if [ "$1" = amd64 ]; then echo root; else echo nobody; fi
	elif [ "$1" = amd64 ]; then
		if [[ " ${privileged[*]} " = *" $2 "* ]]; then echo root; else echo nobody; fi
	fi
}

# make_initramfs SUITE ARCHITECTURE
make_initramfs() {
	local root=$work/root
	rm -rf "$root"
	mkdir "$root"
	cp -a "$cache/userland-$2/." "$root/"
	cp -a "$work/tests-$2" "$root/tests"
	add_modules "$cache/kernel-$1-$2" "$root"
	mkdir -p "$root"/{proc,sys,dev,tmp,run,etc}
	echo "run_limit=$run_limit" >"$root/tests/limits"
	cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
	cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
	echo 'tcpdump:x:100:65534::/:/usr/sbin/nologin' >>"$root/etc/passwd"
	echo '127.0.0.1 localhost' >"$root/etc/hosts"
	echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
	: >"$root/etc/resolv.conf" # which a command's names are mounted over
	ln -sf dash "$root/bin/sh"
	install -m 755 "$here/init.sh" "$root/init"
	(cd "$root" && find . -print0 | cpio --null --quiet -o -H newc --owner 0:0) >"$work/$1-$2.cpio"
	rm -rf "$root"
}

# boot SUITE ARCHITECTURE becomes a machine. The console's output goes to a file.
# The kernel's watchdogs would report how busy the host is.
boot() {
	machine "$2"
	ulimit -t "$machine_limit"
	exec timeout -k 5 $((4 * machine_limit)) "${qemu[@]}" -kernel "$(image "$1" "$2")" -initrd "$work/$1-$2.cpio" \
		-append "console=$console rdinit=/init panic=-1 oops=panic nowatchdog rcupdate.rcu_cpu_stall_suppress=1 quiet loglevel=3" </dev/null >"$work/$1-$2.log" 2>&1
}

# report SUITE ARCHITECTURE prints what a machine said, and fails if anything in
# it did. Of a failed package only the failed tests are shown.
report() {
	local log=$work/$1-$2.log
	sed -i 's/\r//g' "$log"
	awk -v arch="$2" -v verbose="$verbose" '
		function show() {
			for (i = 1; i <= n; i++) print "    " held[i]
		}
		/@kernel/ { kernel = $2 }
		/@run/ {
			printf "%-24s %-6s %-18s %-7s %-5s %4d passed %3d skipped %3d failed %4ds\n",
				kernel, arch, $2, $3, $4, $5, $6, $7, $8
			bad = bad || $4 != "ok"
			n = 0
		}
		/@skip/ && verbose { sub(/.*@skip/, "   "); print }
		/@fail/ { sub(/.*@fail/, "  FAIL:"); print; bad = 1 }
		/@log/ { # a line of the output of a failed package
			sub(/.*@log /, "")
			if (/=== RUN   [^\/]*$/) n = fails = 0
			if (/--- FAIL: / && !fails) { fails = 1; show(); n = 0 }
			if (/^[^ ]* [^ ]* (panic|fatal error|SIG|testenv)/) { fails = 1; show(); n = 0 }
			if (/=== (RUN|PAUSE|CONT)|--- PASS/) next
			if (fails) print "    " $0
			else held[++n] = $0
		}
		/@end/ { end = 1 }
		END { exit bad || !end }
	' "$log" && return
	cp "$log" "$cache/failed-$1-$2.log"
	grep -q '@end' "$log" || {
		echo "  the machine did not come to its end; the last lines of its console:"
		tail -n 40 "$log" | sed 's/^/    /'
	}
	echo "  FAIL: $1/$2, its console is in $cache/failed-$1-$2.log"
	return 1
}

for arch in amd64 arm64; do
	[[ " $* " == *"/$arch "* ]] || continue
	step "programs and tests for $arch"
	get_userland $arch
	build $arch
done
for kernel; do
	step "kernel $kernel"
	get_kernel "${kernel%/*}" "${kernel#*/}"
	probe_kvm "${kernel%/*}" "${kernel#*/}"
done
exec 9>&-
failed=
while [ $# -gt 0 ]; do
	pair=("${@:1:2}")
	shift ${#pair[@]}
	for kernel in "${pair[@]}"; do
		make_initramfs "${kernel%/*}" "${kernel#*/}"
	done
	step "booting ${pair[*]}"
	for kernel in "${pair[@]}"; do
		boot "${kernel%/*}" "${kernel#*/}" &
	done
	wait
	rm -f "$work"/*.cpio
	for kernel in "${pair[@]}"; do
		report "${kernel%/*}" "${kernel#*/}" || failed+=" $kernel"
	done
done
[ -z "$failed" ] || die "failed:$failed"
step "passed"
