#!/bin/sh
# Make the secrets of a deployment in a folder, by default deploy/secrets: deploy/secrets.sh [FOLDER]. What is there already stays.
set -eu
umask 077

folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
# The folder keeps others out. Its files are readable, because containers with other users mount them one by one.
chmod 700 "$folder"
cd "$folder"

random() {
    od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'
}

# Take what is to be in a file from standard input, unless the file is there.
keep() {
    if [ -e "$1" ]; then
        cat >/dev/null
    else
        cat >"$1.new"
        chmod 644 "$1.new"
        mv "$1.new" "$1"
    fi
}

random 32 | keep ray_token
random 24 | keep mlflow_password
random 32 | keep mlflow_secret_key
random 24 | keep postgres_password
random 10 | keep s3_key
random 24 | keep s3_secret

# The same once more, as those who use them read them.
keep mlflow_credentials <<END
[mlflow]
mlflow_tracking_username = admin
mlflow_tracking_password = $(cat mlflow_password)
END
keep aws_credentials <<END
[default]
aws_access_key_id = $(cat s3_key)
aws_secret_access_key = $(cat s3_secret)
END
keep s3.json <<END
{"identities": [{"name": "orchestrate", "credentials": [{"accessKey": "$(cat s3_key)", "secretKey": "$(cat s3_secret)"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
END
