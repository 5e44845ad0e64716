#!/bin/sh
# Make what deploy/gcp.yaml names in a Google Cloud project: a bucket, a registry for the image, a network into which SSH alone comes, and
# the service accounts of the head and of workers.
#   deploy/gcp/roles.sh PROJECT BUCKET [CIDR]      # CIDR: who may use SSH, by default everybody who has the key
# Run it as an owner of the project. What is there already is an error of the command that would make it, and is passed over.
set -eu

[ $# -ge 2 ] || { sed -n '2,5p' "$0" >&2; exit 2; }
project=$1 bucket=$2 cidr=${3:-0.0.0.0/0} region=us-central1
here=$(dirname "$0")
domain=$project.iam.gserviceaccount.com

run() {
    gcloud --project "$project" --quiet "$@"
}

run services enable artifactregistry.googleapis.com compute.googleapis.com iam.googleapis.com cloudresourcemanager.googleapis.com
run storage buckets create "gs://$bucket" --location "$region" --uniform-bucket-level-access --public-access-prevention || true
run artifacts repositories create orchestrate --repository-format docker --location "$region" || true

run compute networks create orchestrate --subnet-mode custom || true
run compute networks subnets create orchestrate --network orchestrate --region "$region" --range 10.80.0.0/20 \
    --enable-private-ip-google-access || true
run compute firewall-rules create orchestrate-ssh --network orchestrate --allow tcp:22 --source-ranges "$cidr" || true
run compute firewall-rules create orchestrate-inside --network orchestrate --allow tcp --source-ranges 10.80.0.0/20 || true

run iam roles create orchestrateHead --project "$project" --file "$here/head-role.yaml" || true
for name in orchestrate-head orchestrate-worker; do
    run iam service-accounts create "$name" || true
    run storage buckets add-iam-policy-binding "gs://$bucket" --member "serviceAccount:$name@$domain" --role roles/storage.objectUser
    run artifacts repositories add-iam-policy-binding orchestrate --location "$region" --member "serviceAccount:$name@$domain" \
        --role roles/artifactregistry.reader
done
run projects add-iam-policy-binding "$project" --member "serviceAccount:orchestrate-head@$domain" \
    --role "projects/$project/roles/orchestrateHead" --condition None
# The head starts workers that run as this account, and as no other.
run iam service-accounts add-iam-policy-binding "orchestrate-worker@$domain" --member "serviceAccount:orchestrate-head@$domain" \
    --role roles/iam.serviceAccountUser
