# lib.sh: what ./check and ./demo share. Sourced by bash, from the top of the tree.

# as_root COMMAND…
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "needs root, and there is no sudo. As root, run: $*" >&2
        return 1
    fi
}

# need_packages KIND…: install what is missing of scripts/packages, and say so before.
need_packages() {
    local kind package wanted=() missing=()
    for kind in "$@"; do
        mapfile -t -O "${#wanted[@]}" wanted < <(awk -v kind="$kind" '$1 == kind { print $2 }' scripts/packages)
    done
    for package in "${wanted[@]}"; do
        case $(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true) in
            ?i*) ;;
            *) missing+=("$package") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing with apt-get: ${missing[*]}"
    as_root apt-get -q update </dev/null
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q install -y --no-install-recommends "${missing[@]}" </dev/null
}

# configured DIR OPTION…: a build directory with these options. One that had others, or was left
# half made, is made anew.
configured() {
    local dir=$1
    shift
    if [ -f "$dir/build.ninja" ] && [ "$(cat "$dir/.options" 2>/dev/null)" = "$*" ]; then return 0; fi
    rm -rf "$dir"
    meson setup "$dir" "$@"
    echo "$*" >"$dir/.options"
}

# release_built: build/ as a user makes it. One that exists is kept with the options it has.
release_built() {
    [ -f build/build.ninja ] || { rm -rf build && meson setup build; }
    ninja -C build
}

# c_sources: every C file of the tree.
c_sources() {
    find base batch storage proto net client client-sqlite servers testing tools bench tests examples -name '*.[ch]' | sort
}
