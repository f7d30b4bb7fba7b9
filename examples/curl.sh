#!/bin/sh
# A session with curl: upload, follow, list, download and delete a file.
# Usage: examples/curl.sh FILE [http://localhost:5000]
# Where a key is required, set FERRYMAN_KEY.
set -eu
file=$1
service=${2:-http://localhost:5000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

ask() {  # curl that shows refusals, and sends the key if there is one, where `ps` does not show it
    printf 'header = "Authorization: Bearer %s"\n' "${FERRYMAN_KEY:-none}" \
        | curl --silent --show-error --fail-with-body --config - "$@"
}

field() {  # a field of a JSON answer on standard input
    python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}

# The Idempotency-Key makes this safe to repeat: the same key and file never become two objects.
key=$(python3 -c 'import secrets; print(secrets.token_hex(16))')
id=$(ask -H "Idempotency-Key: $key" -F "file=@$file" "$service/async_upload" | field id)
echo "accepted as $id"

# The answer to `Prefer: wait` comes when the status changes.
status=PENDING
while [ "$status" = PENDING ] || [ "$status" = PROCESSING ]; do
    status=$(ask -H 'Prefer: wait=20' "$service/files/$id" | field upload_status)
done
echo "status $status"

ask "$service/files?limit=1" > "$work/newest.json"
ask --location --output "$work/copy" "$service/files/$id/content"
cmp "$file" "$work/copy" && echo "downloaded the same bytes"

ask --request DELETE "$service/files/$id"
echo "deleted"
