#!/bin/sh
echo "Hello from process $$ of user $(id -u)"
for argument; do
    echo "argument: $argument"
done
