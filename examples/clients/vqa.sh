#!/usr/bin/env bash
# Asks a served model about an image with curl; prints the reply as JSON.
#
#   examples/clients/vqa.sh IMAGE QUESTION [URL]
set -euo pipefail

curl --silent --show-error --fail-with-body \
    -H "Authorization: Bearer ${LEAML_API_KEYS:-none}" \
    -F "file=@$1" --form-string "question=$2" \
    "${3:-http://127.0.0.1:8000}/v1/vqa"
