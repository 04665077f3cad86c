#!/bin/sh
# Replaces every container of the stages, one after the other, with what compose.yaml and the images say now, while
# requests run. The next one leaves only when the last successor is healthy; a stage of one replica gets its successor
# first. One that leaves with another status than 0 may have lost requests: it is replaced, and nothing more is stopped.
# Usage, in the folder of compose.yaml: deploy/rolling-restart.sh [SERVICE…]
set -eu

[ $# -gt 0 ] || set -- detokenizer gpu-worker tokenizer gateway # who is fed before who feeds
timeout_s=${ROLLING_TIMEOUT:-600}
failed=

replicas() { docker compose ps -q "$1"; }

bring_up() { # service, number of replicas; those that run are left alone
    docker compose up -d --no-deps --no-recreate --scale "$1=$2" "$1" >&2
    waited=0
    for container in $(replicas "$1"); do
        until [ "$(docker inspect -f '{{.State.Health.Status}}' "$container")" = healthy ]; do
            [ "$waited" -lt "$timeout_s" ] || { echo "$1 is not healthy after $timeout_s s: nothing more is stopped" >&2; exit 1; }
            sleep 1
            waited=$((waited + 1))
        done
    done
}

take_down() { # container: SIGTERM, and time to finish or hand back what it holds
    docker stop "$1" >/dev/null
    status=$(docker inspect -f '{{.State.ExitCode}}' "$1")
    name=$(docker inspect -f '{{slice .Name 1}}' "$1")
    docker rm "$1" >/dev/null
    echo "$name left with status $status"
    [ "$status" -eq 0 ] || failed=$name
}

go_on() { [ -z "$failed" ] || { echo "$failed did not leave in peace: nothing more is stopped" >&2; exit 1; }; }

for service in "$@"; do
    old=$(replicas "$service")
    count=$(echo "$old" | wc -w)
    [ "$count" -gt 0 ] || { echo "$service does not run" >&2; exit 1; }
    bring_up "$service" "$count" # nobody is stopped while another one is missing
    if [ "$count" -eq 1 ]; then
        bring_up "$service" 2
        take_down "$old"
        go_on
    else
        for container in $old; do
            take_down "$container"
            bring_up "$service" "$count"
            go_on
        done
    fi
done
