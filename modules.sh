#!/bin/bash
# Maintains the modules of this repository, which go.work joins for development.
# RELEASING.md describes releases.
#
#	./modules.sh tidy             go mod tidy in each module, with the others as they are here
#	./modules.sh api              fail if a change breaks users of the last release and is not announced
#	./modules.sh release VERSION  make the commit and the tags of a release, in this checkout
#	./modules.sh check            release this tree on trial, and use the release
set -euo pipefail
cd "$(dirname "$0")"

path=github.com/vdestack/vdestack
released=(. autoconf metrics slirp vdens wireguard) # each after those that it requires
unreleased=(bench/gvisor bench/wireguard recipes)
apidiff=golang.org/x/exp/cmd/apidiff@v0.0.0-20261113113407-e3970619a1a4

die() { echo "modules.sh: $*" >&2; exit 1; }
say() { printf -- '-- %s (%ds)\n' "$*" $SECONDS; }

# quiet runs a command, and shows its output if it fails.
quiet() {
	local output
	output=$("$@" 2>&1) || { echo "$output" >&2; return 1; }
}

# module DIRECTORY prints the path of a module, tag DIRECTORY VERSION the name of a tag.
module() { if [ "$1" = . ]; then echo $path; else echo "$path/$1"; fi; }
tag() { if [ "$1" = . ]; then echo "$2"; else echo "$1/$2"; fi; }

# required DIRECTORY prints "DIRECTORY VERSION" for each module of the repository that the
# module in DIRECTORY requires.
required() {
	local dir
	for dir in "${released[@]}"; do
		awk -v dir="$dir" -v module="$(module "$dir")" \
			'$1 == "require" { $1 = ""; $0 = $0 } $1 == module { print dir, $2 }' "$1/go.mod"
	done
}

# scratch makes the directory $work, and removes it when the script ends.
scratch() {
	work=$(mktemp -d /tmp/vdestack-modules.XXXXXX)
	trap 'rm -rf "$work"' EXIT
}

# tidy works on copies of go.mod with replace lines, because go mod tidy ignores go.work.
# It keeps the sums of siblings, which belong to their last release.
tidy() {
	local dir sibling
	scratch
	for dir in "${released[@]}" "${unreleased[@]}"; do
		cp "$dir"/go.{mod,sum} "$work"
		while read -r sibling _; do
			go mod edit -replace="$(module "$sibling")=$PWD/$sibling" "$work/go.mod"
		done < <(required "$dir")
		GOWORK=off go -C "$dir" mod tidy -modfile="$work/go.mod"
		while read -r sibling _; do
			go mod edit -dropreplace="$(module "$sibling")" "$work/go.mod"
			grep "^$(module "$sibling") " "$dir/go.sum" >>"$work/go.sum" || true
		done < <(required "$dir")
		LC_ALL=C sort -u -o "$work/go.sum" "$work/go.sum"
		cp "$work"/go.{mod,sum} "$dir"
	done
}

# publish DIRECTORY VERSION adds a tag of the repository $work/src to the module proxy
# $work/proxy. The go command makes it from the tag, as a public proxy does.
publish() {
	(
		cd "$work"
		export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.file://$work/src.insteadOf" GIT_CONFIG_VALUE_0="https://$path"
		GOWORK=off GOPROXY=direct GONOSUMDB=$path GOFLAGS=-modcacherw GOMODCACHE=$work/proxy \
			quiet go mod download "$(module "$1")@$2"
	)
}

# proxies prints the proxy of this repository's modules, and that of all others.
proxies() { echo "file://$work/proxy/cache/download,file://$(go env GOMODCACHE)/cache/download"; }

# release makes the commit in a clone, where it is tagged and published module by
# module: a go.sum has the sums of the siblings.
release() {
	local version=$1 dir sibling old
	[[ $version =~ ^v[01]\.[0-9]+\.[0-9]+(-[0-9a-z.]+)?$ ]] || die "version $version: want v0.MINOR.PATCH or v1.MINOR.PATCH"
	[ -z "$(git status --porcelain)" ] || die "there are changes that are not committed"
	grep -qx '## Unreleased' CHANGELOG.md || die "CHANGELOG.md has no part \"## Unreleased\""
	for dir in "${released[@]}"; do
		! git rev-parse -q --verify "refs/tags/$(tag "$dir" "$version")" >/dev/null ||
			die "the tag $(tag "$dir" "$version") is there already (a version is released once)"
	done
	scratch
	git clone -q . "$work/src"
	(
		cd "$work/src"
		export GIT_AUTHOR_NAME=release GIT_AUTHOR_EMAIL=release GIT_COMMITTER_NAME=release GIT_COMMITTER_EMAIL=release
		sed -i "s/^## Unreleased\$/&\n\n## $version/" CHANGELOG.md
		for dir in "${released[@]}" "${unreleased[@]}"; do
			while read -r sibling old; do
				go mod edit -require="$(module "$sibling")@$version" "$dir/go.mod"
				sed -i "s|\($(module "$sibling")\) $old => |\1 $version => |" go.work
			done < <(required "$dir")
		done
		git commit -qam release
		for dir in "${released[@]}"; do
			GOWORK=off GOPROXY=$(proxies),$(go env GOPROXY) GONOSUMDB=$path GOFLAGS=-modcacherw GOMODCACHE=$work/cache \
				quiet go -C "$dir" mod tidy
			git commit -qa --amend --no-edit
			git tag "$(tag "$dir" "$version")"
			publish "$dir" "$version"
		done
	)
	git fetch -q "$work/src" HEAD
	git checkout -q FETCH_HEAD -- .
	git commit -q -m "release $version"
	for dir in "${released[@]}"; do
		git tag -m "$(module "$dir") $version" "$(tag "$dir" "$version")"
		echo "$(tag "$dir" "$version")"
	done
}

# api compares the exported names of this tree with those of the last release. Each change
# that breaks programs must be in CHANGELOG.md: in an entry of "## Unreleased" that is marked
# "(breaking)" and has the name.
api() {
	local last entries change name unnamed=
	if ! last=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null); then
		echo "there is no release to compare exported names with"
		return
	fi
	mkdir "$work/last"
	git archive "$last" | tar -x -C "$work/last"
	exported "$work/last" "$work/last.api"
	exported . "$work/this.api"
	if ! go run $apidiff -m -incompatible "$work/last.api" "$work/this.api" >"$work/breaks" 2>"$work/log"; then
		cat "$work/log" >&2
		die "the exported names cannot be compared with $last"
	fi
	[[ $last = v0.* || ! -s $work/breaks ]] || die "this breaks users of $last: $(<"$work/breaks")"
	entries=$(awk '/^## / { here = $0 == "## Unreleased" } /^(- |#|$)/ { marked = here && /\(breaking\)/ } marked' CHANGELOG.md)
	while read -r change; do # "- ./rtnl.Conn.Links: removed"
		name=${change%%: *}
		name=${name%%,*}
		grep -qwF -e "${name##*[./]}" <<<"$entries" || unnamed+=$'\n'$change
	done <"$work/breaks"
	[ -z "$unnamed" ] ||
		die "this breaks users of $last, and CHANGELOG.md has no entry \"(breaking)\" with the name:$unnamed"
	echo "the exported names are those of $last, or their changes are announced"
}

# exported DIRECTORY FILE writes what all modules of a tree export.
exported() { (cd "$1" && GOFLAGS="$(go env GOFLAGS) -trimpath" quiet go run $apidiff -m -w "$2" $path); }

# broken breaks the trial release in $work/src: api fails until that is announced.
broken() {
	local log=$work/log-broken
	git clone -q . "$work/broken"
	cd "$work/broken"
	sed -i 's/^func Open(/func Opened(/' vdestacktest/vdestacktest.go
	! ./modules.sh api &>"$log" && grep -qx -e '- ./vdestacktest.Open: removed' "$log" ||
		{ cat "$log"; die "a name that is gone was not found"; }
	sed -i 's/^## Unreleased$/&\n\n- *changed* (breaking): `vdestacktest.Open` is `Opened`./' CHANGELOG.md
	quiet ./modules.sh api
}

# check uses a release of this tree as users do: each module is required by a module
# elsewhere, installed by version, and vetted outside the workspace, with the oldest Go
# that it asks for and a module cache that is empty at first. The modules are used at the
# same time, as each waits for downloads and links.
check() {
	local version=v0.99.0 dir
	scratch
	say "exported names"
	api
	mkdir "$work/src"
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$work/src"
	cd "$work/src"
	git init -q
	git config user.name check
	git config user.email check
	git add .
	git commit -q -m "the tree"
	say "go mod tidy"
	./modules.sh tidy
	git diff --exit-code || die "go.mod and go.sum are not tidy (./modules.sh tidy)"
	say "a release"
	./modules.sh release $version >/dev/null
	GOPROXY=off go list -deps ./... ./autoconf/... ./metrics/... ./slirp/... ./vdens/... ./wireguard/... >/dev/null || die "go.work does not join what was released"
	for dir in "${released[@]}"; do
		publish "$dir" $version
	done
	local jobs=() failed=0
	for dir in "${released[@]}"; do
		use "$dir" $version &>"$work/log-${dir##*/}" &
		jobs+=($!)
	done
	for dir in "${released[@]}"; do
		wait "${jobs[0]}" || failed=1
		jobs=("${jobs[@]:1}")
		cat "$work/log-${dir##*/}"
	done
	[ $failed = 0 ] || die "a module of the release cannot be used"
	say "a break of the release"
	broken
}

# use DIRECTORY VERSION is the part of check for one module.
use() {
	local version=$2 module go asked needed user=$work/user-${1##*/}
	module=$(module "$1")
	asked=$(awk '$1 == "go" { print $2 }' "$1/go.mod")
	say "$module, with go$asked"
	if ! go=$(GOTOOLCHAIN=go$asked go env GOROOT); then
		go=$(go env GOROOT)
		echo "go$asked is not available, this is $("$go/bin/go" env GOVERSION)"
	fi
	(
		GOPROXY=$(proxies)
		PATH=$go/bin:$PATH
		# With -trimpath the build cache serves every module cache.
		export GOPROXY GOMODCACHE=$work/modules GONOSUMDB=$path GOTOOLCHAIN=local GOWORK=off
		export GOFLAGS="-modcacherw -trimpath -mod=mod"

		mkdir "$user"
		# With the sums of other modules the checksum database is not needed.
		grep -v "^$path" "$1/go.sum" >"$user/go.sum"
		cd "$user"
		quiet go mod init example.org/user
		quiet go get "$module@$version"
		case $module in
		*/vdens) # a program
			quiet go build -o user "$module"
			# Not in a pipe: grep ends at the first match, and vdens by SIGPIPE then.
			grep -q '^slirp://' <<<"$(./user --list)" || die "vdens has no slirp://"
			;;
		*/slirp)
			user_program "_ \"$module\"" 'vdeplug.Open("slirp://", nil)'
			;;
		*/autoconf)
			user_program "\"$module\"" 'vdeplug.Open(autoconf.Config{VNL: "null://"}.VNL, nil)'
			;;
		*/metrics)
			user_program "_ \"$module\"" 'vdeplug.Open("null://", nil)'
			;;
		*/wireguard)
			user_program "\"$module\"" 'vdeplug.Open(wireguard.Config{Name: "null://"}.Name, nil)'
			;;
		*)
			user_program "\"$module\"" 'vdestack.Open("mem://", "10.0.0.1/24")'
			! grep gvisor go.mod || die "$module requires gVisor"
			;;
		esac
		! grep "$path" go.mod | grep -vF " $version" || die "the user does not require the release"

		case $module in
		*/vdens | */slirp | */wireguard)
			[ "${module##*/}" != slirp ] || module+=/slirp_plug
			[ "${module##*/}" != wireguard ] || module+=/wgrun
			GONOSUMDB='*' GOBIN=$user quiet go install "$module@$version"
			[ -x "$user/${module##*/}" ] || die "$module was not installed"
			;;
		esac

		cd "$work/src/$1"
		export GOFLAGS="$GOFLAGS -mod=readonly"
		quiet go vet ./...
		needed=$(go list -deps -test -f '{{with .Module}}{{if not .Main}}{{.GoVersion}}{{end}}{{end}}' ./... |
			sort -V | tail -n 1)
		[ "$asked" = "$needed" ] || die "$1/go.mod asks for go $asked, its requirements for $needed"
	)
	say "$module is done"
}

# user_program IMPORT OPEN builds a program that imports a package and opens something.
user_program() {
	cat >main.go <<-END
		package main

		import (
			"fmt"

			"$path/vdeplug"
			$1
		)

		func main() {
			fmt.Println(vdeplug.Schemes())
			thing, err := $2
			if err == nil {
				thing.Close()
			}
		}
	END
	quiet go vet .
	quiet go build -o user .
	quiet ./user
}

case ${1-} in
tidy) tidy ;;
api)
	scratch
	api
	;;
release) release "${2-}" ;;
check) check ;;
*) die "want tidy, api, release VERSION or check" ;;
esac
