#!/bin/sh
# Gives each stage a password of its own for the broker, in the `.env` beside compose.yaml. What is there already stays,
# so it may run before every start. To change a password, delete its line, run this, and `docker compose up -d`.
set -eu
umask 077
cd "$(dirname "$0")/.."
touch .env
[ -z "$(tail -c 1 .env)" ] || echo >>.env

for stage in GATEWAY TOKENIZER WORKER DETOKENIZER; do
    name=NATS_${stage}_PASSWORD
    if ! grep -q "^$name=." .env; then
        # The broker's configuration takes a value that begins with a letter as text, whatever follows.
        printf '%s=p%s\n' "$name" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" >>.env
        echo "made $name"
    fi
done
chmod 600 .env
