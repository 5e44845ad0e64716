#!/bin/sh
# Make what deploy/aws.yaml names in an AWS account: a bucket, a registry for the image, and the roles of the head and of workers.
#   deploy/aws/roles.sh ACCOUNT BUCKET
# Run it with an administrator's credentials. What is there already is an error of the command that would make it, and is passed over.
set -eu

[ $# -eq 2 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
account=$1 bucket=$2 region=us-west-2
here=$(dirname "$0")
filled=$(mktemp -d)
trap 'rm -rf "$filled"' EXIT

for name in head-policy worker-policy; do
    sed -e "s/ACCOUNT/$account/g" -e "s/BUCKET/$bucket/g" "$here/$name.json" >"$filled/$name.json"
done

aws s3api create-bucket --bucket "$bucket" --region "$region" --create-bucket-configuration "LocationConstraint=$region" || true
aws s3api put-public-access-block --bucket "$bucket" \
    --public-access-block-configuration BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true
aws ecr create-repository --repository-name orchestrate --region "$region" || true
# Spot instances want it once in an account.
aws iam create-service-linked-role --aws-service-name spot.amazonaws.com || true

for role in orchestrate-head orchestrate-worker; do
    aws iam create-role --role-name "$role" --assume-role-policy-document "file://$here/trust.json" || true
    aws iam put-role-policy --role-name "$role" --policy-name worker --policy-document "file://$filled/worker-policy.json"
    aws iam create-instance-profile --instance-profile-name "$role" || true
    aws iam add-role-to-instance-profile --instance-profile-name "$role" --role-name "$role" || true
done
aws iam put-role-policy --role-name orchestrate-head --policy-name head --policy-document "file://$filled/head-policy.json"
