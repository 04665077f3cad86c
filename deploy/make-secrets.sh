#!/bin/sh
# Gives each stage a password of its own for the broker. compose.yaml runs it before anything else, over one volume per
# stage, so that no stage sees another's. What is there already stays.
#   make-secrets.sh FOLDER     FOLDER/{gateway,tokenizer,worker,detokenizer}/password, and FOLDER/broker/passwords.env
set -eu
umask 077
folder=$1
owner=10001 # the user of every container

mkdir -p "$folder/broker"
: >"$folder/broker/passwords.new"
for stage in gateway tokenizer worker detokenizer; do
    mkdir -p "$folder/$stage"
    file=$folder/$stage/password
    if [ ! -s "$file" ]; then
        # The broker's configuration takes a value that begins with a letter as text, whatever follows.
        printf 'p%s\n' "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" >"$file"
        echo "made a password for $stage"
    fi
    name=NATS_$(echo "$stage" | tr '[:lower:]' '[:upper:]')_PASSWORD
    echo "$name=$(cat "$file")" >>"$folder/broker/passwords.new"
done
mv "$folder/broker/passwords.new" "$folder/broker/passwords.env"
if [ "$(id -u)" = 0 ]; then
    chown -R "$owner:$owner" "$folder"/*
fi
