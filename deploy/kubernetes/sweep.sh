#!/bin/sh
# Run the grid in components/sweep/grid.yaml as a RayJob, show what it says, and exit as it does: deploy/kubernetes/sweep.sh cpu|gpu
# 0: all is well; 1, 2, 3: what the sweep itself exits with; 4: it never came to that.
set -eu

case ${1-} in
    cpu | gpu) overlay=$(dirname "$0")/overlays/sweep-$1 ;;
    *) sed -n '2,3p' "$0" >&2; exit 2 ;;
esac

ask() {
    kubectl --namespace orchestrate get rayjob sweep --output "jsonpath={.status.$1}"
}

# A job is not begun again by being applied again.
kubectl --namespace orchestrate delete rayjob sweep --ignore-not-found
kubectl apply --kustomize "$overlay"

echo "waiting for the sweep; what it says: kubectl --namespace orchestrate logs --follow --selector app.kubernetes.io/name=submitter" >&2
missed=0
while :; do
    if state=$(ask jobDeploymentStatus); then missed=0; else missed=$((missed + 1)); fi
    case $state in
        Complete | Failed | ValidationFailed) break ;;
    esac
    # Somebody has deleted the job, or nobody answers any more.
    [ "$missed" -lt 30 ] || exit 4
    sleep "${SWEEP_POLL_SECONDS:-10}"
done

message=$(ask message)
[ -z "$message" ] || printf '%s\n' "$message" >&2
[ "$(ask jobStatus)" != SUCCEEDED ] || exit 0
code=$(printf '%s' "$message" | sed -n 's/.*failed with exit code \([0-9][0-9]*\).*/\1/p' | head -n 1)
exit "${code:-4}"
