#!/bin/sh
# Make a venv hold exactly what a file of pinned requirements names: install_venv.sh VENV REQUIREMENTS [PROJECT]
# PROJECT is installed into it as an editable package (its console scripts appear in VENV/bin).
# Always Debian's Python: what an operator's pyenv or conda puts first in PATH is not asked.
# Prints "changed" or "unchanged"; a stamp beside the packages says what is complete, so that a run
# that was cut short starts over and one with nothing to do costs nothing.
set -eu
umask 022
export PIP_CACHE_DIR=/var/cache/kumo/pip
venv=$1 requirements=$2 project=${3:-}
python=/usr/bin/python3
stamp="$venv/.kumo-requirements" project_stamp="$venv/.kumo-project"
said=unchanged

# Files that the requirements include (-r) count, too: they lie beside them.
included=$(sed -n "s|^-r *|$(dirname "$requirements")/|p" "$requirements")
# shellcheck disable=SC2086 # names of files, separated by lines
wanted=$({ $python --version; cat "$requirements" $included | grep -v '^ *#'; } | sha256sum | cut -d ' ' -f 1)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    rm -f "$stamp" "$project_stamp"
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$venv"
        $python -m venv "$venv"
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
        --requirement "$requirements" >&2
    "$venv/bin/python" -m pip check >&2
    echo "$wanted" >"$stamp"
    said=changed
fi

if [ -n "$project" ]; then
    wanted=$(cat "$project/setup.cfg" "$project/pyproject.toml" | sha256sum | cut -d ' ' -f 1)
    if [ "$(cat "$project_stamp" 2>/dev/null)" != "$wanted" ]; then
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
            --no-build-isolation --editable "$project" >&2
        echo "$wanted" >"$project_stamp"
        said=changed
    fi
fi
echo $said
