#!/usr/bin/env bash
# The step of action.yml: installs smg-proto, compares, and reports the findings to the job.
# Reads OLD, NEW, LEVEL, ARGUMENTS, ACCEPT, SARIF, VERSION and BASE.
set -euo pipefail
work=${RUNNER_TEMP:-$(mktemp -d)}/smg-proto
if [ ! -x "$work/bin/smg-proto" ]; then
    python3 -m venv "$work"
    "$work/bin/pip" install --quiet --disable-pip-version-check "$VERSION" "buf-bin>=1.66"
fi
if [ -z "$OLD" ]; then
    if ! [[ $BASE =~ ^[0-9a-f]{7,64}$ ]] || [ -z "${BASE//0/}" ]; then
        echo "::error::smg-proto diff: no base to compare with; set the input old" >&2
        exit 2
    fi
    git cat-file -e "$BASE^{commit}" 2>/dev/null || git fetch --quiet --depth=1 origin "$BASE"
    OLD="git:$BASE"
fi
words=("$OLD" "$NEW" --level "$LEVEL")
[ -z "$ACCEPT" ] || words+=(--accept "$ACCEPT")
while IFS= read -r word; do
    [ -z "$word" ] || words+=("$word")
done <<<"$ARGUMENTS"

report=$work/report.md
status=0
"$work/bin/smg-proto" diff "${words[@]}" --format github || status=$?
if [ "$status" -gt 1 ]; then
    exit "$status"
fi
"$work/bin/smg-proto" diff "${words[@]}" --format markdown >"$report" || [ "$?" = 1 ]
[ -z "$SARIF" ] || "$work/bin/smg-proto" diff "${words[@]}" --format sarif >"$SARIF" || [ "$?" = 1 ]
{
    printf 'report=%s\n' "$report"
    printf 'verdict=%s\n' "$(sed -n '1s/^\*\*\([a-z]*\)\*\*.*/\1/p' "$report")"
} >>"${GITHUB_OUTPUT:-/dev/null}"
cat "$report" >>"${GITHUB_STEP_SUMMARY:-/dev/null}"
exit "$status"
