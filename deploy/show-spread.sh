#!/bin/sh
# What each replica of each stage has done so far, from the replica's own metrics page.
# Usage: deploy/show-spread.sh, in the folder of compose.yaml while the pipeline runs.
set -eu

show() { # service, counter, unit
    for container in $(docker compose ps -q "$1"); do
        count=$(docker exec "$container" python -c "
from urllib.request import urlopen
page = urlopen('http://127.0.0.1:9100/metrics').read().decode()
print(int(sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(('$2 ', '$2{')))))")
        printf '%-28s %8s %s\n' "$(docker inspect -f '{{slice .Name 1}}' "$container")" "$count" "$3"
    done
}

show gateway millrace_gateway_attempts_total requests
show tokenizer millrace_tokenizer_requests_total requests
show gpu-worker millrace_worker_requests_total requests
show detokenizer millrace_detokenizer_tokens_total tokens
