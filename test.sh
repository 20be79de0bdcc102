#!/bin/bash
# Runs everything that a change must pass. With -quick it runs, for each commit, what
# takes less than a minute once it is built: format, vet and the tests that are short.
#
# As root on Debian it first installs the programs that tests talk to; elsewhere tests
# whose program is missing are skipped. VDESTACK_TEST_STRICT=1 makes a skipped test a
# failure.
#
# As root the tests run twice: as root, and as an ordinary user. No test touches
# the machine's network: each package runs in a network namespace of its own. Tests
# wait for the kernel and for each other for half of their time, so that more packages
# run at once than there are processors.
set -euo pipefail
cd "$(dirname "$0")"

packages=(vde2 vdeplug libvdeplug-agno libvdeplug-pcap libvdeplug-slirp libvdeplug-vdesl
	libvdeplug-vlan libvdestack-dev vdens iproute2 iputils-ping busybox
	netcat-openbsd tcpdump tshark wireshark-common curl wrk dnsmasq-base nftables gcc libc6-dev
	procps util-linux gdb strace radvd kea-dhcp4-server kea-dhcp6-server)
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
fuzztime=${FUZZTIME:-10000x} # not a time: at its end go test may fail for no reason
soaktime=${SOAKTIME:-60} # seconds

parallel=$((2 * $(nproc))) # packages at once
# What is compiled without paths serves another directory too: that of the ordinary user.
tests=(go test -trimpath -race -count=1 -timeout 10m)
# All namespaces share the kernel's table of neighbours, which this package fills.
alone=./internal/neigh

# list sets modules to patterns for the packages of every module that go.work names, and
# together to the packages whose tests can run at once.
list() {
	mapfile -t modules < <(go list -m -f "{{.Dir}}/...")
	mapfile -t together < <(go list "${modules[@]}" | grep -v "${alone#.}\$")
}

step() { printf '\n== %s (%ds)\n' "$*" $SECONDS; }

# check looks at the source of every module.
check() {
	unformatted=$(gofmt -l .)
	[ -z "$unformatted" ] || { echo "gofmt would change: $unformatted"; exit 1; }
	list
	go vet "${modules[@]}"
}

if [ "${1:-}" = -quick ]; then
	step "format, vet, short tests"
	check
	go test -short -p $parallel "${together[@]}"
	go test -short $alone
	step "passed"
	exit
fi

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	missing=()
	for p in "${packages[@]}"; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
	done
	if [ ${#missing[@]} -gt 0 ]; then
		step "installing ${missing[*]}"
		apt-get update -q >/dev/null
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
	fi
fi

step "format, vet, staticcheck"
check
go run $staticcheck "${modules[@]}"

step "other systems"
# Vet compiles everything. One system stands for those that are like unix. The libraries of
# the recipes take longer to compile than all else, and are not ours.
mapfile -t portable < <(printf '%s\n' "${modules[@]}" | grep -v '/recipes/')
for target in linux/arm64 linux/386 darwin/arm64 windows/amd64; do
	echo "$target"
	GOOS=${target%/*} GOARCH=${target#*/} go vet "${portable[@]}"
done

step "modules, as their users have them"
./modules.sh check

step "programs that tests start"
# Once for all tests, and for a user who may not be able to build them.
tmp=$(mktemp -d /tmp/vdestack-test.XXXXXX)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
chmod 755 "$tmp"
go build -o "$tmp/programs/" ./echo_example ./http_example ./vdens ./slirp/slirp_plug
chmod -R a+rX "$tmp/programs"
export VDESTACK_PROGRAMS=$tmp/programs

step "tests as $(id -un)"
"${tests[@]}" -p $parallel "${together[@]}"
"${tests[@]}" $alone

# Allocations cannot be counted with the race detector: these tests skip there.
step "allocations"
mapfile -t counting < <(grep -rlE '^func Test[A-Za-z0-9_]*Allocs\(' --include='*_test.go' . | xargs -n1 dirname | sort -u)
go test -count=1 -v -p $parallel -run 'Allocs$' "${counting[@]}" | awk -v strict="${VDESTACK_TEST_STRICT:-}" '
	/--- SKIP/ { skipped = 1 }
	!/=== / && !/--- PASS/ && !/^PASS/
	END { exit skipped && strict }'

# It watches itself; this is in case that fails.
soak=(timeout -k 10 $((soaktime + 120)))
soakflags=(-test.v -test.run TestSoak -duration "${soaktime}s")

if [ "$(id -u)" = 0 ]; then
	step "tests as an ordinary user"
	# A copy that this user can read, and a /dev/net/tun as distributions have
	# it, in a mount namespace of our own.
	mkdir -p "$tmp/src" "$tmp/dev"
	mkdir -m 1777 "$tmp/tmp"
	go test -trimpath -race -c -o "$tmp/programs/soak" ./internal/test/soak
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$tmp/src"
	cat >"$tmp/exec" <<-EOF
		#!/bin/sh
		bin=\$(mktemp $tmp/test.XXXXXX)
		cp "\$1" "\$bin"
		chmod 755 "\$bin"
		shift
		exec setpriv --reuid 65534 --regid 65534 --clear-groups \
			env HOME=$tmp/tmp TMPDIR=$tmp/tmp "\$bin" "\$@"
	EOF
	chmod -R a+rX "$tmp/src" "$tmp/programs"
	chmod 755 "$tmp/exec"
	as_user() {
		unshare --mount sh -euc "
			if [ -e /dev/net/tun ]; then
				mount -t tmpfs -o dev,mode=755 tmpfs $tmp/dev
				mknod -m 666 $tmp/dev/tun c 10 200
				mount --bind $tmp/dev/tun /dev/net/tun
			fi
			cd $tmp/src
			exec $*"
	}
	as_user "${tests[@]}" -p $parallel -exec $tmp/exec "${together[@]}"
	as_user "${tests[@]}" -exec $tmp/exec $alone

	step "soak as root, and beside it as an ordinary user, $soaktime s"
	"${soak[@]}" "$tmp/programs/soak" "${soakflags[@]}" &
	as_user "${soak[@]}" $tmp/exec $tmp/programs/soak "${soakflags[@]}"
	wait $!
else
	step "soak, $soaktime s"
	"${soak[@]}" go test -race -count=1 ./internal/test/soak "${soakflags[@]}"
fi

step "the benchmark, quick"
# Only that it works is looked at, never its figures.
go run ./bench -quick -out bench/out/quick ${VDESTACK_TEST_STRICT:+-strict} >/dev/null

step "fuzzing, $fuzztime each"
fuzz=$(mktemp -d /tmp/vdestack-fuzz.XXXXXX)
for dir in $(grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do
	go -C "$dir" test -c -fuzz . -o "$fuzz/test" .
	for f in $(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | cut -c6- | sort -u); do
		echo "$dir $f"
		(cd "$dir" && "$fuzz/test" -test.run '^$' -test.fuzz "^$f\$" -test.fuzztime "$fuzztime" -test.fuzzcachedir "$fuzz/cache/$dir") >"$fuzz/log" 2>&1 ||
			{ cat "$fuzz/log"; rm -rf "$fuzz"; exit 1; }
	done
done
rm -rf "$fuzz"

step "passed"
