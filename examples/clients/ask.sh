#!/usr/bin/env bash
# Ask the gateway about a picture with curl. Prints the reply, JSON; with a fourth word "stream",
# its events as they come. The picture goes by way of a file: a command line holds no megabytes.
#
#   ask.sh http://127.0.0.1:8400/v1 scene.png "What shape is the red object?" [stream]
set -euo pipefail
base_url=$1 picture=$2 question=$3 stream=false
[[ ${4:-} == stream ]] && stream=true

quoted() { # a text as JSON: backslashes, quotes and line ends escaped
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  printf '"%s"' "${text//$'\n'/\\n}"
}

body=$(mktemp)
trap 'rm -f "$body"' EXIT
{
  printf '{"model": "speceyes", "stream": %s, "messages": [{"role": "user", "content": [' "$stream"
  printf '{"type": "image_url", "image_url": {"url": "data:image/png;base64,'
  base64 <"$picture" | tr -d '\n'
  printf '"}}, {"type": "text", "text": %s}]}]}' "$(quoted "$question")"
} >"$body"
curl --silent --show-error --fail-with-body --no-buffer "$base_url/chat/completions" \
  --header 'content-type: application/json' --data-binary "@$body"
