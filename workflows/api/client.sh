#!/bin/sh
# Sends one of these workflows to a running ComfyUI, waits for it, and downloads what it makes. Needs curl and jq.
#
#   sh workflows/api/client.sh hyvideo_demo_t2v "a blue square growing on a black background"
#   sh workflows/api/client.sh hyvideo_i2v "She waves both arms." photo.png
#
# COMFYUI_URL is ComfyUI's address, http://127.0.0.1:8188 if it is not set. Results go to the current folder.
set -eu

if [ $# -lt 2 ]; then
    echo "usage: sh $0 WORKFLOW PROMPT [IMAGE]; workflows are the .json files beside it, without .json" >&2
    exit 2
fi
server=${COMFYUI_URL:-http://127.0.0.1:8188}
workflow=$(dirname "$0")/$1.json
prompt=$2
image=${3:-}

fail() {
    echo "$*" >&2
    exit 1
}

[ -f "$workflow" ] || fail "There is no $workflow."

# 1. Upload the image into ComfyUI's input folder. The answer is its name there.
name=
if [ -n "$image" ]; then
    [ -f "$image" ] || fail "There is no file $image."
    jq -e 'any(.[]; ._meta.title == "Image")' "$workflow" >/dev/null || fail "$1 has no node titled Image."
    stored=$(curl -sS --fail-with-body "$server/upload/image" -F "image=@\"$image\"") || fail "$stored"
    name=$(printf '%s' "$stored" | jq -r 'if .subfolder == "" then .name else "\(.subfolder)/\(.name)" end')
fi

# 2. Write prompt and image into the nodes of these titles. In hyvideo_demo_i2v other nodes draw the image.
# The job gets a UUID of ours, so that Ctrl-C cancels it from the first moment.
job=$(od -An -tx1 -N16 /dev/urandom | tr -d ' \n' | sed 's/\(.\{8\}\)\(.\{4\}\)\(.\{4\}\)\(.\{4\}\)/\1-\2-\3-\4-/')
filled=$(jq --arg prompt "$prompt" --arg name "$name" --arg job "$job" '{prompt_id: $job, prompt: map_values(
    if ._meta.title == "Prompt" then .inputs[if .inputs | has("text") then "text" else "prompt" end] = $prompt
    elif ._meta.title == "Image" and $name != "" then .class_type = "LoadImage" | .inputs = {image: $name}
    else . end)}' "$workflow")

# 3. Queue it. A refusal names the nodes and inputs.
trap 'curl -sS -X POST "$server/api/jobs/$job/cancel" >/dev/null; exit 130' INT TERM
answer=$(printf '%s' "$filled" | curl -sS "$server/prompt" -H "Content-Type: application/json" --data-binary @-) || exit 1
printf '%s' "$answer" | jq -e .prompt_id >/dev/null || fail "$(printf '%s' "$answer" | jq -r '.error.message,
    (.node_errors | to_entries[] | "node \(.key), \(.value.class_type): \(.value.errors[] | "\(.message): \(.details)")")')"

# 4. Wait. A job that is cancelled while it waits is gone; one that failed tells why.
while :; do
    status=$(curl -sS "$server/api/jobs/$job" | jq -r '.status // "cancelled while it waited"')
    case $status in
    pending | in_progress) sleep 1 ;;
    *) break ;;
    esac
done
[ "$status" = "cancelled while it waited" ] && fail "$status"
record=$(curl -sS "$server/history/$job" | jq --arg job "$job" '.[$job]')
[ "$status" = completed ] || fail "$(printf '%s' "$record" | jq -r '.status.messages[-1] as [$event, $data]
    | "\($data.node_type): \($data.exception_message // $event)"')"

# 5. Download every file that it has saved.
printf '%s' "$record" | jq -r '.outputs[][] | arrays[] | objects | select(.type == "output")
    | "filename=\(.filename | @uri)&subfolder=\(.subfolder | @uri)&type=output \(.filename)"' |
    while read -r query file; do
        file=$(basename "$file")
        curl -sS -f "$server/view?$query" -o "$file"
        echo "$file"
    done
