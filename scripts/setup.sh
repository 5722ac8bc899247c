# Sourced by the other scripts: makes .venv and installs the package with the locked versions.
# Needs Python 3.11 or newer with pip; uses uv when it is on PATH. VENV=... names another folder than .venv.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/${VENV:-.venv}
lock=$root/scripts/constraints.txt
stamp=$venv/.installed

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Prints the path of a Python if it is one of 3.11 or newer and below LIMIT: interpreter COMMAND LIMIT.
# A shim can be on PATH without an interpreter behind it: ask, don't look.
interpreter() {
    "$1" -c "import sys; sys.exit(not (3, 11) <= sys.version_info < $2)" 2>/dev/null || return
    "$1" -c 'import sys; print(sys.executable)'
}

# Prints the Python to use: $PYTHON, or the default one where the project is tested on it, or the newest that is.
find_python() {
    local name limit
    for limit in "(3, 14)" "(4,)"; do
        for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
            interpreter "$name" "$limit" && return
        done
    done
    name=${PYTHON:-python3}
    die "Python 3.11 or newer is needed; $name is $("$name" --version 2>/dev/null || echo missing). PYTHON=... names another one."
}

# Prints the newest Python that the project is tested on, from PATH or pyenv. Fails if there is none.
find_newest_python() {
    local minor name
    for minor in 13 12 11; do
        for name in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor".*/bin/python3; do
            interpreter "$name" "(3, $((minor + 1)))" && return
        done
    done
    return 1
}

make_venv() {
    local python=$1
    say "Making ${venv##*/} with $("$python" --version)"
    rm -rf "$venv"
    if command -v uv >/dev/null; then
        uv venv --quiet --python "$python" "$venv"
    elif ! "$python" -m venv "$venv" >/dev/null 2>&1; then
        # Debian keeps ensurepip in a package of its own; the pip of $python can install into the environment too.
        rm -rf "$venv"
        "$python" -m venv --without-pip "$venv" || die "$python can't make a virtual environment"
    fi
}

# Installs packages, and shows how that goes where someone looks on.
pip_install() {
    local python quiet=--quiet
    [[ ! -t 2 ]] || quiet=
    if command -v uv >/dev/null; then
        uv pip install $quiet --python "$venv/bin/python" --constraints "$lock" "$@"
    elif "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        "$venv/bin/python" -m pip install $quiet --disable-pip-version-check --constraint "$lock" "$@"
    else
        python=$(find_python)
        "$python" -m pip --python "$venv/bin/python" install $quiet --disable-pip-version-check --constraint "$lock" "$@"
    fi || die "the packages could not be installed: is there a network? What is wrong stands above."
}

# setup [EXTRA...]: after it, .venv holds the package with at least these extras.
setup() {
    local python want have extra missing=
    # The path is part of it: a virtual environment doesn't survive being moved.
    want=$({ echo "$root"; cat "$root/pyproject.toml" "$lock"; } | cksum)
    have=$(head -n 1 "$stamp" 2>/dev/null || true)
    local extras=" $(tail -n +2 "$stamp" 2>/dev/null | tr '\n' ' ' || true)"
    for extra; do
        [[ $extras == *" $extra "* ]] || { missing+=" $extra"; extras+="$extra "; }
    done
    if ! "$venv/bin/python" -c '' 2>/dev/null; then
        python=$(find_python)
        make_venv "$python"
    elif [[ $have == "$want" && -z $missing ]]; then
        return
    fi
    local list; list=$(xargs <<<"$extras" | tr ' ' ',')
    local size=; [[ $extras != *" local "* ]] || size=" (with the local model: 0.4 GB to fetch, 0.7 GB on the disk; a minute or two, once)"
    say "Installing agentic-trio${list:+[$list]} with $(command -v uv >/dev/null && echo uv || echo pip)$size"
    rm -f "$stamp"
    # The build backend too has the locked version, which an isolated build would not give it.
    pip_install hatchling editables
    pip_install --no-build-isolation --editable "$root${list:+[$list]}"
    { echo "$want"; xargs -n 1 <<<"$extras"; } >"$stamp"
}
